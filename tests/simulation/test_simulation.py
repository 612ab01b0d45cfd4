"""The client in thousands of random worlds, each made by a seed: a scripted cluster, no sockets, no waiting.

A world that fails prints its seed, the command that runs it again, and what happened in it.
"""

import pytest

from tests.simulation.world import run_seed

SEEDS_SHORT = 400
SEEDS_LONG = 20_000
SEEDS_A_TEST = 100


def blocks(first: int, end: int) -> list[pytest.param]:
    """Some seeds a test, so that they can be spread over processes and a failure stops only its block."""
    return [
        pytest.param(range(seed, min(seed + SEEDS_A_TEST, end)), id=f"{seed}-")
        for seed in range(first, end, SEEDS_A_TEST)
    ]


def run(seeds: range, config: pytest.Config) -> None:
    only = config.getoption("--seed", default=None)
    for seed in seeds:
        if only is None or seed == only:
            run_seed(seed)


@pytest.mark.parametrize("seeds", blocks(0, SEEDS_SHORT))
def test_the_client_keeps_its_promises(seeds: range, pytestconfig: pytest.Config) -> None:
    run(seeds, pytestconfig)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seeds", blocks(SEEDS_SHORT, SEEDS_LONG))
def test_the_client_keeps_its_promises_in_many_worlds(seeds: range, pytestconfig: pytest.Config) -> None:
    run(seeds, pytestconfig)
