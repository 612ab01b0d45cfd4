"""What every test gets: a check that it left nothing behind, and real clusters.

    cluster        one for the whole session: use keys of your own, and break nothing
    clean_cluster  the same one, emptied before the test
    own_cluster    one of its own, two seconds to start, that the test may break

Servers are heavy and the machine may be small, so the tests run in one process; `pytest -n` works, each
worker process then starts its own session cluster.

`TRADEWIND_TEST_SERVER=/usr/bin/redis-server` makes the clusters of another server than the bundled one.
"""

import asyncio
import gc
import inspect
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests import leaks
from tradewind.embedded import EmbeddedCluster
from tradewind.embedded.survey import Admin

SERVER = os.environ.get("TRADEWIND_TEST_SERVER")  # None: the bundled one


def pytest_configure() -> None:
    # A run in the background of a shell ignores SIGINT, and so would the programs that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_pycollect_makeitem(name: str, obj: Any) -> None:
    if name.startswith("test") and inspect.iscoroutinefunction(obj):
        pytest.mark.usefixtures("no_leaked_tasks")(obj)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a socket or a child process open. Opt out: `@pytest.mark.may_leak("why")`."""
    before = leaks.snapshot()
    yield
    if request.node.get_closest_marker("may_leak"):
        return
    left = leaks.leaks_since(before)
    if left:
        gc.collect()  # a transport that was closed in the last loop turn frees its socket late
        left = leaks.leaks_since(before)
    assert not left, "; ".join(left)


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fail a test that leaves an asyncio task running."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)  # a task that was cancelled last ends in its next turn
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks left running: {sorted(map(repr, left))}"


@pytest.fixture(scope="session")
def cluster() -> Iterator[EmbeddedCluster]:
    """Started outside any test's event loop; usable under each."""
    shared = EmbeddedCluster(server=SERVER)
    asyncio.run(shared.start())
    yield shared
    asyncio.run(shared.stop())


@pytest.fixture
async def clean_cluster(cluster: EmbeddedCluster) -> EmbeddedCluster:
    for port, role in (await cluster.roles()).items():
        if role == "primary":
            async with Admin(port) as admin:
                await admin.ask("FLUSHALL")
                await admin.ask("FUNCTION", "FLUSH")
    return cluster


@pytest.fixture
async def own_cluster() -> AsyncIterator[EmbeddedCluster]:
    async with EmbeddedCluster(server=SERVER) as cluster:
        yield cluster
