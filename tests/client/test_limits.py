"""Any number of callers over few connections: waiting in order, deadlines, and what the errors say."""

import asyncio
import contextlib
import time

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle, keys_of_each_shard, tally
from tests.support.proxy import ProxiedCluster
from tests.support.waiting import eventually
from tradewind import (
    DeadlineExceeded,
    NodeUnavailable,
    OutcomeUnknown,
    Overloaded,
    RedisCluster,
    SharedConnectionError,
)
from tradewind.client.command import Command
from tradewind.embedded.survey import Admin


async def test_who_waited_for_a_connection_that_came_too_late_is_not_told_that_there_was_no_room(
    cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(cluster.nodes[0].port)
    begun_s = time.monotonic()
    await client.initialize()
    (node, *_) = [node for node in client._router.nodes if node.lanes]
    for created_s, kind in ((begun_s, NodeUnavailable), (time.monotonic(), Overloaded)):
        future = asyncio.get_running_loop().create_future()
        command = Command("GET", b"", future, 0, True, created_s, created_s + 0.1)
        assert type(node.deadlines.waited_too_long(command)) is kind


async def _clients_named(cluster: EmbeddedCluster, name: str) -> dict[int, int]:
    """Connections that call themselves so, by the server's own count."""
    counts = {}
    for node in cluster.nodes:
        async with Admin(node.port) as admin:
            clients = await admin.ask("CLIENT", "LIST")
            counts[node.port] = clients.count(f" name={name} ")
    return counts


async def test_ten_thousand_callers_share_four_connections(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(
        clean_cluster.nodes[0].port, max_connections=4, client_name="crowd", decode_responses=True
    )

    async def caller(number: int) -> bool:
        await client.set(f"crowd:{number}", number)
        return await client.get(f"crowd:{number}") == str(number)

    callers = asyncio.gather(*(caller(number) for number in range(10_000)))
    most = 0
    while not callers.done():
        most = max(most, *(await _clients_named(clean_cluster, "crowd")).values())
    assert all(await callers)
    assert 1 <= most <= 4
    stats = client.stats()
    assert stats.waits > 0, "nobody had to wait: the test offers too little"
    assert all(node.connections <= 4 for node in stats.nodes)
    assert not stats.errors


async def test_at_the_limit_callers_wait_in_arrival_order(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port, in_flight_max=1, decode_responses=True)
    order: list[int] = []

    async def caller(number: int) -> None:
        await client.rpush("fifo", number)
        order.append(number)

    await asyncio.gather(*(caller(number) for number in range(500)))
    assert order == list(range(500))
    assert await client.lrange("fifo", 0, -1) == [str(number) for number in range(500)]


async def test_who_waits_until_the_deadline_is_told_the_numbers(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(
            network.port, address_remap=network.address_remap, in_flight_max=10, socket_timeout=0.3
        )
        await client.set("held", 1)
        for proxy in network.proxies.values():
            proxy.silent_down = True
        results = await asyncio.gather(*(client.set("held", 1) for _ in range(50)), return_exceptions=True)
        assert tally(results) == {"OutcomeUnknown": 10, "Overloaded": 40}
        assert [type(result) for result in results] == [OutcomeUnknown] * 10 + [Overloaded] * 40
        assert "10 of at most 10 commands" in str(results[-1])
        assert "nothing was sent" in str(results[-1])
        with pytest.raises(Overloaded):
            await client.get("held")
        network.heal()
        await eventually(lambda: _works(client))
        await check_idle(client)


async def _works(client: RedisCluster) -> bool:
    with contextlib.suppress(Exception):
        return bool(await client.set("held", 1))
    return False


async def test_bytes_in_flight_are_limited_too(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port, in_flight_bytes_max=100_000)
    most = 0

    async def caller() -> None:
        nonlocal most
        await client.set("{big}a", b"x" * 50_000)
        most = max(most, *(node.in_flight_bytes for node in client.stats().nodes))

    await asyncio.gather(*(caller() for _ in range(200)))
    assert most < 200_000
    assert client.stats().waits > 0


async def test_a_deadline_is_kept_and_says_whether_it_was_sent(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap, socket_timeout=0.2)
        await asyncio.gather(
            *(client.get(key) for key in keys_of_each_shard(await client.initialize()).values())
        )
        for proxy in network.proxies.values():
            proxy.silent_down = True
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="GET was sent and not answered"):
            await client.get("late")
        with pytest.raises(
            OutcomeUnknown, match=r"INCRBY was sent and not answered .*: it may have run, once"
        ):
            await client.incr("late")
        with pytest.raises(DeadlineExceeded):
            await client.with_options(idempotent=True).set("late", 1)
        assert 0.6 <= time.monotonic() - begun < 1.2
        with pytest.raises(OutcomeUnknown):
            await client.with_options(timeout_s=0.05).incr("late")
        network.heal()


async def test_a_storm_of_one_millisecond_timeouts_leaves_nothing(client: RedisCluster) -> None:
    await client.set("storm", 1)

    async def caller() -> str:
        try:
            async with asyncio.timeout(0.001):
                await client.get("storm")
        except TimeoutError:
            return "gave up"
        return "answered"

    results = await asyncio.gather(*(caller() for _ in range(10_000)))
    assert "gave up" in results
    await check_idle(client)
    assert sum(node.connections_lost for node in client.stats().nodes) == 0


async def test_callers_that_give_up_on_a_dead_node_do_not_pile_up(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap)
        await client
        for proxy in network.proxies.values():
            proxy.refuse = True
        for _ in range(20):
            callers = [asyncio.create_task(client.get("dead")) for _ in range(100)]
            await asyncio.sleep(0.01)
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
        await eventually(lambda: client.stats().waiting == 0, timeout_s=1.0)
        network.heal()


async def test_a_stalled_loop_takes_no_reply_away(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port, socket_timeout=0.2, decode_responses=True)
    keys = keys_of_each_shard(await client.initialize())
    await asyncio.gather(*(client.set(key, "x" * 1000) for key in keys.values()))
    durable = client.durable()
    await durable.set("{stall}", 1)
    calls = [client.get(key) for _ in range(1000) for key in keys.values()]
    calls += [client.incr(f"{{stall}}{n}") for n in range(10)]
    calls += [durable.incr(f"{{stall}}{n + 10}") for n in range(10)]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0.001)  # all are sent
    time.sleep(1.0)  # noqa: ASYNC251  # the stall that the test is about
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert tally(results) == {"answered": len(calls)}
    assert sum(node.connections_lost for node in client.stats().nodes) == 0


async def test_one_connection_is_enough_for_what_does_not_block(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port, max_connections=1)
    assert all(await asyncio.gather(*(client.set(f"one:{n}", n) for n in range(1000))))
    for call in (client.blpop(["one:list"], 0), client.durable().set("one:a", 1)):
        with pytest.raises(SharedConnectionError, match="max_connections=1"):
            await asyncio.wait_for(call, 1.0)
    subscription = await client.sharded_subscription(lambda _channel, _data: None)
    with pytest.raises(SharedConnectionError, match="max_connections=1"):
        await subscription.subscribe(["c"])


async def test_a_cancellation_costs_no_reconnect_and_swaps_no_reply(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        for proxy in network.proxies.values():
            proxy.delay_s = 0.001
            proxy.chunk_bytes = 501
        client = make_client(network.port, address_remap=network.address_remap, decode_responses=True)
        await client.mset_nonatomic({f"c:{number}": number for number in range(100)})
        connections = network.connections_made
        wrong = cancelled = 0

        async def caller(number: int) -> None:
            nonlocal wrong, cancelled
            for turn in range(20):
                task = asyncio.create_task(client.get(f"c:{number}"))
                if (number * 7 + turn) % 10 < 3:
                    await asyncio.sleep((number + turn) % 4 / 1000)
                    task.cancel()
                try:
                    wrong += await task != str(number)
                except asyncio.CancelledError:
                    cancelled += 1

        await asyncio.gather(*(caller(number) for number in range(100) for _ in range(5)))
        assert cancelled > 1000
        assert wrong == 0
        assert network.connections_made - connections <= 3  # a second lane where the first was slow
        assert sum(node.connections_lost for node in client.stats().nodes) == 0
        await check_idle(client)


async def test_messages_without_replies_shift_nobodys_reply(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    """Also when the right to leave replies out is taken away in the middle."""
    owner = make_client(clean_cluster.nodes[0].port)
    await owner.execute_command(
        "ACL SETUSER", "mute", "on", ">pw", "+@all", "~*", "&*", target_nodes=RedisCluster.ALL_NODES
    )
    try:
        heard: list[bytes] = []
        subscription = await owner.sharded_subscription(lambda _channel, data: heard.append(data))
        await subscription.subscribe(["{m}news"])
        client = make_client(
            clean_cluster.nodes[0].port, username="mute", password="pw", decode_responses=True, lanes=1
        )
        values = {f"{{m}}{number}": str(number) for number in range(50)}
        await client.mset(values)

        async def caller(key: str) -> str | None:
            client.send_unanswered("SPUBLISH", "{m}news", b"x")
            return await client.get(key)

        wrong = 0
        for turn in range(200):
            if turn == 100:
                await owner.execute_command(
                    "ACL SETUSER", "mute", "-client|reply", target_nodes=RedisCluster.ALL_NODES
                )
            wrong += await asyncio.gather(*(caller(key) for key in values)) != list(values.values())
        assert wrong == 0
        assert len(heard) > 5000 - 50
        await eventually(lambda: len(heard) >= 9000)
    finally:
        await owner.execute_command("ACL DELUSER", "mute", target_nodes=RedisCluster.ALL_NODES)
