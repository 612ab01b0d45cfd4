"""An account's statement from what the cluster has: the checkpoint, and the events behind it."""

from datetime import UTC, datetime

from tradewind import RedisCluster, clock
from tradewind.client.calls import BoundCalls
from tradewind.engine.cash import cash_flows
from tradewind.engine.keys import PartitionKeys, partition_of
from tradewind.engine.messages import Event, decode_event
from tradewind.engine.statement import Statement, statement
from tradewind.trail.checkpoint import load_checkpoint_of
from tradewind.trail.errors import AccountUnknown, EventsMissing, StatementTooLong
from tradewind.trail.events import StoredEvent, pages_of


async def read_statement(
    client: RedisCluster | BoundCalls,
    partitions: int,
    account: str,
    from_ms: int,
    until_ms: int,
    *,
    events_max: int | None = None,
) -> Statement:
    """What happened to the account from `from_ms` on and before `until_ms`. Reads only.

    The last event is asked of the client as it is, and those up to it of the primary, which has them: with a
    client that reads from replicas nothing is told that a failover takes back.

    :raises AccountUnknown: no event names the account
    :raises EventsMissing: events of the time asked for have been trimmed
    :raises StatementTooLong: more than `events_max` events of its partition would have to be read
    """
    partition = partition_of(account, partitions)
    primary = client.with_options(read_from="primary")
    after, before = await load_checkpoint_of(primary, partition, account)
    last = int(await client.execute_command("HGET", PartitionKeys(partition).cursor, "sequence") or 0)
    if events_max is not None and last - after > events_max:
        raise StatementTooLong(
            f"{last - after} events of the partition lie behind it; the limit is {events_max}"
        )
    events: list[Event] = []
    is_known, first_ms = before is not None, clock.now_ms()
    async for page in pages_of(primary, partition, after, last):
        if page[0].sequence == after + 1:
            first_ms = decode_event(page[0].payload).at_ms
        own = _events_of(account, page)
        is_known = is_known or bool(own)
        events += [event for event in own if cash_flows(event)]
    if not is_known:
        raise AccountUnknown(f"no event names account {account}")
    if before is None:
        return statement(events, account, from_ms, until_ms)
    if from_ms < first_ms:
        begins = datetime.fromtimestamp(first_ms / 1_000, UTC).isoformat(timespec="milliseconds")
        raise EventsMissing(
            f"the events before {begins} have been trimmed; ask from then on, or read the export"
        )
    return statement(events, account, from_ms, until_ms, int(before["balance"]))


def _events_of(account: str, page: list[StoredEvent]) -> list[Event]:
    """Most of a partition's events are of others: those are not decoded."""
    name = f'"{account}"'.encode()
    found = [decode_event(stored.payload) for stored in page if name in stored.payload]
    return [event for event in found if event.account == account]
