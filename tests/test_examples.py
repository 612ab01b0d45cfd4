"""The programs in examples/ do what they say."""

from pathlib import Path

import pytest

from tests.programs import ROOT, output_of

EXAMPLES = ROOT / "examples"


def test_many_callers_share_a_handful_of_connections() -> None:
    output = output_of("examples/many_callers.py")
    assert "10,000 increments by as many callers in " in output
    assert "counted on the servers: 10,000\n" in output
    assert output.endswith(("connections per node: 1; errors: {}\n", "connections per node: 2; errors: {}\n"))


def test_the_same_order_again_gets_the_same_answer() -> None:
    assert output_of("examples/place_order.py").splitlines() == [
        "filled at 112130, position 3-3",
        "the same order again: the same answer",
        "another order under that id: rejected, duplicate_id",
    ]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_says_how_to_run_it(path: Path) -> None:
    assert f"    python examples/{path.name}\n" in path.read_text(encoding="utf-8")
