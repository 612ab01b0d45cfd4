"""redis-py's pub/sub under our limits: channels, patterns, shard channels, notifications, what happens to
connections, and that nobody else is slowed.
"""

import asyncio
import gc
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio.cluster
import redis.event
from redis.crc import key_slot
from redis.event import AsyncEventListenerInterface, EventDispatcher
from redis.exceptions import DataError, RedisClusterException

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.waiting import eventually
from tradewind import ClientClosed, Overloaded, RedisCluster, SharedConnectionError

if TYPE_CHECKING:
    from tradewind.client.pubsub import ClusterPubSub

pytestmark = pytest.mark.skipif(
    not hasattr(redis.asyncio.cluster, "ClusterPubSub"), reason="redis-py 7 has no pub/sub for a cluster"
)
SHARD_CHANNELS = [f"shard:{number}" for number in range(12)]  # on all three nodes


def _dedicated(client: RedisCluster) -> int:
    return sum(node.dedicated for node in client.stats().nodes)


async def _next(pubsub: "ClusterPubSub", **options: Any) -> dict[str, Any]:
    """The next message; fails when none comes."""
    async with asyncio.timeout(10):
        while True:
            message: dict[str, Any] | None = await pubsub.get_message(timeout=1.0, **options)
            if message is not None:
                return message


async def _next_sharded(pubsub: "ClusterPubSub", kind: str = "smessage") -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            message = await pubsub.get_sharded_message(timeout=1.0)
            if message is not None and message["type"] == kind:
                return message


async def _numsub(client: RedisCluster, channel: str) -> int:
    counts = await client.pubsub_shardnumsub(channel, target_nodes="all")
    return sum(count for _, count in counts)


# -- channels and patterns -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
async def test_channels_and_patterns_arrive_as_from_redis_py(
    make_client: MakeClient, clean_cluster: EmbeddedCluster, protocol: int, decode: bool
) -> None:
    client = make_client(clean_cluster.nodes[0].port, protocol=protocol, decode_responses=decode)
    form = str if decode else str.encode
    async with client.pubsub() as pubsub:
        assert isinstance(pubsub, redis.asyncio.cluster.ClusterPubSub)
        await pubsub.subscribe("news")
        await pubsub.psubscribe("new*")
        assert await _next(pubsub) == {
            "type": "subscribe",
            "pattern": None,
            "channel": form("news"),
            "data": 1,
        }
        assert await _next(pubsub) == {
            "type": "psubscribe",
            "pattern": None,
            "channel": form("new*"),
            "data": 2,
        }
        await client.publish("news", "hello")
        by_channel = {"type": "message", "pattern": None, "channel": form("news"), "data": form("hello")}
        by_pattern = {**by_channel, "type": "pmessage", "pattern": form("new*")}
        assert await _next(pubsub) == by_channel
        assert await _next(pubsub) == by_pattern
        await pubsub.unsubscribe("news")
        await pubsub.punsubscribe()
        assert [(await _next(pubsub))["type"] for _ in range(2)] == ["unsubscribe", "punsubscribe"]
        assert not pubsub.subscribed
        assert _dedicated(client) == 1
    assert _dedicated(client) == 0


