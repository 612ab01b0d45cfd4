"""Exporting and trimming while orders flow and a primary is killed: the export has every event once.

An event that only the dead primary had is replaced by another one under its number; an export that had taken
it would differ from the cluster at the end.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.exceptions import RedisError

from tests.faults.trading import PARTITIONS, trading_floor
from tests.support.waiting import eventually
from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.keys import PartitionKeys
from tradewind.ops.audit import audit
from tradewind.trail.checkpoint import checkpoint_sequence
from tradewind.trail.events import StoredEvent
from tradewind.trail.export import Export
from tradewind.trail.parquet import ParquetTarget
from tradewind.trail.trim import TrimRequest, plan_trim, trim

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(120)]

TRIM = TrimRequest(keep=20)


@asynccontextmanager
async def going_on(step: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Again and again while inside; what the servers refuse meanwhile is tried again."""

    async def repeat() -> None:
        while True:
            with suppress(RedisError, OSError):
                await step()
            await asyncio.sleep(0.02)

    task = asyncio.create_task(repeat())
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def exported_and_left(client: RedisCluster, target: ParquetTarget) -> None:
    """Hold the export against what is left in the cluster, and let the audit prove the whole."""
    async with Export(client, PARTITIONS, target) as export:
        await export.catch_up()
    for partition in range(PARTITIONS):
        entries = await client.execute_command("XRANGE", PartitionKeys(partition).events, "-", "+")
        left = [StoredEvent(int(id.split(b"-")[0]), fields[b"event"]) for id, fields in entries]
        exported = [event async for page in target.read(partition) for event in page]
        assert [event.sequence for event in exported] == list(range(1, len(exported) + 1))
        assert exported[-len(left) :] == left
    whole = await audit(client, PARTITIONS, archive=target)
    assert whole.clean, whole.findings.sentences
    assert whole.trimmed == 0


async def test_an_export_is_whole_after_a_primary_was_killed_under_it(fragile: EmbeddedCluster, tmp_path):
    target = ParquetTarget(tmp_path / "events", events=50)
    async with RedisCluster.from_url(fragile.url) as client:

        async def step() -> None:
            async with Export(client, PARTITIONS, target) as export:
                await export.catch_up()

        async with trading_floor(fragile, seed=31, supervised=True) as floor, going_on(step):
            primary = await floor.primary(random.Random(31))
            mine = await floor.partitions_of(primary)
            await fragile.kill(primary)
            await floor.trading(mine)
        await exported_and_left(client, target)


async def test_events_are_trimmed_while_orders_flow_and_a_primary_is_killed(
    fragile: EmbeddedCluster, tmp_path
):
    target = ParquetTarget(tmp_path / "events", events=50)
    async with RedisCluster.from_url(fragile.url) as client:

        async def step() -> None:
            async with Export(client, PARTITIONS, target) as export:
                await export.catch_up()
            for partition in range(PARTITIONS):
                await trim(client, await plan_trim(client, partition, TRIM), TRIM)

        async def has_trimmed() -> bool:
            return all([await checkpoint_sequence(client, p) > 0 for p in range(PARTITIONS)])

        async with trading_floor(fragile, seed=32, supervised=True) as floor, going_on(step):
            await eventually(has_trimmed, 30)
            primary = await floor.primary(random.Random(32))
            mine = await floor.partitions_of(primary)
            await fragile.kill(primary)
            await floor.trading(mine)
        await exported_and_left(client, target)
