"""`health_check_interval`: no connection is silent for longer, and one that has gone is noticed by itself."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.fake_server import SILENCE, FakeServer, bulk
from tests.support.proxy import ProxiedCluster
from tests.support.waiting import eventually
from tradewind import RedisCluster


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer(lambda request: bulk("v") if request[0] == b"GET" else None) as server:
        yield server


def lanes(client: RedisCluster) -> int:
    return sum(node.lanes for node in client.stats().nodes)


async def test_an_idle_connection_says_something_now_and_then(
    server: FakeServer, make_client: MakeClient
) -> None:
    client = make_client(server.port, health_check_interval=0.1)
    await client.initialize()
    await eventually(lambda: server.count(b"PING") >= 3)
    assert lanes(client) == 1
    assert not client.stats().errors
    assert client.stats().commands == 0


async def test_without_an_interval_nothing_is_sent(server: FakeServer, make_client: MakeClient) -> None:
    client = make_client(server.port)
    await client.initialize()
    await asyncio.sleep(0.3)
    assert server.count(b"PING") == 0


async def test_an_error_is_an_answer(server: FakeServer, make_client: MakeClient) -> None:
    server.answer = lambda request: b"-MISCONF no disk\r\n" if request[0] == b"PING" else None
    client = make_client(server.port, health_check_interval=0.1)
    await client.initialize()
    await eventually(lambda: server.count(b"PING") >= 3)
    assert lanes(client) == 1
    assert not client.stats().errors


async def test_a_connection_that_was_cut_in_silence_is_given_up_by_itself(
    server: FakeServer, make_client: MakeClient
) -> None:
    """So that the next caller does not find out."""
    client = make_client(server.port, health_check_interval=0.2, socket_timeout=0.5)
    assert await client.get("key") == b"v"
    server.answer = lambda request: SILENCE if request[0] == b"PING" else None
    await eventually(lambda: sum(node.connections_lost for node in client.stats().nodes) > 0)
    server.answer = lambda request: bulk("w") if request[0] == b"GET" else None
    assert await client.get("key") == b"w"


async def test_a_load_balancer_that_drops_idle_connections_costs_no_call(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    """It forgets the connection, and answers nothing that comes over it later."""
    network = ProxiedCluster([node.port for node in clean_cluster.nodes])
    async with network:
        client = make_client(
            network.port, health_check_interval=0.2, socket_timeout=1.0, address_remap=network.address_remap
        )
        await asyncio.gather(*(client.incr(f"key:{number}") for number in range(30)))
        before = lanes(client)
        for proxy in network.proxies.values():
            proxy.mute_open_ones()
        await eventually(lambda: sum(node.connections_lost for node in client.stats().nodes) >= before)
        assert await asyncio.gather(*(client.incr(f"key:{number}") for number in range(30))) == [2] * 30
        assert "OutcomeUnknown" not in client.stats().errors


async def test_a_subscription_is_kept_alive_as_well(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    received: list[bytes] = []
    client = make_client(
        clean_cluster.nodes[0].port, decode_responses=True, protocol=3, health_check_interval=0.1
    )
    subscription = await client.sharded_subscription(lambda _channel, data: received.append(data))
    await subscription.subscribe(["news"])
    for number in range(20):
        await client.spublish("news", b"\xff%d" % number)
        await asyncio.sleep(0.02)
    await eventually(lambda: received == [b"\xff%d" % number for number in range(20)])
    assert not client.stats().errors
    await subscription.aclose()
