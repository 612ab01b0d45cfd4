"""Commands that were put aside: what they are, handing them in again, dropping them.

A command that cannot be read, or broke the rules of the engine twice, goes to its partition's poison stream
with the reason, and the partition goes on. There is room for 10,000 in each partition. Nothing is dropped to
make room: at the maximum the partition takes no command until somebody has looked, while quotes and stop-outs
go on.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from tradewind import RedisCluster
from tradewind.engine.keys import PartitionKeys

POISON_MAX: Final = 10_000
"""As functions/engine.lua has it; a test holds them against each other."""

READ_AT_ONCE: Final = 500


@dataclass(frozen=True)
class PoisonCommand:
    """`name`, as people type it, is the partition and the id in its poison stream."""

    partition: int
    id: str
    command: bytes
    reason: str

    @property
    def name(self) -> str:
        return f"{self.partition}:{self.id}"


async def poison_commands(client: RedisCluster, partitions: int) -> AsyncIterator[PoisonCommand]:
    """All that are there, by partition and time. What is replayed and comes back meanwhile is not among them:
    each partition is read up to the one that was its last.
    """
    for partition in range(partitions):
        key = PartitionKeys(partition).poison
        last = await client.execute_command("XREVRANGE", key, "+", "-", "COUNT", 1)
        end = _text(last[0][0]) if last else ""
        after = "-"
        while end:
            entries = await client.execute_command("XRANGE", key, after, end, "COUNT", READ_AT_ONCE)
            for id, fields in entries:
                found = PoisonCommand(partition, _text(id), *_fields(fields))
                yield found
                after = f"({found.id}"
            if len(entries) < READ_AT_ONCE:
                break


async def count_poison(client: RedisCluster, partition: int) -> int:
    """How many commands of the partition were put aside."""
    return int(await client.execute_command("XLEN", PartitionKeys(partition).poison))


async def replay(client: RedisCluster, partition: int, id: str) -> bool:
    """Hand a command in again under its client order id, and take it off the stream, both or neither.

    Returns when a replica has it; False: it is not there any more. May be repeated without harm: a command
    that was carried out meanwhile is answered, not carried out again.
    """
    keys = PartitionKeys(partition)
    durable = client.durable(replicas=1, idempotent=True)
    return bool(await durable.execute_command("FCALL", "tradewind_replay", 2, keys.poison, keys.commands, id))


async def drop(client: RedisCluster, partition: int, id: str) -> bool:
    """Forget a command for good. False: it is not there any more."""
    durable = client.durable(replicas=1, idempotent=True)
    return bool(await durable.execute_command("XDEL", PartitionKeys(partition).poison, id))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _fields(fields: dict[bytes, bytes]) -> tuple[bytes, str]:
    return fields.get(b"command", b""), fields.get(b"reason", b"").decode(errors="replace")
