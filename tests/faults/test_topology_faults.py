"""A cluster that is not whole: replicas gone, nodes that disagree, no coverage, a minority on its own."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.conftest import EmbeddedCluster
from tests.faults.conftest import NODE_TIMEOUT_S
from tests.support.announced import AnnouncedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle, keys_of_each_shard, tally
from tests.support.waiting import eventually
from tests.support.writers import Writers
from tradewind import OutcomeUnknown, RedisCluster
from tradewind.embedded.survey import Admin

pytestmark = [pytest.mark.faults, pytest.mark.timeout(90)]


async def test_a_shard_without_its_replica_serves_and_calls_nothing_durable(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    mine, *others = keys_of_each_shard(await client.initialize()).values()
    (replica,) = await fragile.replicas_of(await fragile.primary_of(mine))
    async with Writers(client, [f"{{{mine}}}:plain"]) as plain:
        await fragile.kill(replica)
        with pytest.raises(OutcomeUnknown, match="replica"):
            await client.durable().set(mine, "1")
        assert await client.durable().set(others[0], "1"), "the other shards have theirs"
        assert await client.get(mine) == "1", "it ran, and may be lost"
        await fragile.restart(replica)

        async def is_durable_again() -> bool:
            with contextlib.suppress(OutcomeUnknown):
                return bool(await client.durable().set(mine, "2"))
            return False

        await eventually(is_durable_again)
    assert not plain.errors
    assert not plain.unknown
    await plain.check(client)


# -- nodes that disagree -------------------------------------------------------------------------------------


async def test_redirects_in_a_circle_end_with_an_error_and_are_mended_by_the_next_map(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    """The owner says that another has the slot now, and that one knows nothing of it."""
    client = make_client(fragile.nodes[0].port, decode_responses=True, socket_timeout=1.0)
    mine, other, _ = keys_of_each_shard(await client.initialize()).values()
    owner, target = await fragile.primary_of(mine), await fragile.primary_of(other)
    async with Admin(target.port) as admin:
        target_id = await admin.ask("CLUSTER", "MYID")
        own_slots = ("CLUSTER", "SETSLOT", key_slot(mine.encode()), "NODE", target_id)
        async with Admin(owner.port) as owner_admin:
            await owner_admin.ask(*own_slots)
        begun_s = time.monotonic()
        with pytest.raises(RedisConnectionError, match="do not agree on who owns slot"):
            await client.set(mine, "0")
        assert time.monotonic() - begun_s < 2.0
        assert client.stats().redirects_moved <= 64, "with pauses, not in a storm"
        assert await client.set(other, "0")
        patient = asyncio.create_task(client.with_options(timeout_s=10).incr(mine))
        await asyncio.sleep(0.1)
        await admin.ask(*own_slots)
        assert await patient == 1
    assert client.stats().refreshes < 20
    await check_idle(client)
    await _give_back(fragile, key_slot(mine.encode()), owner.port)


async def _give_back(cluster: EmbeddedCluster, slot: int, port: int) -> None:
    """The owner's claim is made the newest first: an older one would yield to the other's again."""
    async with Admin(port) as admin:
        node_id = await admin.ask("CLUSTER", "MYID")
        await admin.ask("CLUSTER", "BUMPEPOCH")
    for node in sorted(cluster.nodes, key=lambda node: node.port != port):
        if (await cluster.roles())[node.port] == "primary":
            async with Admin(node.port) as admin:
                await admin.ask("FLUSHALL")
                await admin.ask("CLUSTER", "SETSLOT", slot, "NODE", node_id)


# -- no coverage ---------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _full_coverage(cluster: EmbeddedCluster) -> AsyncIterator[None]:
    await _on_every_server(cluster, "yes")
    try:
        yield
    finally:
        await _on_every_server(cluster, "no")


async def _on_every_server(cluster: EmbeddedCluster, value: str) -> None:
    for node in cluster.nodes:
        with contextlib.suppress(RedisError):
            async with Admin(node.port) as admin:
                await admin.ask("CONFIG", "SET", "cluster-require-full-coverage", value)


async def test_a_cluster_that_stops_whole_is_waited_for_until_the_deadline(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    """`cluster-require-full-coverage yes`: with one shard gone the others refuse too."""
    client = make_client(fragile.nodes[0].port, decode_responses=True, socket_timeout=1.0)
    mine, *others = keys_of_each_shard(await client.initialize()).values()
    await asyncio.gather(*(client.set(key, "0") for key in (mine, *others)))
    victim = await fragile.primary_of(mine)
    (replica,) = await fragile.replicas_of(victim)
    async with _full_coverage(fragile):
        await fragile.kill(replica)
        await fragile.kill(victim)
        await eventually(lambda: _is_down(client, others[0]))
        begun_s = time.monotonic()
        told = await asyncio.gather(*(client.incr(key) for key in others * 10), return_exceptions=True)
        assert tally(told) == {"ClusterDownError": 20}
        assert 0.5 < time.monotonic() - begun_s < 2.0
        assert client.stats().retries < 40 * 30, "with pauses, not in a storm"
        waiting = [asyncio.create_task(client.with_options(timeout_s=20).incr(key)) for key in others]
        await fragile.restart(victim)
        await fragile.restart(replica)
        assert await asyncio.gather(*waiting) == [1, 1]
    assert await client.with_options(timeout_s=10).incr(mine) == 1
    await check_idle(client)


async def _is_down(client: RedisCluster, key: str) -> bool:
    try:
        await client.with_options(timeout_s=0.2).get(key)
    except ClusterDownError:
        return True
    return False


# -- a minority ----------------------------------------------------------------------------------------------


async def test_on_the_side_of_the_minority_nothing_is_committed(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    """One primary and the client on one side, all others on the other; then the network is whole again."""
    async with AnnouncedCluster(fragile, bus=True) as announced:
        client = make_client(announced.port, decode_responses=True, socket_timeout=1.0)
        keys = keys_of_each_shard(await client.initialize())
        mine, *_ = keys.values()
        alone = announced.real_port(int(next(iter(keys)).rpartition(":")[2]))
        durable = Writers(client.durable(), [mine, *(f"{{{mine}}}:{n}" for n in range(5))])
        plain = Writers(client, [f"{{{mine}}}:plain"])
        async with durable, plain:
            await eventually(lambda: durable.total > 100, 30)
            announced.cut_off(alone)
            announced.silence_all_but(alone)
            await eventually(lambda: _refuses_writes(alone), timeout_s=NODE_TIMEOUT_S + 10)
            committed, accepted = durable.total, plain.total
            await eventually(lambda: _has_been_replaced(fragile, alone), timeout_s=NODE_TIMEOUT_S + 10)
            await asyncio.sleep(0.5)  # a time in which nothing must happen
            assert durable.total == committed
            assert plain.total == accepted
            announced.mend()
            await eventually(lambda: durable.total > committed + 50, timeout_s=20)
            await eventually(lambda: plain.total > accepted, timeout_s=20)
        assert durable.unknown.total() > 0
        await durable.check(client)
        await plain.check(client, may_lose=True)
        await check_idle(client)
        await client.aclose()


async def _refuses_writes(port: int) -> bool:
    try:
        async with Admin(port) as admin:
            return "cluster_state:fail" in await admin.ask("CLUSTER", "INFO")
    except RedisError:
        return False


async def _has_been_replaced(cluster: EmbeddedCluster, port: int) -> bool:
    """The majority has a primary for its slots, of which it does not know."""
    roles = await cluster.roles()
    return roles[port] == "primary" and list(roles.values()).count("primary") == 4
