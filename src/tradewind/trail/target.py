"""What an export writes to: events in pieces, each there whole or not at all, and with it the position."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from tradewind.trail.errors import TargetRefused
from tradewind.trail.events import StoredEvent

FORMAT = 1


class Identity(msgspec.Struct, frozen=True):
    """Whose events a target holds; kept in the target itself, from the first export on."""

    name: str
    cluster: str
    partitions: int
    format: int = FORMAT


class Piece(Protocol):
    """Events of one partition that become part of the target together."""

    async def add(self, events: Sequence[StoredEvent]) -> None:
        """More events, in order. Nobody who reads the target sees them yet."""

    async def complete(self) -> None:
        """The end: once the block is left, all of it is in the target for good, with the position."""


class Target(Protocol):
    """A folder or a database. One process writes to it at a time; others are refused."""

    events_per_piece: int

    async def open(self, cluster: str, partitions: int) -> Identity:
        """Take the target for writing; an empty one becomes this cluster's.

        :raises TargetRefused: it is another cluster's, or somebody else writes to it
        :raises TargetUnavailable: it cannot be reached
        """

    async def close(self) -> None:
        """Let go of it. What was not completed is as if it had never begun."""

    async def position(self, partition: int) -> int:
        """The last event that it has; it has all before that, too."""

    def piece(self, partition: int, after: int) -> AbstractAsyncContextManager[Piece]:
        """A piece behind event `after`, which must be the position. Left without `complete`: gone."""

    def read(self, partition: int) -> AsyncIterator[list[StoredEvent]]:
        """All events of a partition from the first one on, in pages. Needs no `open`."""


def check_identity(found: Identity, cluster: str, partitions: int) -> None:
    """:raises TargetRefused: the target holds something else than this cluster's events"""
    if found.format != FORMAT:
        raise TargetRefused(f"{found.name} was written in format {found.format}, this version knows {FORMAT}")
    if (found.cluster, found.partitions) != (cluster, partitions):
        raise TargetRefused(
            f"{found.name} holds the events of another cluster ({found.cluster} with {found.partitions} "
            f"partitions, this one is {cluster} with {partitions}): export to an empty place"
        )
