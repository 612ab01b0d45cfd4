"""What tests ask of a client."""

from typing import Any

from redis.crc import key_slot

from tests.support.waiting import eventually
from tradewind import Redis, RedisCluster


async def check_idle(client: RedisCluster | Redis) -> None:
    """Nothing is left in it: no command in flight, none waiting, no byte counted."""

    def is_idle() -> bool:
        stats = client.stats()
        counted = [node.in_flight_bytes for node in stats.nodes] + [
            node.waiting_dedicated for node in stats.nodes
        ]
        return not stats.in_flight and not stats.waiting and not any(counted)

    await eventually(is_idle)


def keys_of_each_shard(client: RedisCluster, prefix: str = "key") -> dict[str, str]:
    """One key for each primary, by the primary's name."""
    keys: dict[str, str] = {}
    for number in range(1000):
        node = client.get_node_from_key(f"{prefix}:{number}")
        assert node is not None
        keys.setdefault(node.name, f"{prefix}:{number}")
        if len(keys) == len(client.get_primaries()):
            return keys
    raise AssertionError("a primary without slots")


def key_in_slot_range(first: int, last: int, prefix: str = "key") -> str:
    """A key whose slot is in the range."""
    number = 0
    while not first <= key_slot(f"{prefix}:{number}".encode()) <= last:
        number += 1
    return f"{prefix}:{number}"


def tally(results: list[Any]) -> dict[str, int]:
    """How many of each kind, for messages of failed assertions."""
    counts: dict[str, int] = {}
    for result in results:
        name = type(result).__name__ if isinstance(result, BaseException) else "answered"
        counts[name] = counts.get(name, 0) + 1
    return counts
