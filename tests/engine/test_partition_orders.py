"""Resting orders of one partition on real servers: who takes over knows them, and every answer is proved."""

import asyncio
from typing import Any

import pytest

import tradewind.engine.partition as partition_module
from tests.engine.partition_runs import EURUSD, KEYS, Run, events, running
from tests.support.waiting import eventually
from tradewind.engine.messages import (
    Amend,
    Cancel,
    CancelAll,
    OrderFilled,
    Place,
    PositionClosed,
    Protect,
)
from tradewind.engine.store import Cursor, LeaseLost, PartitionStore


def limit(id: str, price: int, **fields: Any) -> Place:
    return Place(
        account="A", id=id, symbol="EURUSD", side="buy", volume=1_000, kind="limit", price=price, **fields
    )


async def has_happened(run: Run, kind: type, count: int) -> bool:
    return sum(type(event) is kind for event in await events(run.client)) >= count


async def test_who_takes_over_fills_the_orders_that_rest_and_guards_the_positions(client):
    async with running(client, "first") as run:
        await run.fund("A")
        rests = await run.ask(limit("rests", EURUSD - 100, stop_loss=EURUSD - 400))
        changed = await run.ask(limit("changed", EURUSD - 200))
        await run.ask(Amend(account="A", id="amend", order=changed.order or "", price=EURUSD - 150))
        opened = await run.ask(Place(account="A", id="now", symbol="EURUSD", side="buy", volume=1_000))
        guard = Protect(account="A", id="guard", position=opened.position or "", stop_loss=EURUSD - 300)
        await run.ask(guard)
        told = run.journal
    assert rests.status == "accepted"
    async with running(client, "second") as run:
        run.journal.extend(told)
        run.quote(EURUSD - 250)
        await eventually(lambda: has_happened(run, OrderFilled, 3))
        run.quote(EURUSD - 350)
        await eventually(lambda: has_happened(run, PositionClosed, 1))
        late = await run.ask(Cancel(account="A", id="late", order=rests.order or ""))
        assert late.reason == "too_late_to_cancel"
        assert await run.ask(limit("rests", EURUSD - 100, stop_loss=EURUSD - 400)) == rests
        assert (await run.audit()).positions == 2


async def test_many_cancelled_at_once_do_not_hold_up_an_order_of_another_account(client):
    async with running(client) as run:
        await run.fund("A", "B")
        answers = await asyncio.gather(*(run.ask(limit(f"o-{n}", EURUSD - 1_000 - n)) for n in range(150)))
        assert {answer.status for answer in answers} == {"accepted"}
        everything = CancelAll(account="A", id="all")
        other = Place(account="B", id="other", symbol="EURUSD", side="buy", volume=1_000)
        canceled, filled = await asyncio.gather(run.ask(everything), run.ask(other))
        again = await run.ask(everything)
        assert (canceled.canceled, canceled.left) == (150, 0)
        assert again == canceled
        assert filled.status == "filled"
        await run.audit()
    fields = await client.hgetall(KEYS.account("A"))
    assert not [name for name in fields if name.startswith(b"order:")]
    assert fields[b"orders_ended"] == b"150"


async def test_a_worker_that_ends_within_one_look_leaves_nothing_without_its_event(
    client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tick fills two orders of one account, in two commits, and the second commit never comes."""
    commit, fills = PartitionStore.commit, 0

    async def ends(self: PartitionStore, *arguments: Any) -> Cursor:
        nonlocal fills
        fills += any(b"order_filled" in event for event in arguments[2].events)
        if fills == 2:
            raise LeaseLost("the worker is gone")
        return await commit(self, *arguments)

    monkeypatch.setattr(partition_module, "EVENTS_PER_COMMIT_MAX", 1)
    async with running(client, "first") as run:
        await run.fund("A")
        await run.ask(limit("higher", EURUSD - 100))
        await run.ask(limit("lower", EURUSD - 101))
        monkeypatch.setattr(PartitionStore, "commit", ends)
        run.quote(EURUSD - 200)
        await eventually(lambda: bool(run.lost))
        told = run.journal
    monkeypatch.setattr(PartitionStore, "commit", commit)
    async with running(client, "second") as run:
        run.journal.extend(told)
        assert (await run.audit()).positions == 1
        run.quote(EURUSD - 201)
        await eventually(lambda: has_happened(run, OrderFilled, 2))
        assert (await run.audit()).positions == 2
