"""Brings a target up to the cluster's last event: piece by piece, each exactly once.

    how far is the target?     its own answer: the last complete file, the row in its database
    register that              durable; answers up to where events are final
    read, add, complete        in pages; a piece is there whole or not at all
    register again             so that trimming may go that far

Killed anywhere, the next start asks the target how far it is, and goes on there.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tradewind import RedisCluster
from tradewind.trail.errors import EventsMissing
from tradewind.trail.events import pages_of
from tradewind.trail.positions import cluster_id, register
from tradewind.trail.target import Target

PARTITIONS_AT_ONCE = 4


@dataclass
class Exported:
    """What one export has done."""

    target: str = ""
    """What the cluster knows the target by."""
    events: int = 0
    """Written by this export."""
    pieces: int = 0
    total: int = 0
    """In the target now."""

    def as_dict(self) -> dict[str, object]:
        return {"target": self.target, "events": self.events, "pieces": self.pieces, "total": self.total}


class Export:
    """One target of one cluster. `async with`: the target is this process's alone meanwhile."""

    def __init__(self, client: RedisCluster, partitions: int, target: Target) -> None:
        self.done = Exported()
        self._client = client
        self._partitions = partitions
        self._target = target

    async def __aenter__(self) -> "Export":
        try:
            identity = await self._target.open(await cluster_id(self._client), self._partitions)
        except BaseException:
            await self._target.close()
            raise
        self.done.target = identity.name
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._target.close()

    async def catch_up(
        self,
        progress: Callable[[Exported], None] = lambda _done: None,
        is_ended: Callable[[], bool] = lambda: False,
    ) -> None:
        """Export all events that there are now. What comes meanwhile is for the next call.

        `progress` hears of each piece; once `is_ended`, no further one is begun.

        :raises EventsMissing: events were trimmed, or lost, before the target had them
        :raises TargetUnavailable: call again on a new target; nothing is lost or doubled
        """
        self.done.total = 0
        waiting = iter(range(self._partitions))

        async def exporter() -> None:
            for partition in waiting:
                await self._export(partition, progress, is_ended)

        tasks = [asyncio.create_task(exporter()) for _ in range(PARTITIONS_AT_ONCE)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _export(
        self, partition: int, progress: Callable[[Exported], None], is_ended: Callable[[], bool]
    ) -> None:
        position = await self._target.position(partition)
        final = await register(self._client, partition, self.done.target, position)
        if position > final:
            raise EventsMissing(
                f"partition {partition} ends with event {final}, and {self.done.target} has {position}: the "
                "cluster has lost events, or was set back; export what it does now to an empty place"
            )
        self.done.total += position
        while position < final and not is_ended():
            until = min(final, position + self._target.events_per_piece)
            await self._export_piece(partition, position, until)
            await register(self._client, partition, self.done.target, until)
            self.done.events += until - position
            self.done.total += until - position
            self.done.pieces += 1
            position = until
            progress(self.done)

    async def _export_piece(self, partition: int, after: int, until: int) -> None:
        async with self._target.piece(partition, after) as piece:
            async for page in pages_of(self._client, partition, after, until):
                await piece.add(page)
            await piece.complete()
