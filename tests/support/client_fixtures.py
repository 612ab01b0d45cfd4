"""A client for each test, closed at its end, and then holding nothing."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.clients import check_idle
from tradewind import RedisCluster

MakeClient = Callable[..., RedisCluster]


@pytest.fixture
async def make_client() -> AsyncIterator[MakeClient]:
    """`make_client(port, **options)`; every client is closed, and checked to be idle, at the end."""
    clients: list[RedisCluster] = []

    def make(port: int, **options: Any) -> RedisCluster:
        options.setdefault("host", "127.0.0.1")
        clients.append(RedisCluster(port=port, **options))
        return clients[-1]

    yield make
    for client in clients:
        if client._router is not None:
            await check_idle(client)
        await client.aclose()
        assert not client.stats().nodes


@pytest.fixture
async def client(make_client: MakeClient, clean_cluster: EmbeddedCluster) -> RedisCluster:
    return make_client(clean_cluster.nodes[0].port, decode_responses=True)
