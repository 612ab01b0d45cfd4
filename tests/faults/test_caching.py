"""Replies kept in memory while slots move and primaries step down or end: nothing old is served for long."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import RedisError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.migration import Migration
from tests.support.waiting import eventually
from tradewind import RedisCluster
from tradewind.embedded.survey import Admin

pytestmark = [pytest.mark.faults, pytest.mark.timeout(90)]

KEYS = [f"{{moving}}:{number}" for number in range(40)]
OTHERS_S = 3.0  # a change by somebody else, through a failover


class Watchers:
    """One client counts keys up with durable writes, another reads them from memory, and checks their age."""

    def __init__(self, writer: RedisCluster, reader: RedisCluster, keys: list[str]) -> None:
        self.reads = 0
        self._writer, self._reader, self._keys = writer.durable(), reader.cached(ttl_s=600), keys
        self._written: dict[str, list[tuple[float, int]]] = {key: [(0.0, 0)] for key in keys}
        self._stopping = False

    async def __aenter__(self) -> "Watchers":
        self._tasks = [
            asyncio.create_task(work(key)) for key in self._keys for work in (self._write, self._read)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _write(self, key: str) -> None:
        number = 0
        while not self._stopping:
            number += 1
            try:
                await self._writer.set(key, number)
            except RedisError:
                continue
            self._written[key].append((time.monotonic(), number))
            await asyncio.sleep(0.05)

    async def _read(self, key: str) -> None:
        while not self._stopping:
            now_s = time.monotonic()
            least = max(number for at_s, number in self._written[key] if at_s < now_s - OTHERS_S)
            value = int(await self._reader.get(key) or 0)
            assert value >= least, f"{key} is {value} from memory: {least} was written {OTHERS_S} s ago"
            self.reads += 1
            await asyncio.sleep(0.01)

    async def go_on(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        await eventually(lambda: time.monotonic() > end_s, seconds + 10.0)


async def _step_down(cluster: EmbeddedCluster, key: str) -> None:
    victim = await cluster.primary_of(key)
    (replica,) = await cluster.replicas_of(victim)
    async with Admin(replica.port) as admin:
        await admin.ask("CLUSTER", "FAILOVER")

    async def is_done() -> bool:
        return (await cluster.primary_of(key)).port == replica.port

    await eventually(is_done, 30.0)


async def _be_killed(cluster: EmbeddedCluster, key: str) -> None:
    victim = await cluster.primary_of(key)
    await cluster.kill(victim)

    async def is_replaced() -> bool:
        return (await cluster.primary_of(key)).port != victim.port

    await eventually(is_replaced, 30.0)
    await cluster.restart(victim)


@pytest.mark.parametrize("end", [_step_down, _be_killed])
async def test_a_primary_that_is_replaced(
    fragile: EmbeddedCluster,
    make_client: MakeClient,
    end: Callable[[EmbeddedCluster, str], Awaitable[None]],
) -> None:
    writer = make_client(fragile.nodes[0].port)
    reader = make_client(fragile.nodes[0].port, protocol=3)
    async with Watchers(writer, reader, [f"{{cached}}:{number}" for number in range(10)]) as watchers:
        await watchers.go_on(1.0)
        await end(fragile, "{cached}")
        await watchers.go_on(OTHERS_S + 2.0)
    assert reader.stats().cache.hits > 100
    assert not reader.stats().errors.get("AssertionError")


async def test_keys_of_a_slot_that_moves(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, migration: Migration
) -> None:
    writer = make_client(clean_cluster.nodes[0].port)
    reader = make_client(clean_cluster.nodes[0].port, protocol=3)
    view = reader.cached(ttl_s=600)

    async def all_are(value: bytes) -> bool:
        return await asyncio.gather(*(view.get(key) for key in KEYS)) == [value] * len(KEYS)

    async def check(value: bytes) -> None:
        await asyncio.gather(*(writer.set(key, value) for key in KEYS))
        await eventually(lambda: all_are(value))
        assert await all_are(value)

    await check(b"before")
    await migration.begin()
    for step in range(4):
        await migration.move_keys(10)
        await check(b"step %d" % step)
    await migration.finish()
    await check(b"after")
    assert await all_are(b"after")
    await eventually(lambda: reader.stats().cache.entries == len(KEYS))
