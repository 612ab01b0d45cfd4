"""One partition in the cluster: what is committed is loaded, what is refused is named."""

import asyncio
import signal

import pytest

import tradewind.engine.store as store_module
from tests.conftest import EmbeddedCluster
from tests.engine.shards import content
from tradewind import OutcomeUnknown, RedisCluster
from tradewind.embedded.survey import Admin
from tradewind.engine.account import Account, Position, to_fields
from tradewind.engine.keys import DAY_MS
from tradewind.engine.lease import Leases
from tradewind.engine.library import load_library
from tradewind.engine.store import (
    AnswerKnown,
    Batch,
    Cursor,
    Lease,
    LeaseLost,
    PartitionStore,
    ViewOutdated,
)

NOW_MS = 20_000 * DAY_MS + 5
PARTITION = 5
LEASE_MS = 600_000


def account(name: str, positions: int = 0) -> Account:
    account = Account(name, leverage=100, balance=5_000)
    for number in range(1, positions + 1):
        account.add(Position(f"{PARTITION}-{number}", "EURUSD", "buy", 1_000, 112_120, 1_121, NOW_MS))
    return account


def batch(last_command: str, *accounts: Account, answers: dict[str, bytes] | None = None) -> Batch:
    return Batch(
        last_command,
        events=[b"event of " + account.id.encode() for account in accounts],
        answers=answers or {},
        changes={account.id: (to_fields(account), []) for account in accounts},
        opened=[account.id for account in accounts],
    )


async def leased(client: RedisCluster, worker: str = "worker-1") -> tuple[PartitionStore, Lease]:
    lease = await Leases(client, worker, LEASE_MS).acquire(PARTITION)
    assert lease is not None
    return PartitionStore(client, PARTITION), lease


async def test_a_partition_that_nobody_used_is_empty(client):
    state = await PartitionStore(client, PARTITION).load()
    assert (state.cursor, state.accounts) == (Cursor("0-0", 0), [])


async def test_what_was_committed_is_loaded(client):
    store, lease = await leased(client)
    accounts = [account("A1", positions=12), account("A2")]
    cursor = await store.commit(lease, Cursor(), batch("7-0", *accounts), NOW_MS)
    assert cursor == Cursor("7-0", 2)
    state = await PartitionStore(client, PARTITION).load()
    assert (state.cursor, state.accounts) == (cursor, accounts)


async def test_a_commit_that_lands_during_a_load_is_in_it_whole_or_not_at_all(client, monkeypatch):
    """Its worker gave it up while the server stood still, and the server goes on."""
    store, lease = await leased(client)
    cursor = await store.commit(lease, Cursor(), batch("7-0", account("A1")), NOW_MS)
    late = batch("8-0", account("A1", positions=1), account("A2"))
    names = store._names
    loads = 0

    async def names_before_or_after() -> list[str]:
        nonlocal loads
        loads += 1
        if loads == 1:
            await PartitionStore(client, PARTITION).commit(lease, cursor, late, NOW_MS)
        return await names()

    monkeypatch.setattr(store, "_names", names_before_or_after)
    state = await store.load()
    assert (state.cursor, state.accounts) == (Cursor("8-0", 3), [account("A1", positions=1), account("A2")])
    assert loads == 2


async def test_commands_are_read_in_order_behind_the_cursor(client):
    store = PartitionStore(client, PARTITION)
    for number in (1, 2, 10, 11):
        await client.xadd(store.keys.commands, {"command": f"command {number}"}, id=f"{number}-0")
    assert await store.read_commands("1-0", 2, 1_000) == [("2-0", b"command 2"), ("10-0", b"command 10")]
    assert await store.read_commands("11-0", 2, 1) == []


async def test_reading_waits_for_the_first_command(client):
    store = PartitionStore(client, PARTITION)
    reading = asyncio.create_task(store.read_commands("0-0", 10, 30_000))
    await client.xadd(store.keys.commands, {"command": "x"})
    ((_, payload),) = await reading
    assert payload == b"x"


async def test_an_entry_of_other_fields_is_read_as_an_empty_command(client):
    store = PartitionStore(client, PARTITION)
    await client.xadd(store.keys.commands, {"other": "x"}, id="1-0")
    assert await store.read_commands("0-0", 10, 1_000) == [("1-0", b"")]


async def test_answers_of_today_and_yesterday_are_known(client):
    store, lease = await leased(client)
    await store.commit(lease, Cursor(), batch("1-0", answers={"A1:old": b"1"}), NOW_MS - 2 * DAY_MS)
    await store.commit(lease, Cursor("1-0"), batch("2-0", answers={"A1:late": b"2"}), NOW_MS - DAY_MS)
    await store.commit(lease, Cursor("2-0"), batch("3-0", answers={"A1:new": b"3"}), NOW_MS)
    known = await store.known_answers(["A1:new", "A1:late", "A1:old", "A1:never"], NOW_MS)
    assert known == [b"3", b"2", None, None]
    assert await store.known_answers([], NOW_MS) == []


