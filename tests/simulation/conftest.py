"""`pytest tests/simulation --seed N` runs this one world again, and nothing else."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="run this one world of the simulation again")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--seed") is not None:
        wanted = [item for item in items if "[--seed" in item.name]
        config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
        items[:] = wanted
