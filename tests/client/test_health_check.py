"""`health_check_interval`: no connection is silent for longer, and one that has gone is noticed by itself.
`connection_age_s_max`: none is older.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.fake_server import HANG_UP, SILENCE, FakeServer, bulk
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
        await client.execute_command("SPUBLISH", "news", b"\xff%d" % number)
        await asyncio.sleep(0.02)
    await eventually(lambda: received == [b"\xff%d" % number for number in range(20)])
    assert not client.stats().errors
    await subscription.aclose()


async def test_an_old_connection_is_made_anew_and_costs_no_call(
    server: FakeServer, make_client: MakeClient
) -> None:
    client = make_client(server.port, connection_age_s_max=2.0)
    await client.initialize()
    made, ends_s = server.connections_made, time.monotonic() + 20

    async def call() -> None:
        while server.connections_made < made + 2 and time.monotonic() < ends_s:
            assert await client.get("key") == b"v"
            await asyncio.sleep(0.001)

    await asyncio.gather(*(call() for _ in range(20)))
    assert server.connections_made == made + 2
    stats = client.stats()
    assert not stats.errors
    assert stats.retries == 0
    assert sum(node.connections_lost for node in stats.nodes) == 0
    await eventually(lambda: lanes(client) == 1)


@pytest.mark.parametrize("lanes", [1, 2])
async def test_an_old_connection_serves_until_a_new_one_is_there(
    server: FakeServer, make_client: MakeClient, lanes: int
) -> None:
    """A server may take no new connection at the moment, or be long about it."""
    client = make_client(server.port, connection_age_s_max=2.0, lanes=2)
    await client.initialize()
    node = client._need_router().nodes.owners[0]
    assert node is not None
    if lanes == 2:
        node.dialer.open_lane_soon()
        await eventually(lambda: len(node.lanes) == 2)
    made, waits = server.connections_made, node.waits
    answers = {b"HELLO": HANG_UP, b"GET": bulk("v")}
    server.answer = lambda request: answers.get(request[0])
    while server.connections_made < made + 3:  # each of them refused
        assert await client.get("key") == b"v"
        await asyncio.sleep(0.001)
    assert client.stats().nodes[0].dial_failures >= 2
    del answers[b"HELLO"]
    old = set(node.lanes)
    await eventually(lambda: bool(node.lanes) and not old & set(node.lanes))
    assert node.waits == waits, "nobody had to wait"
    assert client.stats().retries == 0


def test_too_short_a_life_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 is needed"):
        RedisCluster(host="127.0.0.1", connection_age_s_max=0.1)
