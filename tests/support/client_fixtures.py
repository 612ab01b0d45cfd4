"""A client for each test, closed at its end, and then holding nothing.

`TRADEWIND_TEST_LOOP=uvloop` runs the tests on uvloop.
"""

import asyncio
import gc
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.clients import check_idle
from tests.support.server import Server
from tradewind import Redis, RedisCluster

MakeClient = Callable[..., RedisCluster]
MakeRedis = Callable[..., Redis]

DEBIAN = shutil.which("redis-server", path="/usr/bin")
NEEDS_DEBIAN = pytest.mark.skipif(DEBIAN is None, reason="no redis-server of Debian's on this machine")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if os.environ.get("TRADEWIND_TEST_LOOP") == "uvloop":
        import uvloop

        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(autouse=True)
def no_complaints(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test after which asyncio complains: an error that nobody saw, a callback that failed."""
    yield
    records = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    found = [record.getMessage() for record in records if record.levelno >= logging.ERROR]
    assert not found, found


@pytest.fixture
async def make_client() -> AsyncIterator[MakeClient]:
    """`make_client(port, **options)`; every client is closed, and checked to be idle, at the end."""
    clients: list[RedisCluster] = []

    def make(port: int, **options: Any) -> RedisCluster:
        options.setdefault("host", "127.0.0.1")
        clients.append(RedisCluster(port=port, **options))
        return clients[-1]

    yield make
    await _close(clients)


@pytest.fixture
async def make_redis() -> AsyncIterator[MakeRedis]:
    """The same for single servers: `make_redis(port, **options)`."""
    clients: list[Redis] = []

    def make(port: int, **options: Any) -> Redis:
        clients.append(Redis(host="127.0.0.1", port=port, **options))
        return clients[-1]

    yield make
    await _close(clients)


async def _close(clients: list[Any]) -> None:
    for client in clients:
        if client._router is not None:
            await check_idle(client)
        await client.aclose()
        assert not client.stats().nodes
    clients.clear()
    gc.collect()  # so that an error that nobody looked at is complained of now


@pytest.fixture
async def client(make_client: MakeClient, clean_cluster: EmbeddedCluster) -> RedisCluster:
    return make_client(clean_cluster.nodes[0].port, decode_responses=True)


@pytest.fixture(params=["bundled", pytest.param("debian", marks=NEEDS_DEBIAN)])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """A single server of the test's own: the bundled one, then Debian's."""
    binary = Path(DEBIAN) if request.param == "debian" and DEBIAN else None
    async with Server(binary=binary) as running:
        yield running


@pytest.fixture
async def bundled() -> AsyncIterator[Server]:
    """The bundled one only."""
    async with Server() as running:
        yield running
