"""Trimming on a real cluster: what goes, what stays, and that the audit proves the rest all the same."""

import asyncio
import json
import signal
import subprocess

import pytest

from tests.ops.history import PARTITIONS, History
from tests.support.waiting import eventually
from tests.trail.trails import (
    append,
    command_line,
    deposits,
    export,
    exported,
    run,
    stored,
    write_histories,
)
from tradewind import RedisCluster
from tradewind.engine.account import to_fields
from tradewind.engine.keys import PartitionKeys
from tradewind.engine.ledger import rebuild
from tradewind.engine.messages import AccountOpened, decode_event, encode
from tradewind.ops.audit import AuditResult, audit
from tradewind.trail.checkpoint import checkpoint_sequence, load_checkpoint, make_checkpoint, put_in_force
from tradewind.trail.errors import CheckpointBroken, EventsMissing, TrimRefused
from tradewind.trail.places import target_of
from tradewind.trail.positions import register
from tradewind.trail.trim import TrimPlan, TrimRequest, plan_trim, trim

EXPORTED = TrimRequest(keep=0)


async def trim_all(client: RedisCluster, request: TrimRequest) -> list[TrimPlan]:
    plans = [await plan_trim(client, partition, request) for partition in range(PARTITIONS)]
    for plan in plans:
        await trim(client, plan, request)
    return plans


async def audited(client: RedisCluster, histories: list[History], archive: str | None = None) -> AuditResult:
    entries = [entry for history in histories for entry in history.journal]
    place = target_of(archive) if archive is not None else None
    return await audit(client, PARTITIONS, entries, archive=place)


def opened(account: str) -> list[bytes]:
    return [encode(AccountOpened(account=account, at_ms=1, cause="open", leverage=100))]


async def test_the_audit_goes_on_from_the_checkpoint(client, place):
    histories = await write_histories(client)
    await export(client, place)
    plans = await trim_all(client, EXPORTED)
    assert [plan.until for plan in plans] == [len(history.events) for history in histories]
    assert all(not events for events in (await stored(client)).values())
    result = await audited(client, histories)
    assert result.clean, result.findings.sentences
    assert (result.events, result.trimmed) == (0, sum(plan.events for plan in plans))
    assert result.accounts == sum(len(history.accounts) for history in histories)


@pytest.mark.parametrize("before", [2, 9, 14, 29])
async def test_what_is_left_after_a_trim_anywhere_is_proved_with_and_without_the_export(
    client, place, before
):
    histories = await write_histories(client)
    await export(client, place)
    await trim_all(client, TrimRequest(before=before, keep=0))
    for archive in (None, place):
        result = await audited(client, histories, archive)
        assert result.clean, result.findings.sentences
        assert result.trimmed == (0 if archive else sum(await checkpoints(client)))
    with_all = await audited(client, histories, place)
    assert with_all.events == sum(len(history.events) for history in histories)


async def checkpoints(client: RedisCluster) -> list[int]:
    return [await checkpoint_sequence(client, partition) for partition in range(PARTITIONS)]


async def test_the_export_and_what_is_left_rebuild_the_live_accounts(client, place):
    histories = await write_histories(client)
    await export(client, place, events_per_piece=5)
    await trim_all(client, TrimRequest(before=15, keep=0))
    there = await stored(client)
    for partition, old in (await exported(place)).items():
        assert there[partition][0].sequence > 1
        first = there[partition][0].sequence
        events = [*(event for event in old if event.sequence < first), *there[partition]]
        accounts = rebuild(decode_event(event.payload) for event in events)
        found = {name: to_fields(account) for name, account in accounts.items()}
        assert found == histories[partition].accounts


async def test_a_wrong_account_is_found_after_a_trim_too(client, tmp_path):
    histories = await write_histories(client)
    await export(client, str(tmp_path))
    await trim_all(client, EXPORTED)
    account = PartitionKeys(1).account(next(iter(histories[1].accounts)))
    await client.hincrby(account, "balance", 1)
    assert (await audited(client, histories)).findings.balance_errors == 1
    assert (await audited(client, histories, str(tmp_path))).findings.balance_errors == 1