async def test_handlers_are_called_and_confirmations_may_be_left_out(client: RedisCluster) -> None:
    heard: list[Any] = []

    async def slowly(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        heard.append(("slowly", message["data"]))

    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(quick=lambda message: heard.append(("quick", message["data"])), slow=slowly)
        running = asyncio.create_task(pubsub.run(poll_timeout=0.05))
        await eventually(lambda: client.publish("quick", "1"))
        await client.publish("slow", "2")
        await eventually(lambda: len(heard) == 2)
        assert sorted(heard) == [("quick", "1"), ("slowly", "2")]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_listen_yields_until_nothing_is_subscribed(client: RedisCluster) -> None:
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("listened")
        kinds = []
        async for message in pubsub.listen():
            kinds.append(message["type"])
            if message["type"] == "subscribe":
                await client.publish("listened", "x")
            if message["type"] == "message":
                await pubsub.unsubscribe("listened")
        assert kinds == ["subscribe", "message", "unsubscribe"]


async def test_nothing_to_read_is_none_in_time(client: RedisCluster) -> None:
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("quiet")
        async with asyncio.timeout(5):
            assert await pubsub.get_message(timeout=0.01) is None
            assert await pubsub.get_message() is None


async def test_the_node_may_be_chosen_and_is_otherwise_the_first_channels(client: RedisCluster) -> None:
    await client.initialize()
    replica = client.get_replicas()[0]
    async with client.pubsub(node=replica) as one, client.pubsub(host=replica.host, port=replica.port) as two:
        for pubsub in (one, two):
            await pubsub.subscribe("chosen")
            assert pubsub.get_pubsub_node() == replica
            assert (pubsub.connection.host, pubsub.connection.port) == (replica.host, replica.port)
        stats = {node.name: node.dedicated for node in client.stats().nodes}
        assert stats[replica.name] == 2
    async with client.pubsub() as pubsub:
        assert pubsub.get_pubsub_node() is None
        await pubsub.subscribe("foo", "bar")
        assert pubsub.get_pubsub_node() == client.get_node_from_key("foo")


async def test_a_node_that_is_not_of_the_cluster_is_refused(client: RedisCluster) -> None:
    await client.initialize()
    with pytest.raises(RedisClusterException, match="doesn't exist in the cluster"):
        client.pubsub(host="10.0.0.1", port=1)
    with pytest.raises(DataError, match="both host and port"):
        client.pubsub(port=1)


async def test_a_subscriber_opens_the_client_itself(
    make_client: MakeClient, cluster: EmbeddedCluster
) -> None:
    for subscribe in ("subscribe", "psubscribe", "ssubscribe"):
        client = make_client(cluster.nodes[0].port)
        async with client.pubsub() as pubsub:
            await getattr(pubsub, subscribe)("first")


async def test_a_lost_connection_is_made_again_and_subscribed_again(client: RedisCluster) -> None:
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("again")
        await pubsub.psubscribe("aga*")
        assert await pubsub.get_message(timeout=0.5) is None
        reading = asyncio.create_task(_next(pubsub))
        await client.execute_command("CLIENT KILL", "TYPE", "pubsub", target_nodes=pubsub.get_pubsub_node())
        await eventually(lambda: client.publish("again", "there", target_nodes=pubsub.get_pubsub_node()))
        assert (await reading)["data"] == "there"
        assert _dedicated(client) == 1


async def test_two_tasks_may_use_one_pubsub_while_its_connection_is_lost(client: RedisCluster) -> None:
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("one")
        heard: set[str] = set()

        async def read() -> None:
            while len(heard) < 2:
                heard.add((await _next(pubsub))["channel"])

        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        await client.execute_command("CLIENT KILL", "TYPE", "pubsub", target_nodes=pubsub.get_pubsub_node())
        await pubsub.subscribe("two")

        async def publish() -> bool:
            await client.publish("one", "x")
            await client.publish("two", "x")
            return reading.done()

        await eventually(publish)
        await reading


# -- limits --------------------------------------------------------------------------------------------------


async def test_subscribers_wait_in_line_and_are_then_told_while_commands_go_on(
    make_client: MakeClient, cluster: EmbeddedCluster
) -> None:
    client = make_client(cluster.nodes[0].port, max_connections=3, socket_timeout=0.3)
    first, second = client.pubsub(), client.pubsub()
    await first.subscribe("full")
    with pytest.raises(Overloaded, match="all 1 dedicated connections are taken"):
        await second.subscribe("full")
    assert await client.set("full", "1")
    waiting = asyncio.create_task(second.subscribe("full"))
    await eventually(lambda: client.stats().waiting == 1)
    await first.aclose()
    await waiting
    assert _dedicated(client) == 1
    await second.aclose()
    assert _dedicated(client) == 0


async def test_reads_are_as_quick_as_ever_when_all_dedicated_connections_are_taken(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port, max_connections=4, decode_responses=True)
    await client.set("{b}x", 1)

    async def p99_s() -> float:
        spans = []
        for _ in range(1000):
            begun_s = time.monotonic()
            assert await client.get("{b}x") == "1"
            spans.append(time.monotonic() - begun_s)
        return sorted(spans)[990]

    alone_s = await p99_s()
    async with client.pubsub(node=client.get_node_from_key("{b}x")) as pubsub:
        await pubsub.subscribe("b")
        callers = [asyncio.create_task(client.blpop([f"{{b}}{n}"], 0)) for n in range(20)]
        node = lambda: next(n for n in client.stats().nodes if n.dedicated)  # noqa: E731
        await eventually(lambda: (node().dedicated, node().waiting_dedicated) == (2, 19))
        assert await p99_s() < max(3 * alone_s, 0.02)  # the machine may be busy
        assert node().connections <= 4
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


async def test_a_cap_of_one_leaves_no_subscription(make_client: MakeClient, cluster: EmbeddedCluster) -> None:
    client = make_client(cluster.nodes[0].port, max_connections=1)
    async with client.pubsub() as pubsub:
        with pytest.raises(SharedConnectionError, match="max_connections=1"):
            await pubsub.subscribe("none")
        with pytest.raises(SharedConnectionError, match="max_connections=1"):
            await pubsub.ssubscribe("none")


async def test_a_forgotten_pubsub_gives_its_connections_back(client: RedisCluster) -> None:
    pubsub = client.pubsub()
    await pubsub.subscribe("forgotten")
    await pubsub.ssubscribe("forgotten")
    assert _dedicated(client) == 2
    del pubsub
    with pytest.warns(ResourceWarning, match="unclosed Connection"):
        gc.collect()
    await eventually(lambda: _dedicated(client) == 0)


@pytest.mark.parametrize("subscribe", ["subscribe", "ssubscribe"])
async def test_closing_the_client_ends_its_readers(client: RedisCluster, subscribe: str) -> None:
    async with client.pubsub() as pubsub:
        await getattr(pubsub, subscribe)("end")
        read = pubsub.get_message if subscribe == "subscribe" else pubsub.get_sharded_message
        assert (await read(timeout=5.0))["type"] == subscribe
        reading = asyncio.create_task(read(timeout=None))
        await asyncio.sleep(0.01)
        await client.aclose()
        with pytest.raises(ClientClosed):
            await reading


async def test_closing_a_pubsub_ends_its_readers(client: RedisCluster) -> None:
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    await pubsub.subscribe("end")
    await pubsub.ssubscribe("end")
    assert await pubsub.get_message(timeout=5.0) is None  # the confirmations
    assert await pubsub.get_sharded_message(timeout=5.0) is None
    reading = asyncio.create_task(pubsub.get_message(timeout=None))
    reading_shards = asyncio.create_task(pubsub.get_sharded_message(timeout=None))
    await asyncio.sleep(0.05)
    await pubsub.aclose()
    with pytest.raises(ClientClosed):
        await reading
    assert await reading_shards is None
    assert _dedicated(client) == 0
    await pubsub.subscribe("again")  # it can be used again
    await pubsub.aclose()


# -- shard channels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
async def test_shard_channels_of_all_nodes_arrive_in_one_stream(
    make_client: MakeClient, clean_cluster: EmbeddedCluster, protocol: int, decode: bool
) -> None:
    client = make_client(clean_cluster.nodes[0].port, protocol=protocol, decode_responses=decode)
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.ssubscribe(*SHARD_CHANNELS)
        assert _dedicated(client) == 3
        for number in range(5):
            for channel in SHARD_CHANNELS:
                assert await client.spublish(channel, number) == 1
        heard: dict[Any, list[Any]] = {}
        for _ in range(5 * len(SHARD_CHANNELS)):
            message = await _next_sharded(pubsub)
            heard.setdefault(message["channel"], []).append(message["data"])
        form = str if decode else str.encode
        assert heard == {form(channel): [form(str(n)) for n in range(5)] for channel in SHARD_CHANNELS}
        await pubsub.sunsubscribe()
        for _ in SHARD_CHANNELS:
            await _next_sharded_confirmation(pubsub)
    assert _dedicated(client) == 0


async def _next_sharded_confirmation(pubsub: "ClusterPubSub") -> None:
    before = len(pubsub.shard_channels)
    while len(pubsub.shard_channels) == before:
        assert await pubsub.get_sharded_message(timeout=1.0) is None


async def test_who_waits_for_one_node_hears_another_at_once(client: RedisCluster) -> None:
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.ssubscribe(*SHARD_CHANNELS)
        while await pubsub.get_sharded_message(timeout=0.05) is not None:
            pass
        for channel in SHARD_CHANNELS:
            reading = asyncio.create_task(pubsub.get_sharded_message(timeout=None))
            await asyncio.sleep(0)
            await client.spublish(channel, "x")
            message = await reading
            while message is None:  # a confirmation
                message = await pubsub.get_sharded_message(timeout=None)
            assert message["channel"] == channel


async def test_a_reader_that_is_cancelled_loses_nothing(client: RedisCluster) -> None:
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.ssubscribe(*SHARD_CHANNELS)
        heard: list[str] = []

        async def publish() -> None:
            for number in range(300):
                await client.spublish(SHARD_CHANNELS[number % 12], number)

        publishing = asyncio.create_task(publish())
        turn = 0
        while len(heard) < 300:
            turn += 1
            reading = asyncio.create_task(pubsub.get_sharded_message(timeout=5.0))
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            reading.cancel()
            try:
                message = await reading
            except asyncio.CancelledError:
                message = await pubsub.get_sharded_message(timeout=0.01)
            if message is not None:
                heard.append(message["data"])
        await publishing
        assert sorted(map(int, heard)) == list(range(300))


async def test_shard_handlers_are_called(client: RedisCluster) -> None:
    heard: list[Any] = []
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.ssubscribe(**dict.fromkeys(SHARD_CHANNELS, heard.append))
        for channel in SHARD_CHANNELS:
            await client.spublish(channel, "x")
        while len(heard) < len(SHARD_CHANNELS):
            assert await pubsub.get_sharded_message(timeout=1.0) is None
        assert {message["channel"] for message in heard} == set(SHARD_CHANNELS)


async def test_lost_connections_of_shard_channels_come_back_unseen(client: RedisCluster) -> None:
    async with client.pubsub() as pubsub:
        await pubsub.ssubscribe(*SHARD_CHANNELS)
        for _ in SHARD_CHANNELS:
            await _next_sharded(pubsub, "ssubscribe")
        for _ in range(3):
            await client.execute_command("CLIENT KILL", "TYPE", "pubsub", target_nodes="primaries")
            for _ in SHARD_CHANNELS:
                await _next_sharded(pubsub, "ssubscribe")
            for channel in SHARD_CHANNELS:
                assert await client.spublish(channel, "back") == 1
            heard = {(await _next_sharded(pubsub))["channel"] for _ in SHARD_CHANNELS}
            assert heard == set(SHARD_CHANNELS)
        assert _dedicated(client) == 3


# -- listeners, notifications, monitor -----------------------------------------------------------------------


class Listener(AsyncEventListenerInterface):
    def __init__(self) -> None:
        self.heard = 0

    async def listen(self, event: object) -> None:
        self.heard += 1


async def test_listeners_for_the_slots_cache_hear_of_every_map(
    make_client: MakeClient, cluster: EmbeddedCluster
) -> None:
    listener, dispatcher = Listener(), EventDispatcher()  # type: ignore[no-untyped-call]
    dispatcher.register_listeners({redis.event.AsyncAfterSlotsCacheRefreshEvent: [listener]})
    client = make_client(cluster.nodes[0].port, event_dispatcher=dispatcher)
    await client.initialize()
    await eventually(lambda: listener.heard == 1)
    client._need_router().refresh_soon()
    await eventually(lambda: listener.heard == 2)


async def test_keyspace_notifications_come_from_all_primaries(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True)
    await client.initialize()
    await client.config_set("notify-keyspace-events", "KEA", target_nodes="all")
    try:
        notifications = client.keyspace_notifications()
        await notifications.subscribe_keyspace("note:*")
        assert _dedicated(client) == 3
        keys = [f"note:{number}" for number in range(12)]
        for key in keys:
            await client.set(key, "1")
        heard = set()
        async with asyncio.timeout(10):
            while len(heard) < len(keys):
                notification = await notifications.get_message(timeout=1.0)
                if notification is not None:
                    heard.add(notification.key)
        assert heard == set(keys)
        await notifications.aclose()
        assert _dedicated(client) == 0
    finally:
        await client.config_set("notify-keyspace-events", "", target_nodes="all")


async def test_monitor_shows_what_a_node_is_asked(client: RedisCluster) -> None:
    await client.initialize()
    node = client.get_node_from_key("watched")
    async with client.monitor(target_node=node) as monitor:
        assert _dedicated(client) == 1
        await client.set("watched", "1")
        async with asyncio.timeout(10):
            while (await monitor.next_command())["command"] != "SET watched 1":
                pass
    async with client.monitor():
        pass
    assert _dedicated(client) == 0


def test_the_shard_channels_of_these_tests_are_on_all_nodes() -> None:
    assert {key_slot(channel.encode()) * 3 // 16384 for channel in SHARD_CHANNELS} == {0, 1, 2}
