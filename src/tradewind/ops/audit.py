"""Proves from the cluster and from what callers were told that nothing was lost, doubled or miscounted.

Partition after partition, a few at a time: all events in pages, then the accounts, the stored answers, the
journal. Reads only. A system at work is looked at in its pauses: a partition whose cursor moved meanwhile is
read on and looked at again.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO

import msgspec

from tradewind import RedisCluster, clock
from tradewind.engine.keys import DAY_MS, PartitionKeys, partition_of
from tradewind.engine.messages import PositionClosed
from tradewind.ops.errors import StillChanging
from tradewind.ops.journal import JournalEntry
from tradewind.ops.partition_audit import Findings, PartitionAudit
from tradewind.trail.checkpoint import Checkpoint, checkpoint_sequence, load_checkpoint
from tradewind.trail.target import Target

PARTITIONS_AT_ONCE = 4
PAGE = 1_000
ACCOUNTS_AT_ONCE = 200
LOOKS_MAX = 20
BUCKETS_MAX = 64
DAYS_KEPT = 3
EFFECTS_KEPT_MS = (DAYS_KEPT + 1) * DAY_MS

_encode_line = msgspec.json.Encoder().encode
_decode_entry = msgspec.json.Decoder(JournalEntry).decode


@dataclass(frozen=True)
class StopOutWindow:
    """Stop-outs are counted when the quote that caused them was stamped in this time."""

    from_ms: int = 0
    until_ms: int = 1 << 62

    def holds(self, event: PositionClosed) -> bool:
        stamp_ms = int(event.cause.rpartition(":")[2])
        return self.from_ms <= stamp_ms <= self.until_ms


@dataclass
class StopOuts:
    positions: int = 0
    accounts: int = 0
    last_ms: int = 0


@dataclass
class AuditResult:
    """What was looked at, and what is wrong."""

    partitions: int
    findings: Findings = field(default_factory=Findings)
    events: int = 0
    accounts: int = 0
    positions: int = 0
    journal_entries: int = 0
    trimmed: int = 0
    """Events that were not looked at, because checkpoints stand for them."""
    put_aside: int = 0
    """Commands that no engine could read: nobody of ours sent them."""
    stop_outs: StopOuts = field(default_factory=StopOuts)

    @property
    def clean(self) -> bool:
        return self.findings.clean

    def as_dict(self) -> dict[str, object]:
        found = self.findings
        return {
            "clean": self.clean,
            "lost": found.lost,
            "duplicated": found.duplicated,
            "balance_errors": found.balance_errors,
            "gaps": found.gaps,
            "mismatched": found.mismatched,
            "answer_errors": found.answer_errors,
            "journal_errors": found.journal_errors,
            "put_aside": self.put_aside,
            "events": self.events,
            "trimmed": self.trimmed,
            "accounts": self.accounts,
            "positions": self.positions,
            "journal_entries": self.journal_entries,
            "findings": found.sentences,
        }


async def audit(
    client: RedisCluster,
    partitions: int,
    journal: Iterable[JournalEntry] = (),
    *,
    told: int | None = None,
    earlier: Iterable[JournalEntry] = (),
    window: StopOutWindow | None = None,
    archive: Target | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> AuditResult:
    """Audit the whole cluster. `progress` hears how many partitions are done.

    Where events were trimmed it begins with the checkpoint's accounts; or, with an `archive` that has those
    events, at the first event, and the checkpoint is held against the rebuild, too.

    `told`: how many entries the journal must have, where somebody counted. `earlier`: what callers of earlier
    runs were told.

    :raises StillChanging: a partition never stood still; stop the load first
    :raises CheckpointBroken: a checkpoint cannot be read; an `archive` needs none
    """
    result = AuditResult(partitions)
    window = window or StopOutWindow()
    waiting = iter(range(partitions))
    done = 0

    with _Buckets(partitions) as entries:
        found = entries.add(journal)
        if told is not None and found != told:
            result.findings.journal_errors += abs(found - told)
            result.findings.say(f"the journal has {found} entries, and callers were told {told} outcomes")
        result.journal_entries = found + entries.add(earlier)

        kept_ms = None if result.journal_entries else EFFECTS_KEPT_MS

        async def auditor() -> None:
            nonlocal done
            for partition in waiting:
                found = await _read_partition(client, partition, archive, kept_ms)
                await _check_partition(client, found, entries, window, result)
                done += 1
                progress(done)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(PARTITIONS_AT_ONCE):
                    group.create_task(auditor())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed  # the first reason is enough for people
    return result


async def _read_partition(
    client: RedisCluster, partition: int, archive: Target | None, effects_kept_ms: int | None
) -> PartitionAudit:
    """All that follows from the events; once more if they were trimmed meanwhile."""
    keys = PartitionKeys(partition)
    for _ in range(LOOKS_MAX):
        found = PartitionAudit(partition, effects_kept_ms)
        checkpoint = await load_checkpoint(client, partition)
        if archive is None:
            found.begin(checkpoint.sequence, checkpoint.rebuilt())
        elif checkpoint.sequence:
            await _read_archive(archive, found, checkpoint)
        await _read_until_still(client, keys, found)
        if await checkpoint_sequence(client, partition) == checkpoint.sequence:
            return found
    raise StillChanging(f"partition {partition} was trimmed during {LOOKS_MAX} looks: audit again")


async def _read_archive(archive: Target, found: PartitionAudit, checkpoint: Checkpoint) -> None:
    """The events that were trimmed; what they come to must be the checkpoint."""
    async for page in archive.read(found.partition):
        for event in page:
            if event.sequence <= checkpoint.sequence:
                found.take(f"{event.sequence}-0", event.payload)
        if page[-1].sequence >= checkpoint.sequence:
            break
    names = {*found.accounts, *checkpoint.accounts}
    found.check_accounts({name: checkpoint.accounts.get(name, {}) for name in names})


async def _check_partition(
    client: RedisCluster,
    found: PartitionAudit,
    told: "_Buckets",
    window: StopOutWindow,
    result: AuditResult,
) -> None:
    keys = PartitionKeys(found.partition)
    found.check_money()
    today = clock.now_ms() // DAY_MS
    answers = [pair async for pair in stored_answers(client, keys, today)]
    found.check_stored_answers(answers, today)
    found.check_told(told.of(found.partition))
    put_aside = int(await client.execute_command("XLEN", keys.poison))
    stop_outs = [event for event in found.stop_outs if window.holds(event)]
    result.findings.add(found.findings)
    result.events += found.events
    result.trimmed += found.begins_after
    result.accounts += len(found.accounts)
    result.positions += sum(len(account.positions) for account in found.accounts.values())
    result.put_aside += put_aside
    result.stop_outs.positions += len(stop_outs)
    result.stop_outs.accounts += len({event.account for event in stop_outs})
    last_ms = max((event.at_ms for event in stop_outs), default=0)
    result.stop_outs.last_ms = max(result.stop_outs.last_ms, last_ms)


async def _read_until_still(client: RedisCluster, keys: PartitionKeys, found: PartitionAudit) -> None:
    """All events, then the accounts; once more if anything was committed between."""
    for _ in range(LOOKS_MAX):
        before = await _cursor(client, keys)
        await _read_events(client, keys, found)
        stored = await _stored_accounts(client, keys, found)
        if await _cursor(client, keys) == before:
            found.check_accounts(stored)
            found.end(before)
            return
    raise StillChanging(
        f"partition {keys.partition} changed during {LOOKS_MAX} looks: stop the load, then audit again"
    )


async def _cursor(client: RedisCluster, keys: PartitionKeys) -> int:
    return int(await client.execute_command("HGET", keys.cursor, "sequence") or 0)


async def _read_events(client: RedisCluster, keys: PartitionKeys, found: PartitionAudit) -> None:
    """From where `found` stands to the end, page by page."""
    start = f"({found.sequence}-0" if found.sequence else "-"
    while True:
        page = await client.execute_command("XRANGE", keys.events, start, "+", "COUNT", PAGE)
        for stream_id, fields in page:
            found.take(stream_id.decode(), fields.get(b"event") if fields else None)
        if len(page) < PAGE:
            return
        start = f"({page[-1][0].decode()}"


async def _stored_accounts(
    client: RedisCluster, keys: PartitionKeys, found: PartitionAudit
) -> dict[str, dict[str, str]]:
    """Every account that the index or the events know, as the cluster holds it."""
    indexed = {name.decode() for name in await client.execute_command("SMEMBERS", keys.accounts)}
    names = sorted(indexed | found.accounts.keys())
    stored = {}
    for at in range(0, len(names), ACCOUNTS_AT_ONCE):
        some = names[at : at + ACCOUNTS_AT_ONCE]
        hashes = await asyncio.gather(
            *(client.execute_command("HGETALL", keys.account(name)) for name in some)
        )
        for name, fields in zip(some, hashes, strict=True):
            # An account that the index does not know is not found by the next owner: as good as gone.
            stored[name] = {k.decode(): v.decode() for k, v in fields.items()} if name in indexed else {}
    return stored


async def stored_answers(
    client: RedisCluster, keys: PartitionKeys, today: int
) -> AsyncIterator[tuple[str, bytes]]:
    """All answers kept for repeats. Yields a field twice if the scan does."""
    for day in range(today - DAYS_KEPT, today + 2):  # a worker's clock may be ahead of ours
        cursor = 0
        while True:
            cursor, pairs = await client.execute_command("HSCAN", keys.ids(day), cursor, "COUNT", PAGE)
            for name, value in pairs.items():
                yield name.decode(), value
            if not int(cursor):
                break


class _Buckets:
    """Journals, sorted by partition into files without names, however long they are."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._files: Sequence[IO[bytes]] = ()
        self._open = ExitStack()

    def __enter__(self) -> "_Buckets":
        buckets = min(self._partitions, BUCKETS_MAX)
        self._files = [self._open.enter_context(tempfile.TemporaryFile()) for _ in range(buckets)]  # noqa: SIM115
        return self

    def add(self, journal: Iterable[JournalEntry]) -> int:
        """Sort one in, and say how many entries it has."""
        count = 0
        for entry in journal:
            count += 1
            self._file(self._partition(entry)).write(_encode_line(entry) + b"\n")
        return count

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def of(self, partition: int) -> Iterator[JournalEntry]:
        """The entries of one partition."""
        file = self._file(partition)
        file.seek(0)
        for line in file:
            entry = _decode_entry(line)
            if self._partition(entry) == partition:
                yield entry

    def _partition(self, entry: JournalEntry) -> int:
        return partition_of(entry.asked.account, self._partitions)

    def _file(self, partition: int) -> IO[bytes]:
        return self._files[partition % len(self._files)]
