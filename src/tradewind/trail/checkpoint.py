"""The accounts of a partition where its remaining events begin.

A checkpoint is made from events alone (from the checkpoint before it, and what came since), never copied
from the live accounts: so what is proved from it is proved from the events. It lies in the partition's slot
and is put in force before the first event is trimmed.
"""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
from redis.exceptions import ResponseError

from tradewind import RedisCluster
from tradewind.client.calls import BoundCalls
from tradewind.engine.account import Account, apply, from_fields, to_fields
from tradewind.engine.errors import InconsistentEvent
from tradewind.engine.keys import PartitionKeys
from tradewind.engine.library import is_missing, load_library
from tradewind.engine.messages import Event, decode_event
from tradewind.trail.errors import CheckpointBroken, TrimRefused
from tradewind.trail.events import EVENTS_PER_PAGE, pages_of
from tradewind.trail.positions import LIBRARY

ACCOUNTS_PER_WRITE = 200
ACCOUNT_PREFIX = b"account:"
OTHER_FIELDS = 2  # besides one for each account: sequence, mark

_decode_fields = msgspec.json.Decoder(dict[str, str]).decode


@dataclass(frozen=True)
class Checkpoint:
    """Accounts by id, as their hashes were, right after event `sequence`. 0: before the first event."""

    sequence: int = 0
    accounts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def rebuilt(self) -> dict[str, Account]:
        """:raises CheckpointBroken: somebody else has changed it"""
        try:
            return {name: from_fields(fields) for name, fields in self.accounts.items()}
        except ValueError as error:
            raise CheckpointBroken(f"the checkpoint after event {self.sequence}: {error}") from error


async def checkpoint_sequence(client: RedisCluster, partition: int) -> int:
    """The last event that the checkpoint in force stands for; 0: there is none."""
    return int(await client.execute_command("HGET", PartitionKeys(partition).checkpoint, "sequence") or 0)


async def load_checkpoint(client: RedisCluster, partition: int) -> Checkpoint:
    """The checkpoint in force, or the empty one. Consistent: loaded again if it was replaced meanwhile."""
    key = PartitionKeys(partition).checkpoint
    while True:
        sequence = await checkpoint_sequence(client, partition)
        accounts: dict[str, Mapping[str, str]] = {}
        cursor = 0
        while sequence:
            cursor, fields = await client.execute_command("HSCAN", key, cursor, "COUNT", ACCOUNTS_PER_WRITE)
            for name, value in fields.items():
                if name.startswith(ACCOUNT_PREFIX):
                    accounts[name.removeprefix(ACCOUNT_PREFIX).decode()] = _decode_fields(value)
            if not int(cursor):
                break
        if await checkpoint_sequence(client, partition) == sequence:
            return Checkpoint(sequence, accounts)


async def load_checkpoint_of(
    client: RedisCluster | BoundCalls, partition: int, account: str
) -> tuple[int, Mapping[str, str] | None]:
    """The event that the checkpoint in force stands for (0: none), and one account's hash right after it."""
    key, field = PartitionKeys(partition).checkpoint, ACCOUNT_PREFIX + account.encode()
    sequence, fields = await client.execute_command("HMGET", key, "sequence", field)
    return int(sequence or 0), None if fields is None else _decode_fields(fields)


async def make_checkpoint(client: RedisCluster, partition: int, sequence: int) -> Checkpoint:
    """The accounts after event `sequence`, from the checkpoint in force and the events since.

    :raises EventsMissing: not all of these are there
    :raises TrimRefused: they do not follow from each other; `tradewind audit` says more
    """
    before = await load_checkpoint(client, partition)
    accounts = before.rebuilt()
    try:
        async for page in pages_of(client, partition, before.sequence, sequence):
            for event in page:
                apply(accounts, decode_event(event.payload))
    except (InconsistentEvent, msgspec.DecodeError) as error:
        raise TrimRefused(f"partition {partition}: {error}; run `tradewind audit`") from error
    return Checkpoint(sequence, {name: to_fields(account) for name, account in accounts.items()})


async def last_of_its_cause(client: RedisCluster, partition: int, sequence: int, last: int) -> int:
    """The last event up to `sequence` with which a command is done: what it did is not taken apart.

    `last` is the partition's last event, which ends its cause in any case. 0: there is no such event.
    """
    if sequence >= last:
        return last
    keys = PartitionKeys(partition)
    start, later = f"{sequence + 1}-0", None
    while True:
        page = await client.execute_command("XREVRANGE", keys.events, start, "-", "COUNT", EVENTS_PER_PAGE)
        for stream_id, fields in page:
            cause = _cause(fields[b"event"])
            if later not in (None, cause):
                return int(stream_id.partition(b"-")[0])
            later = cause
        if len(page) < EVENTS_PER_PAGE:
            return 0
        start = f"({page[-1][0].decode()}"


def _cause(payload: bytes) -> tuple[str, str]:
    """Client order ids are unique within an account."""
    try:
        event: Event = decode_event(payload)
    except msgspec.DecodeError as error:
        raise TrimRefused(f"an event cannot be read: {error}; run `tradewind audit`") from error
    return event.account, event.cause


async def put_in_force(
    client: RedisCluster, partition: int, checkpoint: Checkpoint, *, not_exported_too: bool
) -> None:
    """Store it, then replace the one before in one step, durably.

    :raises TrimRefused: a target lacks events that it stands for, or another trim was quicker
    """
    keys = PartitionKeys(partition)
    mark = secrets.token_hex(8)
    await client.execute_command("UNLINK", keys.checkpoint_made)
    for some in _in_parts(checkpoint.accounts):
        await client.execute_command("HSET", keys.checkpoint_made, *some)
    await client.execute_command("HSET", keys.checkpoint_made, "sequence", checkpoint.sequence, "mark", mark)
    names = (keys.exports, keys.cursor, keys.checkpoint_made, keys.checkpoint)
    fields = len(checkpoint.accounts) + OTHER_FIELDS
    arguments = (checkpoint.sequence, int(not_exported_too), mark, fields)
    call = ("FCALL", "tradewind_checkpoint", len(names), *names, *arguments)
    durable = client.durable(replicas=1)
    try:
        try:
            await durable.execute_command(*call)
        except ResponseError as error:
            if not is_missing(error):
                raise
            await load_library(client, LIBRARY)
            await durable.execute_command(*call)
    except ResponseError as error:
        if not str(error).startswith("TRIM "):
            raise
        raise TrimRefused(f"partition {partition}: {str(error).removeprefix('TRIM ')}") from error


def _in_parts(accounts: Mapping[str, Mapping[str, str]]) -> Iterator[list[bytes]]:
    """Fields and values for HSET, some accounts at a time."""
    words: list[bytes] = []
    for name, fields in accounts.items():
        words += [ACCOUNT_PREFIX + name.encode(), msgspec.json.encode(fields)]
        if len(words) >= 2 * ACCOUNTS_PER_WRITE:
            yield words
            words = []
    if words:
        yield words