async def test_a_wrong_checkpoint_is_found_with_the_export(client, tmp_path):
    histories = await write_histories(client)
    await export(client, str(tmp_path))
    await trim_all(client, EXPORTED)
    name = next(iter(histories[2].accounts))
    key = PartitionKeys(2).checkpoint
    fields = json.loads(await client.hget(key, f"account:{name}"))
    fields["balance"] = str(int(fields["balance"]) + 1)
    await client.hset(key, f"account:{name}", json.dumps(fields))
    with_export = await audited(client, histories, str(tmp_path))
    assert with_export.findings.balance_errors == 1
    assert f"account {name}: balance is" in with_export.findings.sentences[0]
    assert (await audited(client, histories)).findings.balance_errors == 1
    await client.hset(key, f"account:{name}", "{}")
    with pytest.raises(CheckpointBroken, match="the checkpoint after event"):
        await audited(client, histories)


async def test_trimming_waits_for_the_slowest_target(client, tmp_path):
    await append(client, 0, opened("A1") + deposits(19))
    await export(client, str(tmp_path))
    await register(client, 0, "slow", 12)
    plan = await plan_trim(client, 0, EXPORTED)
    assert (plan.until, plan.events) == (12, 12)
    await trim(client, plan, EXPORTED)
    assert (await stored(client))[0][0].sequence == 13
    assert await checkpoint_sequence(client, 0) == 12


async def test_a_target_that_is_behind_after_all_stops_the_trim(client, tmp_path):
    await append(client, 0, opened("A1") + deposits(19))
    await export(client, str(tmp_path))
    plan = await plan_trim(client, 0, EXPORTED)
    await register(client, 0, "new", 0)
    with pytest.raises(TrimRefused, match="new has events up to 0"):
        await trim(client, plan, EXPORTED)
    assert len((await stored(client))[0]) == 20
    assert await checkpoint_sequence(client, 0) == 0


async def test_the_newest_events_stay(client, tmp_path):
    await append(client, 0, opened("A1") + deposits(19))
    await export(client, str(tmp_path))
    assert (await plan_trim(client, 0, TrimRequest(keep=5))).until == 15
    assert (await plan_trim(client, 0, TrimRequest(keep=100))).events == 0


async def test_what_one_command_did_is_not_taken_apart(client):
    closes = [decode_event(payload) for payload in deposits(6)]
    same = [encode(type(event)(**{**_fields(event), "cause": "all"})) for event in closes[2:5]]
    await append(client, 0, opened("A1") + deposits(2) + same + deposits(1, first=6))
    for before, until in ((5, 3), (6, 3), (7, 6), (3, 2)):
        request = TrimRequest(before=before, keep=0)
        assert (await plan_trim(client, 0, request)).until == until, before


def _fields(event) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


async def test_a_trim_that_was_killed_before_the_events_went_is_taken_up(client):
    await append(client, 0, opened("A1") + deposits(19))
    request = TrimRequest(before=11, keep=0)
    await put_in_force(client, 0, await make_checkpoint(client, 0, 10), not_exported_too=True)
    assert len((await stored(client))[0]) == 20
    plan = await plan_trim(client, 0, request)
    assert (plan.until, plan.events) == (10, 10)
    await trim(client, plan, request)
    assert [event.sequence for event in (await stored(client))[0]] == list(range(11, 21))
    assert (await load_checkpoint(client, 0)).accounts["A1"]["balance"] == "9"


async def test_a_checkpoint_is_made_from_the_one_before_and_the_events_since(client):
    await append(client, 0, opened("A1") + deposits(19))
    for before in (6, 11, 16):
        request = TrimRequest(before=before, keep=0)
        await trim(client, await plan_trim(client, 0, request), request)
    found = await load_checkpoint(client, 0)
    assert found.sequence == 15
    assert found.accounts["A1"]["balance"] == "14"


