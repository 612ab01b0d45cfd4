"""Blocking clients, closed at the end of each test, and a server whose own loop is not running meanwhile."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.server import Server
from tradewind.threads import Redis, RedisCluster
from tradewind.threads.background import background

MakeBlocking = Callable[..., Any]


@pytest.fixture(scope="session", autouse=True)
def loop_is_running() -> None:
    """Before a test counts the sockets that are open."""
    background()


@pytest.fixture
def server() -> Iterator[Server]:
    with asyncio.Runner() as runner:
        running = Server()
        runner.run(running.__aenter__())
        yield running
        runner.run(running.__aexit__(None, None, None))


@pytest.fixture
def make_blocking() -> Iterator[MakeBlocking]:
    """`make_blocking(RedisCluster, port, **options)`: closed, and idle, at the end."""
    clients: list[Redis | RedisCluster] = []

    def make(kind: type[Any], port: int, **options: Any) -> Any:
        clients.append(kind(host="127.0.0.1", port=port, **options))
        return clients[-1]

    yield make
    for client in clients:
        stats = client.stats()
        assert (stats.in_flight, stats.waiting) == (0, 0)
        client.close()
        assert not client.stats().nodes


@pytest.fixture
def port(cluster: EmbeddedCluster) -> int:
    """Of a node of the session's cluster, emptied."""
    with RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port) as client:
        client.flushall(target_nodes=RedisCluster.PRIMARIES)
    return cluster.nodes[0].port
