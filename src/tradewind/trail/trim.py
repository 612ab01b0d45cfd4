"""Takes old events out of the servers' memory: first the checkpoint that stands for them, then they go.

What may be trimmed: what every registered target has, or what somebody asks for by number. Killed between
the two steps, events stay that nobody needs; the next trim takes them.
"""

from dataclasses import dataclass

from tradewind import RedisCluster
from tradewind.engine.keys import PartitionKeys
from tradewind.trail.checkpoint import (
    checkpoint_sequence,
    last_of_its_cause,
    make_checkpoint,
    put_in_force,
)
from tradewind.trail.positions import registered

EVENTS_PER_TRIM = 5_000  # in one command: more would keep the server busy
KEEP_DEFAULT = 1_000


@dataclass(frozen=True)
class TrimRequest:
    """Which events may go. `before`: those with lower numbers, exported or not; None: the exported ones.

    The newest `keep` events of each partition stay in any case: who follows an account's events and was away
    for a moment goes on from them.
    """

    before: int | None = None
    keep: int = KEEP_DEFAULT

    def until(self, last: int, targets: dict[str, int]) -> int:
        """The last event that may go, of a partition whose last event is `last`."""
        exported = min(targets.values(), default=0)
        limit = exported if self.before is None else self.before - 1
        return max(0, min(limit, last - self.keep))


@dataclass(frozen=True)
class TrimPlan:
    """What would go from one partition: events up to `until`, `events` of them."""

    partition: int
    until: int
    events: int


async def plan_trim(client: RedisCluster, partition: int, request: TrimRequest) -> TrimPlan:
    """What the request comes to just now. Changes nothing."""
    keys = PartitionKeys(partition)
    last = int(await client.execute_command("HGET", keys.cursor, "sequence") or 0)
    until = request.until(last, await registered(client, partition))
    in_force = await checkpoint_sequence(client, partition)
    if until > in_force:
        until = await last_of_its_cause(client, partition, until, last)
    until = max(until, in_force)
    first = await _first(client, keys)
    return TrimPlan(partition, until, max(0, until - first + 1) if first else 0)


async def trim(client: RedisCluster, plan: TrimPlan, request: TrimRequest) -> None:
    """Carry a plan out. May run twice without harm.

    :raises TrimRefused: a target has not got that far after all; nothing was trimmed
    :raises EventsMissing: events that the checkpoint must be made from are not there; nothing was trimmed
    """
    if not plan.events:
        return
    if plan.until > await checkpoint_sequence(client, plan.partition):
        checkpoint = await make_checkpoint(client, plan.partition, plan.until)
        forced = request.before is not None
        await put_in_force(client, plan.partition, checkpoint, not_exported_too=forced)
    keys = PartitionKeys(plan.partition)
    while (first := await _first(client, keys)) and first <= plan.until:
        end = min(plan.until, first + EVENTS_PER_TRIM - 1)
        await client.execute_command("XTRIM", keys.events, "MINID", f"{end + 1}-0")


async def _first(client: RedisCluster, keys: PartitionKeys) -> int:
    """The number of the oldest event that is there; 0: there is none."""
    page = await client.execute_command("XRANGE", keys.events, "-", "+", "COUNT", 1)
    return int(page[0][0].partition(b"-")[0]) if page else 0
