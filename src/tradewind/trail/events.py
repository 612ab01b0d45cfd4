"""The events of one partition as they are stored, in pages of bounded size."""

from collections.abc import AsyncIterator
from typing import NamedTuple

from tradewind import RedisCluster
from tradewind.client.calls import BoundCalls
from tradewind.engine.keys import PartitionKeys
from tradewind.trail.errors import EventsMissing

EVENTS_PER_PAGE = 1_000


class StoredEvent(NamedTuple):
    """An event's number in its partition, and the JSON that the engine wrote, byte for byte."""

    sequence: int
    payload: bytes


async def pages_of(
    client: RedisCluster | BoundCalls, partition: int, after: int, until: int
) -> AsyncIterator[list[StoredEvent]]:
    """Events `after` + 1 to `until` of the cluster, each once and in order.

    :raises EventsMissing: one of them is not there any more
    """
    keys = PartitionKeys(partition)
    while after < until:
        count = min(EVENTS_PER_PAGE, until - after)
        reply = await client.execute_command(
            "XRANGE", keys.events, f"({after}-0", f"{until}-0", "COUNT", count
        )
        page = [StoredEvent(_sequence(id), fields[b"event"]) for id, fields in reply]
        numbers = [event.sequence for event in page]
        expected = list(range(after + 1, after + 1 + count))
        if numbers != expected:
            there = set(numbers)
            missing = next(number for number in expected if number not in there)
            raise EventsMissing(f"partition {partition}: event {missing} is not in the cluster any more")
        yield page
        after += count


def _sequence(stream_id: bytes) -> int:
    return int(stream_id.partition(b"-")[0])
