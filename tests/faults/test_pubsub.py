"""Subscriptions while slots move and nodes die, hang, or step down: they go on, and nobody has to notice."""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio.cluster

from tests.conftest import EmbeddedCluster
from tests.faults.conftest import NODE_TIMEOUT_S
from tests.support.client_fixtures import MakeClient
from tests.support.clients import keys_of_each_shard
from tests.support.migration import Migration
from tests.support.waiting import eventually
from tradewind import NodeUnavailable, OutcomeUnknown, RedisCluster
from tradewind.embedded.survey import Admin

if TYPE_CHECKING:
    from tradewind.client.pubsub import ClusterPubSub

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(60),
    pytest.mark.skipif(
        not hasattr(redis.asyncio.cluster, "ClusterPubSub"), reason="redis-py 7 has no pub/sub for a cluster"
    ),
]

MOVING = [f"{{moving}}:{number}" for number in range(3)]


class Reader:
    """Reads shard channels, and says what has come: the last data of each channel, and how often."""

    def __init__(self, pubsub: "ClusterPubSub") -> None:
        self.pubsub = pubsub
        self.count: Counter[tuple[str, str]] = Counter()
        self.last_s: dict[str, float] = {}
        self.gap_s_max: Counter[str] = Counter()

    def hear(self, message: dict[str, Any]) -> None:
        channel, now_s = message["channel"], time.monotonic()
        gap_s = now_s - self.last_s.get(channel, now_s)
        self.gap_s_max[channel] = max(self.gap_s_max[channel], gap_s)  # type: ignore[assignment]
        self.last_s[channel] = now_s
        self.count[channel, message["data"]] += 1

    async def read(self) -> None:
        while True:
            message = await self.pubsub.get_sharded_message(timeout=1.0)
            if message is not None and message["type"] == "smessage":
                self.hear(message)


@contextlib.asynccontextmanager
async def _reading(client: RedisCluster, channels: list[str]) -> AsyncIterator[Reader]:
    """The first channel has a handler, the others are read. A reader that fails, fails the test."""
    async with client.pubsub() as pubsub:
        reader = Reader(pubsub)
        await pubsub.ssubscribe(*channels[1:], **{channels[0]: reader.hear})
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(reader.read())
            yield reader
            reading.cancel()


async def _arrives(client: RedisCluster, reader: Reader, channels: list[str], data: str) -> None:
    """Publish until it has come on every channel."""

    async def publish() -> bool:
        for channel in channels:
            if not reader.count[channel, data]:
                with contextlib.suppress(OutcomeUnknown):  # as long as the channel's node hangs
                    await client.spublish(channel, data)
        return all(reader.count[channel, data] for channel in channels)

    await eventually(publish, 20.0)


async def _arrives_once(client: RedisCluster, reader: Reader, channels: list[str], data: str) -> None:
    for channel in channels:
        assert await client.spublish(channel, data) == 1
    await eventually(lambda: all(reader.count[channel, data] for channel in channels))
    await _arrives(client, reader, channels, f"behind {data}")
    assert all(reader.count[channel, data] == 1 for channel in channels)


async def test_shard_channels_follow_a_moving_slot_there_and_back(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, migration: Migration
) -> None:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True)
    publisher = make_client(clean_cluster.nodes[0].port, decode_responses=True)
    async with _reading(client, MOVING) as reader:
        await _arrives(publisher, reader, MOVING, "before")
        for move in (migration, await migration.back()):
            await move.begin()
            await _arrives_once(publisher, reader, MOVING, f"under way to {move.target}")
            await move.finish()
            await _arrives(publisher, reader, MOVING, f"now at {move.target}")
            await _arrives_once(publisher, reader, MOVING, f"once at {move.target}")
            await eventually(lambda: sum(node.dedicated for node in client.stats().nodes) == 1)


async def test_a_client_that_does_not_know_of_the_move_yet_subscribes_all_the_same(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, migration: Migration
) -> None:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True)
    publisher = make_client(clean_cluster.nodes[0].port, decode_responses=True)
    await client.initialize()
    await migration.begin()
    await migration.finish()
    async with _reading(client, MOVING) as reader:
        await _arrives(publisher, reader, MOVING, "after")
        await _arrives_once(publisher, reader, MOVING, "once")


