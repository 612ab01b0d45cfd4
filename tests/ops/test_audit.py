"""The audit against a real cluster: what is planted there is found there."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from tests.ops.history import PARTITIONS, History, short_history
from tradewind import RedisCluster, clock
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.errors import NotOpened, PartitionCountFixed
from tradewind.engine.keys import DAY_MS, PartitionKeys
from tradewind.engine.opening import open_engine, partitions_of
from tradewind.ops.audit import AuditResult, audit
from tradewind.ops.journal import Journal

Damage = Callable[[RedisCluster, History], Awaitable[object]]


@pytest.fixture
async def client(clean_cluster: EmbeddedCluster):
    client = RedisCluster.from_url(clean_cluster.url)
    yield client
    await client.aclose()


async def written(client: RedisCluster) -> list[History]:
    await open_engine(client, PARTITIONS)
    histories = [short_history(partition) for partition in range(PARTITIONS)]
    for history in histories:
        await history.write(client)
    return histories


async def audited(client: RedisCluster, histories: list[History]) -> AuditResult:
    entries = [entry for history in histories for entry in history.journal]
    return await audit(client, PARTITIONS, entries)


async def test_a_sound_cluster_is_clean(client):
    histories = await written(client)
    result = await audited(client, histories)
    assert result.clean, result.findings.sentences
    assert result.events == sum(len(history.events) for history in histories)
    assert result.accounts == sum(len(history.accounts) for history in histories)
    assert result.journal_entries == sum(len(history.journal) for history in histories)
    assert result.stop_outs.positions >= result.stop_outs.accounts > 0
    assert result.stop_outs.last_ms > 0


def keys_of(history: History) -> PartitionKeys:
    return PartitionKeys(history.partition)


def account_of(history: History) -> str:
    return keys_of(history).account(next(iter(history.accounts)))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda c, h: c.xdel(keys_of(h).events, f"{len(h.events) - 1}-0"), {"gaps": 1}),
        (lambda c, h: c.xtrim(keys_of(h).events, minid="3-0", approximate=False), {"gaps": 2}),
        (lambda c, h: c.hset(keys_of(h).cursor, "sequence", len(h.events) + 1), {"gaps": 1}),
        (lambda c, h: c.hincrby(account_of(h), "balance", 1), {"balance_errors": 1}),
        (lambda c, h: c.hdel(account_of(h), "margin_called"), {"balance_errors": 1}),
        (lambda c, h: c.delete(account_of(h)), {"balance_errors": 1}),
        (lambda c, h: c.srem(keys_of(h).accounts, next(iter(h.accounts))), {"balance_errors": 1}),
        (
            lambda c, h: c.hdel(keys_of(h).ids(clock.now_ms() // DAY_MS), next(iter(h.answers))),
            {"answer_errors": 1},
        ),
    ],
)
async def test_a_fault_in_the_cluster_is_found(client, damage: Damage, expected: dict[str, int]):
    histories = await written(client)
    await damage(client, histories[2])
    result = await audited(client, histories)
    assert not result.clean
    for name, count in expected.items():
        assert getattr(result.findings, name) == count, result.findings.sentences
    assert all(sentence.startswith("partition 2: ") for sentence in result.findings.sentences)


async def test_commands_that_were_put_aside_are_told_and_no_fault(client):
    histories = await written(client)
    await client.xadd(keys_of(histories[0]).poison, {"command": b"?", "reason": "not JSON"})
    result = await audited(client, histories)
    assert result.clean
    assert result.put_aside == 1


async def test_a_partition_that_is_written_to_is_looked_at_again(client):
    histories = await written(client)
    history = histories[0]
    keys = keys_of(history)
    full = len(history.events)
    await client.xdel(keys.events, f"{full}-0")
    await client.hset(keys.cursor, "sequence", full - 1)
    looks = 0
    original = RedisCluster.execute_command

    async def slow(self, *args, **options):
        nonlocal looks
        if args[:2] == ("SMEMBERS", keys.accounts):
            looks += 1
            if looks == 1:  # the last event is committed between the audit's two looks at the cursor
                await original(self, "XADD", keys.events, f"{full + 1}-0", "event", history.events[-1])
                await original(self, "HSET", keys.cursor, "sequence", full + 1)
        return await original(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RedisCluster, "execute_command", slow)
        result = await audited(client, histories)
    assert looks == 2
    assert result.findings.gaps == 1  # the number that was left out on purpose


async def test_the_number_of_partitions_is_fixed_at_the_first_opening(client):
    with pytest.raises(NotOpened, match="no engine has run on this cluster"):
        await partitions_of(client)
    opened = await asyncio.gather(*(open_engine(client, PARTITIONS) for _ in range(3)))
    assert opened == [PARTITIONS] * 3
    assert await open_engine(client) == await partitions_of(client) == PARTITIONS
    with pytest.raises(PartitionCountFixed, match="64 partitions asked, but this cluster was opened with 4"):
        await open_engine(client, 64)


async def test_a_journal_that_lacks_what_callers_were_told_is_found(client):
    histories = await written(client)
    entries = [entry for history in histories for entry in history.journal]
    short = await audit(client, PARTITIONS, entries[:-2], told=len(entries))
    assert not short.clean
    assert short.findings.journal_errors == 2
    assert short.findings.sentences == [
        f"the journal has {len(entries) - 2} entries, and callers were told {len(entries)} outcomes"
    ]
    assert (await audit(client, PARTITIONS, entries, told=len(entries))).clean


async def test_what_callers_of_earlier_runs_were_told_is_held_against_the_events(client):
    histories = await written(client)
    later, *earlier = (entry for history in histories for entry in history.journal)
    sound = await audit(client, PARTITIONS, [later], told=1, earlier=earlier)
    assert sound.clean
    assert sound.journal_entries == 1 + len(earlier)
    never = msgspec.structs.replace(earlier[0].asked, id="never")
    earlier[0] = msgspec.structs.replace(earlier[0], asked=never)
    assert (await audit(client, PARTITIONS, [later], told=1, earlier=earlier)).findings.lost == 1


def run_audit(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tradewind", "audit", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


async def test_the_command(client, clean_cluster, tmp_path):
    not_opened = await asyncio.to_thread(run_audit, "--url", clean_cluster.url)
    assert not_opened.returncode == 1
    assert not_opened.stderr.startswith("tradewind: no engine has run on this cluster")
    histories = await written(client)
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for history in histories:
        for entry in history.journal:
            journal.add(entry.asked, entry.told)
    journal.close()
    words = ("--url", clean_cluster.url, "--journal", path)
    clean = await asyncio.to_thread(run_audit, *words, "--json")
    assert clean.returncode == 0, clean
    assert json.loads(clean.stdout)["journal_entries"] == sum(len(h.journal) for h in histories)
    await client.hincrby(account_of(histories[1]), "balance", 1)
    wrong = await asyncio.to_thread(run_audit, *words)
    assert wrong.returncode == 1
    assert "partition 1: account" in wrong.stdout