async def test_nothing_is_trimmed_where_events_are_missing(client):
    await append(client, 0, opened("A1") + deposits(19))
    await client.xdel(PartitionKeys(0).events, "4-0")
    request = TrimRequest(before=11, keep=0)
    with pytest.raises(EventsMissing, match="event 4 is not in the cluster"):
        await trim(client, await plan_trim(client, 0, request), request)
    assert len((await stored(client))[0]) == 19


async def test_a_checkpoint_of_another_trim_is_not_put_in_force(client):
    await append(client, 0, opened("A1") + deposits(19))
    checkpoint = await make_checkpoint(client, 0, 10)
    await put_in_force(client, 0, checkpoint, not_exported_too=True)
    older = await make_checkpoint(client, 0, 10)
    newer = await make_checkpoint(client, 0, 12)
    await put_in_force(client, 0, newer, not_exported_too=True)
    with pytest.raises(TrimRefused, match="the checkpoint in force is newer"):
        await put_in_force(client, 0, older, not_exported_too=True)


async def test_an_export_goes_on_after_a_trim_and_a_new_target_is_refused(client, tmp_path):
    await append(client, 0, opened("A1") + deposits(9))
    await export(client, str(tmp_path / "old"))
    await trim_all(client, EXPORTED)
    await append(client, 0, deposits(5, first=10))
    assert (await export(client, str(tmp_path / "old"))).total == 15
    with pytest.raises(EventsMissing, match="event 1 is not in the cluster"):
        await export(client, str(tmp_path / "new"))


# -- the command ---------------------------------------------------------------------------------------


async def test_the_command_trims_what_was_exported_and_asks_first(client, clean_cluster, tmp_path):
    histories = await write_histories(client)
    events = sum(len(history.events) for history in histories)
    url = ("--url", clean_cluster.url)
    none = await run("trim", "--exported", "--yes", *url)
    assert none.returncode == 1
    assert "no export target is registered" in none.stderr
    await export(client, str(tmp_path))
    unasked = await run("trim", "--exported", "--keep", "0", *url)
    assert unasked.returncode == 1
    assert "say --yes" in unasked.stderr
    dry = await run("trim", "--exported", "--keep", "0", "--dry-run", "--json", *url)
    assert (json.loads(dry.stdout)["may_go"], json.loads(dry.stdout)["trimmed"]) == (events, 0)
    done = await run("trim", "--exported", "--keep", "0", "--yes", "--json", *url)
    assert json.loads(done.stdout)["trimmed"] == events
    proved = await run("audit", "--archive", tmp_path, "--json", *url)
    assert proved.returncode == 0, proved
    assert json.loads(proved.stdout)["events"] == events


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "one of --exported and --before"),
        (("--exported", "--before", "3"), "one of --exported and --before"),
        (("--before", "0"), "--before 1 or more"),
        (("--before", "3", "--keep", "-1"), "--keep must be 0 or more"),
    ],
)
async def test_options_that_do_not_go_together_are_refused(words, why):
    done = await run("trim", *words)
    assert done.returncode == 1
    assert why in done.stderr


@pytest.mark.slow
async def test_a_trim_that_is_killed_anywhere_leaves_what_can_be_proved(client, clean_cluster, tmp_path):
    for partition in range(PARTITIONS):
        await append(client, partition, opened("A1") + deposits(12_000))
    words = ("trim", "--before", "11000", "--yes", "--url", clean_cluster.url)
    for partition in range(PARTITIONS):
        process = subprocess.Popen(command_line(*words), stdout=subprocess.DEVNULL)
        await eventually(lambda p=partition: _has_checkpoint(client, p), timeout_s=40)
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        result = await audit(client, PARTITIONS)
        assert result.findings.gaps == 0, result.findings.sentences
    assert (await run(*words)).returncode == 0
    assert await checkpoints(client) == [10_999] * PARTITIONS


async def _has_checkpoint(client: RedisCluster, partition: int) -> bool:
    return await checkpoint_sequence(client, partition) > 0
