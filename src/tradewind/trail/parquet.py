"""Events as Parquet files: a folder for each partition, a file for each range of events.

A file is written under a temporary name, synced, and renamed; its name says which events it holds. So what
has its name is complete, and the last name is the position: the export needs no other memory, and may be
killed at any moment.
"""

import asyncio
import fcntl
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import pyarrow as arrow
from pyarrow import parquet

from tradewind.trail.columns import COMMON, KINDS, columns_of
from tradewind.trail.errors import EventsMissing, TargetRefused, TargetUnavailable
from tradewind.trail.events import EVENTS_PER_PAGE, StoredEvent
from tradewind.trail.target import Identity, Piece, check_identity

EVENTS_PER_FILE = 100_000
EVENTS_PER_ROW_GROUP = 10_000
IDENTITY_FILE = "tradewind-export.json"
LOCK_FILE = ".lock"
UNFINISHED = ".unfinished"

_NAME = re.compile(r"^(\d{12})-(\d{12})\.parquet$")
_TYPES = {"integer": arrow.int64(), "boolean": arrow.bool_(), "text": arrow.string(), "json": arrow.string()}
_COMMON_TYPES = {
    "partition": arrow.int32(),
    "sequence": arrow.int64(),
    "at_ms": arrow.timestamp("ms", tz="UTC"),
    "type": arrow.string(),
    "account": arrow.string(),
    "cause": arrow.string(),
    "event": arrow.string(),
}
SCHEMA = arrow.schema(
    [(name, _COMMON_TYPES[name]) for name in COMMON] + [(name, _TYPES[kind]) for name, kind in KINDS.items()]
)


class EventFile(NamedTuple):
    """A complete file, and the events that it holds."""

    first: int
    last: int
    path: Path


class ParquetTarget:
    """Files in `folder`. `name` is what the cluster knows it by; an earlier export's name stays."""

    def __init__(self, folder: Path, *, name: str | None = None, events: int = EVENTS_PER_FILE) -> None:
        self.folder = folder
        self.events_per_piece = events
        self._name = name or f"parquet:{folder.absolute()}"
        self._lock: IO[bytes] | None = None
        self._positions: dict[int, int] = {}

    async def open(self, cluster: str, partitions: int) -> Identity:
        try:
            return self._open(cluster, partitions)
        except OSError as error:
            raise _unavailable(self.folder, error) from error

    def _open(self, cluster: str, partitions: int) -> Identity:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / LOCK_FILE).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise TargetRefused(f"another export writes to {str(self.folder)!r}") from None
        identity = self._identity(Identity(self._name, cluster, partitions))
        check_identity(identity, cluster, partitions)
        for unfinished in self.folder.glob(f"p*/*{UNFINISHED}"):
            unfinished.unlink()
        for partition in range(partitions):
            files = event_files(self.folder, partition)
            self._positions[partition] = files[-1].last if files else 0
        return identity

    def _identity(self, own: Identity) -> Identity:
        """As it stands in the folder; an empty folder gets our own."""
        path = self.folder / IDENTITY_FILE
        if not path.exists():
            if any(self.folder.glob("p*/*.parquet")):
                raise TargetRefused(f"{str(path)!r} is missing beside files of an export: put it back")
            unfinished = path.with_suffix(UNFINISHED)
            unfinished.write_bytes(msgspec.json.encode(own))
            _put(unfinished, path)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Identity)
        except msgspec.DecodeError as error:
            raise TargetRefused(f"{str(path)!r} cannot be read: {error}") from error

    async def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    async def position(self, partition: int) -> int:
        return self._positions[partition]

    @asynccontextmanager
    async def piece(self, partition: int, after: int) -> AsyncIterator[Piece]:
        piece = _File(_folder_of(self.folder, partition), partition, after)
        try:
            yield piece
        finally:
            piece.discard()
        self._positions[partition] = piece.complete_until

    async def read(self, partition: int) -> AsyncIterator[list[StoredEvent]]:
        for file in event_files(self.folder, partition):
            for page in _events_in(file):
                yield page


class _File:
    """A file in the making. Writing is done in a thread: a slow disk must not stop the client's loop."""

    def __init__(self, folder: Path, partition: int, after: int) -> None:
        self.complete_until = after
        self._folder = folder
        self._partition = partition
        self._after = after
        self._until = after
        self._path = folder / f"{after + 1:012d}{UNFINISHED}"
        self._rows: list[StoredEvent] = []
        self._writer: Any = None
        # A step goes on in its thread when its task is cancelled; a writer that is closed under it crashes.
        self._steps = threading.Lock()
        self._is_discarded = False

    async def add(self, events: Sequence[StoredEvent]) -> None:
        self._rows += events
        self._until += len(events)
        if len(self._rows) >= EVENTS_PER_ROW_GROUP:
            await self._in_thread(self._write)

    async def complete(self) -> None:
        await self._in_thread(self._finish)
        self.complete_until = self._until

    async def _in_thread(self, step: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(self._take, step)
        except OSError as error:
            raise _unavailable(self._folder, error) from error

    def _take(self, step: Callable[[], None]) -> None:
        with self._steps:
            if not self._is_discarded:
                step()

    def _write(self) -> None:
        if self._writer is None:
            self._folder.mkdir(exist_ok=True)
            self._writer = parquet.ParquetWriter(self._path, SCHEMA, compression="zstd")
        rows, self._rows = self._rows, []
        self._writer.write_table(arrow.table(columns_of(self._partition, rows), schema=SCHEMA))

    def _finish(self) -> None:
        if self._rows:
            self._write()
        self._writer.close()
        self._writer = None
        _put(self._path, self._folder / f"{self._after + 1:012d}-{self._until:012d}.parquet")

    def discard(self) -> None:
        """What was not completed is gone, once the step under way has ended."""
        with self._steps:
            self._is_discarded = True
            if self._writer is not None:
                with suppress(OSError):
                    self._writer.close()
            self._path.unlink(missing_ok=True)


def event_files(folder: Path, partition: int) -> list[EventFile]:
    """The complete files of a partition, in order, from event 1 on.

    :raises EventsMissing: a file between them, or the first one, is not there
    """
    files = []
    with suppress(FileNotFoundError):
        for path in _folder_of(folder, partition).iterdir():
            found = _NAME.match(path.name)
            if found:
                files.append(EventFile(int(found[1]), int(found[2]), path))
    files.sort()
    expected = 1
    for file in files:
        if file.first != expected or file.last < file.first:
            raise EventsMissing(
                f"{str(file.path)!r} does not follow: event {expected} should begin a file there"
            )
        expected = file.last + 1
    return files


def _events_in(file: EventFile) -> Iterator[list[StoredEvent]]:
    with parquet.ParquetFile(file.path) as opened:
        for batch in opened.iter_batches(EVENTS_PER_PAGE, columns=["sequence", "event"]):
            pairs = zip(batch["sequence"].to_pylist(), batch["event"].to_pylist(), strict=True)
            yield [StoredEvent(sequence, event.encode()) for sequence, event in pairs]


def _folder_of(folder: Path, partition: int) -> Path:
    return folder / f"p{partition:04d}"


def _put(unfinished: Path, path: Path) -> None:
    """Give a file its name, so that it survives a loss of power from here on."""
    _sync(unfinished)
    unfinished.rename(path)
    _sync(path.parent)
    _sync(path.parent.parent)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _unavailable(folder: Path, error: OSError) -> TargetUnavailable:
    return TargetUnavailable(f"{str(folder)!r} cannot be written: {error.strerror or error}")
