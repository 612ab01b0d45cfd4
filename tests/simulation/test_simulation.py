"""The client in thousands of random worlds, each made by a seed: a scripted cluster, no sockets, no waiting.

A world that fails prints its seed, the command that runs it again, and what happened in it.
"""

import pytest

from tests.simulation.world import run_seed

SEEDS_SHORT = 300
SEEDS_LONG = 10_000
SEEDS_A_TEST = 100


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Some seeds a test, so that they can be spread over processes and a failure stops only its block."""
    if "seeds" in metafunc.fixturenames:
        only = metafunc.config.getoption("--seed", default=None)
        is_long = any(mark.name == "soak" for mark in metafunc.definition.iter_markers())
        first, end = (SEEDS_SHORT, SEEDS_LONG) if is_long else (0, SEEDS_SHORT)
        blocks = [range(seed, min(seed + SEEDS_A_TEST, end)) for seed in range(first, end, SEEDS_A_TEST)]
        if only is not None:
            blocks = [range(only, only + 1)]
        metafunc.parametrize(
            "seeds",
            [
                pytest.param(block, id=f"--seed {only}" if only is not None else f"from {block.start}")
                for block in blocks
            ],
        )


def test_the_client_keeps_its_promises(seeds: range) -> None:
    for seed in seeds:
        run_seed(seed)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_client_keeps_its_promises_in_many_worlds(seeds: range) -> None:
    for seed in seeds:
        run_seed(seed)


def test_a_seed_makes_the_same_world_again() -> None:
    traces = [[run_seed(seed).ledger.trace(lines_max=10**6) for seed in range(5)] for _ in range(2)]
    assert traces[0] == traces[1]