async def test_shard_channels_survive_a_killed_primary(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    publisher = make_client(fragile.nodes[0].port, decode_responses=True)
    await publisher.initialize()
    channels = [key for n in range(3) for key in keys_of_each_shard(publisher, f"channel{n}").values()]
    async with _reading(client, channels) as reader:
        await _arrives(publisher, reader, channels, "before")
        victim = await fragile.primary_of(channels[0])
        others = [c for c in channels if publisher.get_node_from_key(c).port != victim.port]
        assert len(others) == 6
        publishing = asyncio.create_task(_keep_publishing(publisher, others))
        killed_s = time.monotonic()
        await fragile.kill(victim)
        await _arrives(publisher, reader, channels, "after")
        assert time.monotonic() - killed_s < NODE_TIMEOUT_S + 4.0
        publishing.cancel()
        assert max(reader.gap_s_max[channel] for channel in others) < 1.0, "the other shards never stop"
        await fragile.restart(victim)
        await fragile.wait_until_ready()
        await asyncio.gather(publishing, return_exceptions=True)
        await _arrives_once(publisher, reader, channels, "once")
    await eventually(lambda: sum(node.dedicated for node in client.stats().nodes) == 0)


async def _keep_publishing(client: RedisCluster, channels: list[str]) -> None:
    while True:
        for channel in channels:
            await client.spublish(channel, "load")
        await asyncio.sleep(0.02)


async def test_shard_channels_survive_a_primary_that_hangs_and_comes_back(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    publisher = make_client(fragile.nodes[0].port, decode_responses=True)
    channels = ["hanging"]
    async with _reading(client, channels) as reader:
        await _arrives(publisher, reader, channels, "before")
        await client.get("hanging")
        victim = await fragile.primary_of("hanging")
        await fragile.kill(victim, signal.SIGSTOP)
        await _arrives(publisher, reader, channels, "after")
        await fragile.kill(victim, signal.SIGCONT)
        await fragile.wait_until_ready()
        await _arrives_once(publisher, reader, channels, "once")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
async def test_a_channel_goes_to_another_node_when_its_own_has_gone(
    fragile: EmbeddedCluster, make_client: MakeClient, how: signal.Signals
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    publisher = make_client(fragile.nodes[0].port, decode_responses=True)
    heard: list[str] = []
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub, asyncio.TaskGroup() as group:
        await pubsub.subscribe(everywhere=lambda message: heard.append(message["data"]))
        running = group.create_task(pubsub.run(poll_timeout=0.1))
        victim = await fragile.primary_of("everywhere")
        assert pubsub.get_pubsub_node().port == victim.port

        async def arrives(data: str) -> bool:
            with contextlib.suppress(OutcomeUnknown):  # as long as the publisher's own node hangs
                await publisher.publish("everywhere", data)
            return data in heard

        await eventually(lambda: arrives("before"))
        await fragile.kill(victim, how)
        await eventually(lambda: arrives("after"), 20.0)
        assert pubsub.get_pubsub_node().port != victim.port
        running.cancel()


async def test_a_planned_failover_costs_a_channel_nothing(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("planned")
        primary = await fragile.primary_of("planned")
        connection = pubsub.connection
        (replica,) = await fragile.replicas_of(primary)
        async with Admin(replica.port) as admin:
            await admin.ask("CLUSTER", "FAILOVER")

        async def is_known() -> bool:
            await client.set("planned", "x")
            return client.get_node_from_key("planned").port == replica.port

        await eventually(is_known)
        await asyncio.sleep(1.5)  # longer than a demoted node is left in peace
        heard = 0
        while not heard:
            await client.publish("planned", "x")
            heard = await pubsub.get_message(timeout=0.2) is not None
        assert pubsub.connection is connection and pubsub.get_pubsub_node().port == primary.port


@pytest.mark.skipif(
    not hasattr(redis.asyncio.RedisCluster, "keyspace_notifications"), reason="redis-py has them from 8.1 on"
)
async def test_keyspace_notifications_go_on_at_the_new_primary(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    await client.config_set("notify-keyspace-events", "KEA", target_nodes="all")
    heard: set[str] = set()
    async with client.keyspace_notifications() as notifications, asyncio.TaskGroup() as group:
        await notifications.subscribe_keyspace("note:*", handler=lambda n: heard.add(n.key))
        running = group.create_task(notifications.run(poll_timeout=0.1))
        victim = await fragile.primary_of("note:before")

        async def is_heard(key: str) -> bool:
            with contextlib.suppress(OutcomeUnknown):  # at the moment of the kill
                await client.set(key, "1")
            return key in heard

        await eventually(lambda: is_heard("note:before"))
        await fragile.kill(victim)
        key = next(
            f"note:{n}" for n in range(99) if client.get_node_from_key(f"note:{n}").port == victim.port
        )
        await eventually(lambda: is_heard(key), 20.0)
        running.cancel()
    await client.config_set("notify-keyspace-events", "", target_nodes="all")
    await eventually(lambda: sum(node.dedicated for node in client.stats().nodes) == 0)


async def test_a_shard_that_stays_away_is_told_after_the_deadline(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True, socket_timeout=2.0)
    async with client.pubsub() as pubsub:
        await pubsub.ssubscribe("away")
        primary = await fragile.primary_of("away")
        (replica,) = await fragile.replicas_of(primary)
        await fragile.kill(replica)
        await fragile.kill(primary)
        begun_s = time.monotonic()
        with pytest.raises(NodeUnavailable, match="shard channels without a connection"):
            while True:
                await pubsub.get_sharded_message(timeout=0.5)
        assert 1.5 < time.monotonic() - begun_s < 10.0
        await fragile.restart(primary)
        await fragile.restart(replica)

        async def is_back() -> bool:
            with contextlib.suppress(NodeUnavailable):
                message = await pubsub.get_sharded_message(timeout=0.1)
                return message is not None and message["type"] == "ssubscribe"
            return False

        await eventually(is_back, 20.0)
