"""Events in a cluster, and what an export has of them."""

import asyncio
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.ops.history import PARTITIONS, History, short_history
from tradewind import RedisCluster
from tradewind.engine.keys import PartitionKeys
from tradewind.engine.messages import Deposited, encode
from tradewind.trail.events import StoredEvent
from tradewind.trail.export import Export, Exported
from tradewind.trail.places import target_of

Events = dict[int, list[StoredEvent]]
PIPELINE_MAX = 2_000


async def write_histories(client: RedisCluster) -> list[History]:
    histories = [short_history(partition) for partition in range(PARTITIONS)]
    for history in histories:
        await history.write(client)
    return histories


async def append(client: RedisCluster, partition: int, payloads: Iterable[bytes]) -> None:
    """More events, as a commit leaves them."""
    keys = PartitionKeys(partition)
    sequence = int(await client.hget(keys.cursor, "sequence") or 0)
    pipeline = client.pipeline()
    for payload in payloads:
        sequence += 1
        pipeline.execute_command("XADD", keys.events, f"{sequence}-0", "event", payload)
        if sequence % PIPELINE_MAX == 0:
            await pipeline.execute()
    pipeline.hset(keys.cursor, mapping={"command": f"{sequence}-0", "sequence": sequence})
    await pipeline.execute()


def deposits(count: int, first: int = 1) -> list[bytes]:
    return [
        encode(Deposited(account="A1", at_ms=number, cause=f"d{number}", amount=1, balance=number))
        for number in range(first, first + count)
    ]


async def export(client: RedisCluster, place: str, events_per_piece: int = 7) -> Exported:
    async with Export(client, PARTITIONS, target_of(place, events_per_piece=events_per_piece)) as export:
        await export.catch_up()
    return export.done


async def exported(place: str) -> Events:
    target = target_of(place)
    return {
        partition: [event async for page in target.read(partition) for event in page]
        for partition in range(PARTITIONS)
    }


async def stored(client: RedisCluster) -> Events:
    events = {}
    for partition in range(PARTITIONS):
        entries = await client.execute_command("XRANGE", PartitionKeys(partition).events, "-", "+")
        events[partition] = [StoredEvent(int(id.split(b"-")[0]), fields[b"event"]) for id, fields in entries]
    return events


def command_line(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "tradewind", *map(str, words)]


async def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run, command_line(*words), capture_output=True, text=True, timeout=50, check=False
    )
