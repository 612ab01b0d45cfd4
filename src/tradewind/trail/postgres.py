"""Events as rows of PostgreSQL: one table, and the position moved in the transaction that brings the rows.

What is committed is exported, once: the position is locked and compared first, and (partition, sequence) is
the primary key.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from urllib.parse import parse_qsl, urlsplit

import msgspec
import psycopg
from psycopg import AsyncConnection

from tradewind.trail.columns import common_rows
from tradewind.trail.errors import TargetRefused, TargetUnavailable
from tradewind.trail.events import EVENTS_PER_PAGE, StoredEvent
from tradewind.trail.target import Identity, Piece, check_identity

EVENTS_PER_TRANSACTION = 10_000
ADVISORY_LOCK = 0x7477_7472_6169_6C  # one export at a time makes or changes the tables of a database
CONNECT_S_MAX = 10
PORT_DEFAULT = 5432
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

TABLES = """
CREATE TABLE IF NOT EXISTS tradewind_events (
    partition integer NOT NULL,
    sequence bigint NOT NULL,
    at timestamptz,
    type text,
    account text,
    cause text,
    event json NOT NULL,
    PRIMARY KEY (partition, sequence)
);
CREATE INDEX IF NOT EXISTS tradewind_events_of_account ON tradewind_events (account, sequence);
CREATE TABLE IF NOT EXISTS tradewind_positions (partition integer PRIMARY KEY, sequence bigint NOT NULL);
CREATE TABLE IF NOT EXISTS tradewind_export (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    name text NOT NULL, cluster text NOT NULL, partitions integer NOT NULL, format integer NOT NULL
);
"""
COPY = "COPY tradewind_events (partition, sequence, at, type, account, cause, event) FROM STDIN"
POSITION = "SELECT sequence FROM tradewind_positions WHERE partition = %s"
POSITION_LOCKED = "SELECT sequence FROM tradewind_positions WHERE partition = %s FOR UPDATE"
PAGE = (
    "SELECT sequence, event::text FROM tradewind_events "
    "WHERE partition = %s AND sequence > %s ORDER BY sequence LIMIT %s"
)


class PostgresTarget:
    """A database by its URL. Pieces of several partitions are written one after another.

    `name` is what the cluster knows it by: without a password, and an earlier export's name stays.
    """

    def __init__(self, url: str, *, name: str | None = None, events: int = EVENTS_PER_TRANSACTION) -> None:
        self.events_per_piece = events
        self._url = url
        self._place = place_of(url)
        self._name = name or self._place
        self._connection: AsyncConnection | None = None
        self._one_at_a_time = asyncio.Lock()

    async def open(self, cluster: str, partitions: int) -> Identity:
        self._connection = await self._connect()
        try:
            return await self._take(self._connection, Identity(self._name, cluster, partitions))
        except psycopg.Error as error:
            raise self._unavailable(error) from error

    async def _take(self, connection: AsyncConnection, own: Identity) -> Identity:
        """One export at a time, for as long as the connection lasts; then the tables, and whose they are."""
        locked = await (
            await connection.execute("SELECT pg_try_advisory_lock(%s)", [ADVISORY_LOCK])
        ).fetchone()
        if not locked or not locked[0]:
            raise TargetRefused(f"another export writes to {self._place}")
        async with connection.transaction():
            await connection.execute(TABLES)
            await connection.execute(
                "INSERT INTO tradewind_export (name, cluster, partitions, format) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT DO NOTHING",
                msgspec.structs.astuple(own),
            )
            await connection.execute(
                "INSERT INTO tradewind_positions SELECT number, 0 FROM generate_series(0, %s) AS number "
                "ON CONFLICT DO NOTHING",
                [own.partitions - 1],
            )
            row = await (
                await connection.execute("SELECT name, cluster, partitions, format FROM tradewind_export")
            ).fetchone()
            identity = Identity(*(row or ()))
            check_identity(identity, own.cluster, own.partitions)
        return identity

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def position(self, partition: int) -> int:
        try:
            async with self._one_at_a_time:
                return await self._position(self._opened(), partition, POSITION)
        except psycopg.Error as error:
            raise self._unavailable(error) from error

    @asynccontextmanager
    async def piece(self, partition: int, after: int) -> AsyncIterator[Piece]:
        connection = self._opened()
        try:
            async with self._one_at_a_time, connection.transaction():
                at = await self._position(connection, partition, POSITION_LOCKED)
                if at != after:
                    raise TargetRefused(
                        f"{self._place} is at event {at} of partition {partition}, not {after}"
                    )
                piece = _Rows(connection, partition, after)
                yield piece
                if not piece.is_complete:
                    raise psycopg.Rollback
        except psycopg.Error as error:
            raise self._unavailable(error) from error

    async def read(self, partition: int) -> AsyncIterator[list[StoredEvent]]:
        after = 0
        connection = await self._connect()
        try:
            while True:
                rows = await (await connection.execute(PAGE, [partition, after, EVENTS_PER_PAGE])).fetchall()
                if not rows:
                    return
                yield [StoredEvent(sequence, event.encode()) for sequence, event in rows]
                after = rows[-1][0]
        except psycopg.Error as error:
            raise self._unavailable(error) from error
        finally:
            await connection.close()

    async def _position(self, connection: AsyncConnection, partition: int, query: LiteralString) -> int:
        row = await (await connection.execute(query, [partition])).fetchone()
        return int(row[0]) if row else 0

    async def _connect(self) -> AsyncConnection:
        try:
            connection = await AsyncConnection.connect(
                self._url, autocommit=True, connect_timeout=CONNECT_S_MAX
            )
            # Trimming believes what was committed: it must survive the database's own crash.
            await connection.execute("SET synchronous_commit = on")
            return connection
        except psycopg.Error as error:
            raise self._unavailable(error) from error

    def _opened(self) -> AsyncConnection:
        assert self._connection is not None, "open() comes first"
        return self._connection

    def _unavailable(self, error: psycopg.Error) -> TargetUnavailable:
        return TargetUnavailable(f"{self._place}: {str(error).strip() or type(error).__name__}")


class _Rows:
    """Rows of an open transaction."""

    def __init__(self, connection: AsyncConnection, partition: int, after: int) -> None:
        self.is_complete = False
        self._connection = connection
        self._partition = partition
        self._until = after

    async def add(self, events: Sequence[StoredEvent]) -> None:
        async with self._connection.cursor() as cursor, cursor.copy(COPY) as copy:
            for partition, sequence, at_ms, *rest in common_rows(self._partition, events):
                await copy.write_row([partition, sequence, _timestamp(at_ms), *map(_storable, rest)])
        self._until += len(events)

    async def complete(self) -> None:
        await self._connection.execute(
            "UPDATE tradewind_positions SET sequence = %s WHERE partition = %s",
            [self._until, self._partition],
        )
        self.is_complete = True


def place_of(url: str) -> str:
    """The URL as host, port and database: without user and password."""
    parts = urlsplit(url)
    host = parts.hostname or dict(parse_qsl(parts.query)).get("host", "")
    return f"postgresql://{host}:{parts.port or PORT_DEFAULT}{parts.path}"


def _timestamp(at_ms: int | None) -> datetime | None:
    try:
        return None if at_ms is None else EPOCH + timedelta(milliseconds=at_ms)
    except OverflowError:
        return None  # not a time that an engine of ours wrote; it stands in the event itself


def _storable(value: Any) -> Any:
    """PostgreSQL has no zero character in texts."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value
