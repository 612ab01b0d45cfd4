"""Leases and the list of workers, as workers use them."""

import asyncio
import signal

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.waiting import eventually
from tradewind import RedisCluster, clock
from tradewind.engine.keys import PartitionKeys
from tradewind.engine.lease import Leases
from tradewind.engine.library import load_library

PARTITIONS = range(8)
LONG_MS = 60_000


def leases(client: RedisCluster, worker: str, lease_ms: int = LONG_MS) -> Leases:
    return Leases(client, worker, lease_ms)


async def holders(client: RedisCluster) -> dict[int, str]:
    return await leases(client, "who asks").holders(PARTITIONS, clock.now_ms())


async def test_of_many_workers_one_holds_a_partition(client):
    workers = [leases(client, f"w{number}") for number in range(10)]
    granted = [lease for lease in await asyncio.gather(*(w.acquire(3) for w in workers)) if lease]
    assert [lease.epoch for lease in granted] == [1]
    assert await holders(client) == {3: granted[0].worker}


async def test_a_lease_is_renewed_until_somebody_else_has_it(client):
    first, second = leases(client, "w1"), leases(client, "w2")
    lease = await first.acquire(3)
    assert await first.renew(lease)
    assert await second.acquire(3) is None
    await first.release(lease)
    newer = await second.acquire(3)
    assert newer.epoch > lease.epoch
    assert not await first.renew(lease)
    await first.release(lease)  # too late: it is the other's
    assert await second.renew(newer)


async def test_holders_leaves_out_the_free_and_the_expired(client):
    holder = leases(client, "w1")
    await holder.acquire(0)
    await holder.release(await holder.acquire(1))
    await leases(client, "w2", lease_ms=400).acquire(2)

    async def has_expired() -> bool:
        return await holders(client) == {0: "w1"}

    await eventually(has_expired)


async def test_live_workers_are_listed_by_name(client):
    second, first = leases(client, "b"), leases(client, "a")
    assert await second.heartbeat() == ["b"]
    assert await first.heartbeat() == ["a", "b"]
    await second.leave()
    assert await first.heartbeat() == ["a"]


async def test_a_worker_that_is_silent_for_a_lease_is_off_the_list(client):
    await leases(client, "gone", lease_ms=50).heartbeat()

    async def alone() -> bool:
        return await leases(client, "here").heartbeat() == ["here"]

    await eventually(alone)


@pytest.mark.parametrize("call", ["acquire", "renew", "release", "heartbeat"])
async def test_a_missing_library_is_loaded_again(client, call: str):
    worker = leases(client, "w1")
    lease = await worker.acquire(3)
    for node in client.get_primaries():
        await client.execute_command("FUNCTION DELETE", "tradewind_engine", target_nodes=node)
    match call:
        case "acquire":
            assert (await worker.acquire(3)).epoch == lease.epoch + 1
        case "renew":
            assert await worker.renew(lease)
        case "release":
            await worker.release(lease)
            assert await holders(client) == {}
        case "heartbeat":
            assert await worker.heartbeat() == ["w1"]


@pytest.mark.faults
async def test_partitions_of_a_shard_that_does_not_answer_count_as_held(own_cluster: EmbeddedCluster):
    async with RedisCluster.from_url(own_cluster.url) as client:
        await load_library(client)
        stopped = await own_cluster.primary_of(PartitionKeys(0).owner)
        silent = {p for p in PARTITIONS if await own_cluster.primary_of(PartitionKeys(p).owner) == stopped}
        assert 0 < len(silent) < len(PARTITIONS)
        await own_cluster.kill(stopped, signal.SIGSTOP)
        try:
            found = await leases(client, "w1", lease_ms=600).holders(PARTITIONS, clock.now_ms())
        finally:
            await own_cluster.kill(stopped, signal.SIGCONT)
        assert found == dict.fromkeys(silent, "?")
