"""A slot that really moves: MOVED, ASK and TRYAGAIN under load, and back."""

import asyncio

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.migration import Migration
from tests.support.waiting import eventually
from tests.support.writers import Writers
from tradewind import RedisCluster

pytestmark = pytest.mark.faults

KEYS = [f"{{moving}}:{number}" for number in range(40)]


async def test_writers_and_readers_follow_a_moving_slot(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, migration: Migration
) -> None:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True)
    await client
    async with Writers(client, KEYS) as writers, Writers(client.durable(), ["{moving}:durable"]) as durable:
        await eventually(lambda: writers.total > 500)
        await migration.begin()
        for _ in range(8):
            await migration.move_keys(5)
            before = writers.total
            await eventually(lambda before=before: writers.total > before + 200)
        asked = client.stats().redirects_ask
        await migration.finish()
        before = writers.total
        await eventually(lambda: writers.total > before + 500)
    assert not writers.errors
    assert not writers.unknown
    assert not durable.errors
    assert not durable.unknown
    await writers.check(client)
    await durable.check(client)
    assert asked > 100
    assert client.stats().redirects_moved > 0
    await eventually(lambda: _port_of_moving(client) == migration.target)
    assert client.stats().refreshes <= 5, "a burst of redirects is one refresh"


async def test_reads_from_replicas_find_every_key_while_the_slot_moves(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, migration: Migration
) -> None:
    client = make_client(clean_cluster.nodes[0].port, read_from="prefer_replica")
    await asyncio.gather(*(client.set(key, key) for key in KEYS))

    async def read_all() -> int:
        """How many came from replicas."""
        before = client.stats().replica_reads
        assert await asyncio.gather(*(client.get(key) for key in KEYS)) == [key.encode() for key in KEYS]
        return client.stats().replica_reads - before

    async def all_come_from_replicas() -> bool:
        return await read_all() == len(KEYS)

    await eventually(all_come_from_replicas)
    await migration.begin()
    for _ in range(4):
        await migration.move_keys(5)
        for _ in range(20):
            await read_all()
    await migration.finish()
    await eventually(all_come_from_replicas)
    await eventually(lambda: _port_of_moving(client) == migration.target)


def _port_of_moving(client: RedisCluster) -> int:
    node = client.get_node_from_key("moving")
    assert node is not None
    return int(node.port)


async def test_a_command_of_several_keys_waits_until_they_are_together(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, migration: Migration
) -> None:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True)
    await client.mset(dict.fromkeys(KEYS, "1"))
    await migration.begin()
    await migration.move_keys(20)
    read = asyncio.create_task(client.mget(KEYS))
    script = "return #redis.call('MGET', unpack(KEYS))"
    run = asyncio.create_task(client.eval(script, len(KEYS), *KEYS))
    write = asyncio.create_task(client.durable().mset({KEYS[0]: "2", KEYS[30]: "2", "{moving}:new": "2"}))
    await eventually(lambda: client.stats().retries >= 6)
    assert not any(task.done() for task in (read, run, write))
    await migration.finish()
    assert await asyncio.wait_for(run, 5) == len(KEYS)
    assert await write
    assert set(await read) <= {"1", "2"}
    assert await client.mget(KEYS[0], KEYS[30], "{moving}:new") == ["2", "2", "2"]
    assert client.stats().redirects_moved > 0


async def test_a_blocked_pop_follows_its_slot(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, migration: Migration
) -> None:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True)
    popper = asyncio.create_task(client.blpop(["{moving}:list"], 20))
    await eventually(lambda: sum(node.dedicated for node in client.stats().nodes) == 1)
    await migration.begin()
    await migration.finish()
    await client.rpush("{moving}:list", "x")
    assert await popper == ("{moving}:list", "x")


async def test_a_blocked_pop_on_a_key_that_is_elsewhere_already_is_asked_there(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, migration: Migration
) -> None:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True)
    await client.rpush("{moving}:list", "x")
    await migration.begin()
    await migration.move_keys(1)
    assert await client.blpop(["{moving}:list"], 5) == ("{moving}:list", "x")
    await migration.finish()


async def test_a_subscription_follows_its_slot(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, migration: Migration
) -> None:
    client = make_client(clean_cluster.nodes[0].port)
    heard: list[bytes] = []
    subscription = await client.sharded_subscription(lambda _channel, data: heard.append(data))
    await subscription.subscribe(["{moving}:channel", "staying"])
    await migration.begin()
    await migration.finish()

    async def arrives() -> bool:
        await client.execute_command("SPUBLISH", "{moving}:channel", "moved")
        return b"moved" in heard

    await eventually(arrives)
    assert subscription.confirmed == 2


async def test_a_pipeline_over_a_moving_slot(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, migration: Migration
) -> None:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True)
    await client.mset(dict.fromkeys(KEYS, "0"))
    await migration.begin()
    await migration.move_keys(20)
    pipe = client.pipeline()
    for key in KEYS:
        for number in range(10):
            pipe.append(key, number)
    await pipe.execute()
    assert set(await _values(client)) == {"00123456789"}
    await migration.finish()


async def _values(client: RedisCluster) -> list[str | None]:
    return await asyncio.gather(*(client.get(key) for key in KEYS))
