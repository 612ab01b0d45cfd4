"""One partition in the cluster: loading it, reading its commands, committing a batch.

Only the worker that holds the partition's lease commits; the commit function checks that, and that the
worker's view of the cursor is the cluster's. A commit is durable: it returns when a replica has it.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from redis.exceptions import ResponseError

from tradewind import RedisCluster
from tradewind.engine.account import Account, from_fields
from tradewind.engine.keys import DAY_MS, PartitionKeys
from tradewind.engine.library import is_missing, load_library

IDS_KEPT_S = 3 * 86_400  # answers are found from yesterday to tomorrow; see `days_of_answers`
EMPTY_CURSOR = "0-0"
COMMIT_TIMEOUT_S = 5.0


class LeaseLost(Exception):
    """Another worker owns the partition by now: stop, and forget what is in memory."""


class AnswerKnown(Exception):
    """A command of the batch was answered before: look the answers up, then decide again."""


class ViewOutdated(Exception):
    """The cluster is not where this worker thinks it is: load the partition again."""


class PoisonFull(ViewOutdated):
    """A command of the batch must be put aside, and there is no more room for it."""


@dataclass(frozen=True)
class Lease:
    """The right to commit to a partition. `epoch` grows with every grant and never repeats."""

    partition: int
    worker: str
    epoch: int


@dataclass(frozen=True)
class Cursor:
    """How far a partition has got: the last command applied, and the number of the last event."""

    command: str = EMPTY_CURSOR
    sequence: int = 0


@dataclass(frozen=True)
class PartitionState:
    """A partition as the cluster holds it."""

    cursor: Cursor
    accounts: list[Account]


@dataclass(frozen=True)
class Batch:
    """What one commit writes. `changes`: account id -> (fields to set, fields to delete)."""

    last_command: str
    events: Sequence[bytes] = ()
    answers: Mapping[str, bytes] = field(default_factory=dict)
    changes: Mapping[str, tuple[Mapping[str, str], Sequence[str]]] = field(default_factory=dict)
    opened: Sequence[str] = ()
    poisoned: Sequence[tuple[bytes, str]] = ()
    drop_applied: bool = False  # let the stream forget the commands up to the cursor


class PartitionStore:
    """Reads and writes one partition."""

    def __init__(self, client: RedisCluster, partition: int) -> None:
        self.keys = PartitionKeys(partition)
        self._client = client
        self._durable = client.durable(replicas=1, timeout_s=COMMIT_TIMEOUT_S, lanes=1)

    async def load(self) -> PartitionState:
        """The state of one moment. An earlier commit of the lease's holder may still be on its way, in the
        queue of a server that stood still: what it changes meanwhile is read again.
        """
        cursor = await self._cursor()
        while True:
            names = await self._names()
            hashes = await asyncio.gather(*(self._hash(self.keys.account(name)) for name in names))
            before, cursor = cursor, await self._cursor()
            if cursor == before:
                return PartitionState(cursor, [from_fields(fields) for fields in hashes])

    async def _cursor(self) -> Cursor:
        fields = await self._hash(self.keys.cursor)
        return Cursor(fields["command"], int(fields["sequence"])) if fields else Cursor()

    async def _names(self) -> list[str]:
        members = await self._client.execute_command("SMEMBERS", self.keys.accounts)
        return sorted(name.decode() for name in members)

    async def _hash(self, key: str) -> dict[str, str]:
        fields = await self._client.execute_command("HGETALL", key)
        return {name.decode(): value.decode() for name, value in fields.items()}

    async def read_commands(self, after: str, count: int, block_ms: int) -> list[tuple[str, bytes]]:
        """Commands behind `after`, in order; waits up to `block_ms` for the first."""
        reply = await self._client.execute_command(
            "XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", self.keys.commands, after
        )
        return [(id.decode(), _payload(fields)) for id, fields in _entries(reply)]

    async def known_answers(self, fields: Sequence[str], now_ms: int) -> list[bytes | None]:
        """The stored answer for each `account:client order id`, of the days that are looked at."""
        if not fields:
            return []
        days = await asyncio.gather(
            *(
                self._client.execute_command("HMGET", self.keys.ids(day), *fields)
                for day in days_of_answers(now_ms)
            )
        )
        return [next((one for one in found if one is not None), None) for found in zip(*days, strict=True)]

    async def commit(self, lease: Lease, cursor: Cursor, batch: Batch, now_ms: int) -> Cursor:
        """Write the batch, all or nothing, and wait until a replica has it. Returns the new cursor.

        Raises LeaseLost, AnswerKnown, PoisonFull and ViewOutdated (nothing was written), OutcomeUnknown (it
        may have been: load again).
        """
        keys = self.keys
        names = [keys.owner, keys.cursor, keys.events, *map(keys.ids, days_of_answers(now_ms))]
        names += [keys.commands, keys.poison, keys.accounts, *map(keys.account, batch.changes)]
        arguments: list[str | bytes | int] = [lease.worker, lease.epoch, cursor.command, cursor.sequence]
        arguments += [batch.last_command, IDS_KEPT_S, int(batch.drop_applied)]
        _append(arguments, batch.events)
        _append_pairs(arguments, batch.answers.items())
        _append_pairs(arguments, batch.poisoned)
        _append(arguments, batch.opened)
        for to_set, to_delete in batch.changes.values():
            _append_pairs(arguments, to_set.items())
            _append(arguments, to_delete)
        call = ("FCALL", "tradewind_commit", len(names), *names, *arguments)
        try:
            try:
                sequence = await self._durable.execute_command(*call)
            except ResponseError as error:
                if not is_missing(error):
                    raise
                await load_library(self._client)
                sequence = await self._durable.execute_command(*call)
        except ResponseError as error:
            if str(error).startswith("FENCED"):
                raise LeaseLost(str(error)) from error
            if str(error).startswith("CURSOR"):
                raise ViewOutdated(str(error)) from error
            if str(error).startswith("POISONED"):
                raise PoisonFull(str(error)) from error
            if str(error).startswith("KNOWN"):
                raise AnswerKnown(str(error)) from error
            raise
        return Cursor(batch.last_command, int(sequence))


def days_of_answers(now_ms: int) -> tuple[int, int, int]:
    """Where answers are looked for: the day they are kept under first, then yesterday, and tomorrow.

    Days are by the worker's clock. Around midnight the worker before may have been a day ahead.
    """
    day = now_ms // DAY_MS
    return day, day - 1, day + 1


def _append(arguments: list[str | bytes | int], items: Sequence[str] | Sequence[bytes]) -> None:
    arguments.append(len(items))
    arguments.extend(items)


def _append_pairs(
    arguments: list[str | bytes | int], pairs: Iterable[tuple[str | bytes, str | bytes]]
) -> None:
    flat = [item for pair in pairs for item in pair]
    arguments.append(len(flat) // 2)
    arguments.extend(flat)


def _entries(reply: object) -> list[tuple[bytes, object]]:
    """The entries of one stream, from XREAD's reply as redis-py shapes it for RESP2 and RESP3."""
    if not reply:
        return []
    if isinstance(reply, dict):
        ((entries,),) = reply.values()
    else:
        ((_, entries),) = reply  # type: ignore[misc]  # a list of one [name, entries]
    return list(entries)


def _payload(fields: object) -> bytes:
    value = fields.get(b"command") if isinstance(fields, dict) else None
    return value if isinstance(value, bytes) else b""