async def test_a_known_answer_refuses_its_batch(client):
    store, lease = await leased(client)
    cursor = await store.commit(lease, Cursor(), batch("1-0", answers={"A1:id": b"1"}), NOW_MS)
    repeat = batch("2-0", account("A1"), answers={"A1:other": b"2", "A1:id": b"1"})
    before = await content(client, store.keys)
    for now_ms in (NOW_MS, NOW_MS + DAY_MS):
        with pytest.raises(AnswerKnown, match="A1:id"):
            await store.commit(lease, cursor, repeat, now_ms)
    assert await content(client, store.keys) == before


async def test_an_answer_of_a_worker_whose_clock_was_ahead_is_known_after_it(client):
    """Around midnight: one stores it under the next day, the other takes over while its own day lasts."""
    store, lease = await leased(client, "ahead")
    midnight_ms = NOW_MS // DAY_MS * DAY_MS
    cursor = await store.commit(lease, Cursor(), batch("1-0", answers={"A1:id": b"1"}), midnight_ms)
    await Leases(client, "ahead").release(lease)
    store, lease = await leased(client, "behind")
    assert await store.known_answers(["A1:id"], midnight_ms - 1) == [b"1"]
    with pytest.raises(AnswerKnown, match="A1:id"):
        await store.commit(lease, cursor, batch("2-0", answers={"A1:id": b"2"}), midnight_ms - 1)


async def test_a_lost_lease_refuses(client):
    store, lease = await leased(client)
    await Leases(client, "worker-1").release(lease)
    _, newer = await leased(client, "worker-2")
    with pytest.raises(LeaseLost, match="worker-1 in epoch 1"):
        await store.commit(lease, Cursor(), batch("1-0"), NOW_MS)
    assert await store.commit(newer, Cursor(), batch("1-0"), NOW_MS) == Cursor("1-0", 0)


async def test_an_outdated_view_refuses(client):
    store, lease = await leased(client)
    await store.commit(lease, Cursor(), batch("1-0", account("A1")), NOW_MS)
    with pytest.raises(ViewOutdated, match="CURSOR is at 1-0 and event 1"):
        await store.commit(lease, Cursor(), batch("1-0", account("A1")), NOW_MS)


async def test_a_commit_finds_the_library_gone_and_loads_it(client):
    store, lease = await leased(client)
    node = client.get_node_from_key(store.keys.owner)
    await client.execute_command("FUNCTION DELETE", "tradewind_engine", target_nodes=node)
    assert await store.commit(lease, Cursor(), batch("1-0", account("A1")), NOW_MS) == Cursor("1-0", 1)


async def test_a_primary_that_was_emptied_refuses_what_it_does_not_know(client, clean_cluster):
    """Its lease and cursor are gone too, so nothing is built on a state that is not there."""
    store, lease = await leased(client)
    cursor = await store.commit(lease, Cursor(), batch("1-0", account("A1")), NOW_MS)
    node = await clean_cluster.primary_of(store.keys.owner)
    async with Admin(node.port) as admin:
        await admin.ask("FLUSHALL")
        await admin.ask("FUNCTION", "FLUSH")
    with pytest.raises(LeaseLost):
        await store.commit(lease, cursor, batch("2-0"), NOW_MS)
    store, lease = await leased(client)
    with pytest.raises(ViewOutdated, match="CURSOR is at 0-0"):
        await store.commit(lease, cursor, batch("2-0"), NOW_MS)


@pytest.mark.faults
async def test_a_commit_that_no_replica_has_is_unknown_and_then_found_applied(
    own_cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store_module, "COMMIT_TIMEOUT_S", 0.5)
    async with RedisCluster.from_url(own_cluster.url) as client:
        await load_library(client)
        store, lease = await leased(client)
        (replica,) = await own_cluster.replicas_of(await own_cluster.primary_of(store.keys.owner))
        await own_cluster.kill(replica, signal.SIGSTOP)
        with pytest.raises(OutcomeUnknown):
            await store.commit(lease, Cursor(), batch("1-0", account("A1")), NOW_MS)
        await own_cluster.kill(replica, signal.SIGCONT)
        state = await store.load()
        assert state.cursor == Cursor("1-0", 1)
        with pytest.raises(ViewOutdated):
            await store.commit(lease, Cursor(), batch("1-0", account("A1")), NOW_MS)
        monkeypatch.setattr(store_module, "COMMIT_TIMEOUT_S", 30)
        cursor = await PartitionStore(client, PARTITION).commit(lease, state.cursor, batch("2-0"), NOW_MS)
        assert cursor == Cursor("2-0", 1)
