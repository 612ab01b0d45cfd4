"""`pytest tests/simulation --seed N` runs one world, and nothing else of the random ones."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="run this one seed of the simulation")
