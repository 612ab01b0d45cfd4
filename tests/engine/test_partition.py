"""One partition at work on real servers: each command once, whatever happens to its commit."""

import asyncio
from typing import Any

import pytest

import tradewind.engine.book as book_module
import tradewind.engine.partition as partition_module
from tests.engine.partition_runs import KEYS, events, hand_in, place, put_aside, running
from tests.support.waiting import eventually
from tradewind import OutcomeUnknown, RedisCluster, clock
from tradewind.engine.account import Position
from tradewind.engine.book import Book
from tradewind.engine.lease import Leases
from tradewind.engine.messages import (
    CloseAll,
    Command,
    Deposit,
    OrderFilled,
    Place,
    PositionClosed,
    RejectReason,
    encode,
)
from tradewind.engine.store import Cursor, PartitionStore

# -- what is asked is done, once -----------------------------------------------------------------------


async def test_commands_of_many_callers_are_answered_from_few_commits(client):
    async with running(client) as run:
        await run.fund("A", "B", "C")
        answers = await asyncio.gather(*(run.ask(place("ABC"[n % 3], f"order-{n}")) for n in range(300)))
        assert {answer.status for answer in answers} == {"filled"}
        assert len({answer.position for answer in answers}) == 300
        assert run.runner.counts.commits < 150
        result = await run.audit()
    assert (result.events, result.positions) == (306, 300)


async def test_a_repeat_gets_the_answer_of_the_first(client):
    async with running(client) as run:
        await run.fund("A")
        first = await run.ask(place("A", "order"))
        assert await run.ask(place("A", "order")) == first
        assert (await run.audit()).positions == 1


async def test_the_same_id_for_another_order_is_refused(client):
    async with running(client) as run:
        await run.fund("A")
        first = await run.ask(place("A", "order"))
        other = await run.ask(place("A", "order", volume=2_000))
        assert (other.status, other.reason) == ("rejected", RejectReason.DUPLICATE_ID)
        assert await run.ask(place("A", "order")) == first
        assert (await run.audit()).positions == 1


async def test_an_id_is_one_of_its_account(client):
    async with running(client) as run:
        await run.fund("A", "B")
        await asyncio.gather(run.ask(place("A", "order")), run.ask(place("B", "order")))
        assert (await run.audit()).positions == 2


async def test_repeats_within_one_batch_take_effect_once(client):
    repeat = encode(place("A", "order"))
    other = encode(place("A", "order", volume=3_000))
    async with running(client) as run:
        await run.fund("A")
        await asyncio.gather(*(hand_in(client, payload) for payload in [repeat, repeat, other] * 20))
        assert (await run.ask(place("A", "order"))).status == "filled"
        await run.ask(place("A", "last"))
        assert (await run.audit()).positions == 2


async def test_an_old_repeat_is_looked_up(client, monkeypatch):
    """One whose answer is no longer at hand: the commit refuses its batch, then all answers are looked up."""
    monkeypatch.setattr(partition_module, "RECENT_ANSWERS_MAX", 3)
    async with running(client) as run:
        await run.fund("A")
        old = [await run.ask(place("A", f"old-{number}")) for number in range(3)]
        for number in range(5):
            await run.ask(place("A", f"newer-{number}"))
        assert len(run.runner._recent) == 3
        asked = [place("A", f"old-{number}") for number in range(3)] + [
            place("A", f"newest-{number}") for number in range(20)
        ]
        answers = await asyncio.gather(*map(run.ask, asked))
        assert answers[:3] == old
        assert {answer.status for answer in answers} == {"filled"}
        assert (await run.ask(place("A", "old-1", volume=2_000))).reason is RejectReason.DUPLICATE_ID
        assert (await run.audit()).positions == 28
        assert run.runner.counts.reloads == 0


async def test_who_takes_over_knows_the_answers_that_were_given(client):
    async with running(client, "first") as run:
        await run.fund("A")
        given = await run.ask(place("A", "order"))
    async with running(client, "second") as run:
        assert await run.ask(place("A", "order")) == given
        assert (await run.audit()).positions == 1


async def test_who_takes_over_goes_on_where_the_other_stopped(client):
    async with running(client, "first") as run:
        await run.fund("A")
    for number in range(50):
        await hand_in(client, encode(place("A", f"order-{number}")))
    async with running(client, "second") as run:
        assert (await run.ask(CloseAll(account="A", id="all"))).closed == 50
        await run.audit()


async def test_quotes_close_what_is_no_longer_covered(client):
    async with running(client) as run:
        await run.fund("A", amount=100_000)
        await run.ask(place("A", "order", volume=80_000))
        run.quote(111_000)

        async def closed() -> bool:
            return any(isinstance(event, PositionClosed) for event in await events(client))

        await eventually(closed)
        result = await run.audit()
        assert (result.stop_outs.positions, result.positions) == (1, 0)


async def test_the_stream_forgets_commands_that_were_applied(client, monkeypatch):
    monkeypatch.setattr(partition_module, "DROP_APPLIED_EVERY", 100)
    async with running(client) as run:
        await run.fund("A")
        for number in range(6):
            ids = [f"order-{number}-{part}" for part in range(100)]
            await asyncio.gather(*(run.ask(Deposit(account="A", id=id, amount=1)) for id in ids))
        assert await client.xlen(KEYS.commands) < 400
        assert (await run.audit()).events == 602


# -- commands that nobody can carry out ----------------------------------------------------------------

UNREADABLE = [
    b"",
    b"not JSON",
    b"\xff\xfe",
    b"null",
    b"{}",
    b'{"type":"teleport","account":"A","id":"1"}',
    b'{"type":"place","account":"A","id":"1"}',
    b'{"type":"place","account":"A","id":"1","symbol":"EURUSD","side":"buy","volume":"many"}',
    b'{"type":"deposit","account":"A","id":"1","amount":5,"stop_loss":1}',
    b'{"type":"deposit","account":"A","id":"1","amount":1' + b"0" * 5_000 + b"}",
    b'{"type":"deposit","account":"A b","id":"1","amount":5}',
    b'{"type":"deposit","account":"A","id":"quote:EURUSD:1","amount":5}',
    b'{"type":"deposit","account":"A","id":"\\ud800","amount":5}',
    b'{"x":' + b"[" * 100_000,
]


async def test_unreadable_commands_go_aside_with_their_reasons_and_the_partition_goes_on(client):
    async with running(client) as run:
        await run.fund("A")
        for number, payload in enumerate(UNREADABLE):
            await hand_in(client, payload)
            assert (await run.ask(place("A", f"order-{number}"))).status == "filled"
        aside = await put_aside(client)
        assert [payload for payload, _ in aside] == UNREADABLE
        assert all(reason for _, reason in aside)
        assert (await run.audit()).put_aside == len(UNREADABLE)
        assert run.runner.counts.reloads == 0


async def test_amounts_that_no_machine_word_holds_are_refused_and_answered(client):
    async with running(client) as run:
        await run.fund("A")
        answer = await run.ask(Deposit(account="A", id="much", amount=10**40))
        assert answer.reason is RejectReason.INVALID_AMOUNT
        assert (await run.ask(place("A", "order", volume=10**40))).reason is RejectReason.INVALID_VOLUME
        await run.audit()


async def test_commands_of_many_events_are_committed_in_pieces(client, monkeypatch):
    """Closing all positions of many accounts at once: more events than one commit may carry."""
    monkeypatch.setattr(partition_module, "EVENTS_PER_COMMIT_MAX", 8)
    commit, sizes = PartitionStore.commit, []

    async def measured(self: PartitionStore, lease: Any, cursor: Cursor, batch: Any, now_ms: int) -> Cursor:
        sizes.append(len(batch.events))
        return await commit(self, lease, cursor, batch, now_ms)

    accounts = [f"A{number}" for number in range(12)]
    async with running(client) as run:
        await run.fund(*accounts)
        orders = [place(account, f"order-{n}") for account in accounts for n in range(4)]
        await asyncio.gather(*map(run.ask, orders))
        monkeypatch.setattr(PartitionStore, "commit", measured)
        unreadable = [b"{}", b"[]"]
        asking = [asyncio.create_task(run.ask(CloseAll(account=a, id="close"))) for a in accounts]
        await asyncio.gather(*(hand_in(client, payload) for payload in unreadable))
        assert [answer.closed for answer in await asyncio.gather(*asking)] == [4] * len(accounts)
        assert max(sizes) < 8 + 4 + 1  # the last command may reach beyond
        assert sum(sizes) == 5 * len(accounts)
        assert sorted(command for command, _ in await put_aside(client)) == sorted(unreadable)
        assert (await run.audit()).positions == 0
        assert run.runner.counts.reloads == 0


def break_at(monkeypatch: pytest.MonkeyPatch, id: str) -> None:
    """The rules have a defect that shows when they decide this command, after they changed the account."""
    decide = Book.decide

    def broken(self: Book, command: Command, now_ms: int) -> Any:
        decision = decide(self, command, now_ms)
        if command.id == id:
            raise ZeroDivisionError("a defect")
        return decision

    monkeypatch.setattr(Book, "decide", broken)


@pytest.mark.parametrize("spaces", [b"", b" "], ids=["as we encode it", "as another encoder does"])
async def test_a_command_that_breaks_the_rules_goes_aside_alone(client, monkeypatch, spaces: bytes):
    break_at(monkeypatch, "breaks")
    breaking = encode(place("A", "breaks")).replace(b",", b"," + spaces)
    async with running(client) as run:
        await run.fund("A", "B")
        orders = [place("AB"[number % 2], f"order-{number}") for number in range(40)]
        asking = [asyncio.create_task(run.ask(order)) for order in orders]
        await hand_in(client, breaking)
        await hand_in(client, breaking)
        answers = await asyncio.gather(*asking)
        assert {answer.status for answer in answers} == {"filled"}
        assert (await run.ask(place("A", "after"))).status == "filled"
        assert await put_aside(client) == [(breaking, b"ZeroDivisionError: a defect")] * 2
        assert run.runner.counts.reloads == 2
        assert (await run.audit()).positions == 41


async def test_a_command_that_only_broke_what_was_in_memory_is_answered(client):
    """An order finds its position's number taken by an account that is ahead of the partition."""
    async with running(client) as run:
        await run.fund("A", "B")
        book = run.runner._book
        account = book.accounts["A"]
        ahead = f"0-{(await run.audit()).events + 1}"
        account.add(Position(ahead, "EURUSD", "buy", 1_000, 112_120, 1_121, clock.now_ms()))
        assert (await run.ask(place("A", "order"))).position == ahead
        assert await put_aside(client) == []
        assert (await run.audit()).positions == 1


async def aside_are(client: RedisCluster, count: int) -> bool:
    return len(await put_aside(client)) == count


async def test_few_of_the_commands_that_broke_the_rules_are_remembered(client, monkeypatch):
    monkeypatch.setattr(partition_module, "ASIDE_MAX", 2)
    monkeypatch.setattr(partition_module, "RETRY_S", 0.001)
    decide = Book.decide

    def broken(self: Book, command: Command, now_ms: int) -> Any:
        if type(command) is Place:
            raise ZeroDivisionError("a defect")
        return decide(self, command, now_ms)

    monkeypatch.setattr(Book, "decide", broken)
    async with running(client) as run:
        await run.fund("A")
        for number in range(1, 7):
            await hand_in(client, encode(place("A", f"order-{number}")))
            await eventually(lambda count=number: aside_are(client, count))
        assert len(run.runner._aside) == len(run.runner._suspected) == 2


async def are_stopped_out(client: RedisCluster, accounts: set[str]) -> bool:
    closed = {event.account for event in await events(client) if type(event) is PositionClosed}
    return closed == accounts


async def test_an_account_whose_review_breaks_the_rules_does_not_stop_the_others(client, monkeypatch):
    """The defect shows after the review has changed the account: none of that may be committed."""
    review = book_module.review

    def broken(ledger: Any, account: Any, moved: Any, now_ms: int) -> None:
        review(ledger, account, moved, now_ms)
        if account.id == "B":
            raise ZeroDivisionError("a defect")

    async with running(client) as run:
        await run.fund("A", "B", "C", amount=100_000)
        await asyncio.gather(*(run.ask(place(name, "order", volume=80_000)) for name in "ABC"))
        monkeypatch.setattr(book_module, "review", broken)
        run.quote(110_500)
        await eventually(lambda: are_stopped_out(client, {"A", "C"}))
        assert run.runner.counts.reloads == 1
        assert (await run.ask(place("B", "after"))).status in ("filled", "rejected")
        assert (await run.audit()).stop_outs.accounts == 2


async def test_quotes_that_break_the_rules_are_left_out_and_commands_go_on(client, monkeypatch):
    look = Book.look

    def broken(self: Book, frame: Any, now_ms: int, *rest: int) -> Any:
        if any(quote.bid == 111_111 for quote in frame.quotes):
            raise ZeroDivisionError("a defect")
        return look(self, frame, now_ms, *rest)

    monkeypatch.setattr(Book, "look", broken)
    async with running(client) as run:
        await run.fund("A")
        run.quote(111_111)
        await eventually(lambda: run.runner.counts.reloads == 1)
        assert (await run.ask(Deposit(account="A", id="meanwhile", amount=1))).status == "done"
        run.quote(112_000)
        answer = await run.ask(place("A", "after"))
        assert (answer.status, answer.price) == ("filled", 112_010)
        await run.audit()


# -- commits that fail ---------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
async def test_a_commit_of_unknown_outcome_takes_effect_once_and_is_answered(
    client, monkeypatch, applied: bool
):
    """Every third commit ends unknown. No caller asks twice, so each answer comes from the partition."""
    commit, calls = PartitionStore.commit, 0

    async def unsure(self: PartitionStore, *args: Any) -> Cursor:
        nonlocal calls
        calls += 1
        if calls % 3:
            return await commit(self, *args)
        if applied:
            await commit(self, *args)
        raise OutcomeUnknown("no reply")

    monkeypatch.setattr(PartitionStore, "commit", unsure)
    monkeypatch.setattr(partition_module, "RETRY_S", 0.001)
    monkeypatch.setattr("tradewind.engine.desk.RESEND_FIRST_S", 1_000.0)
    async with running(client) as run:
        await run.fund("A")
        for number in range(10):
            orders = [place("A", f"order-{number}-{part}") for part in range(8)]
            answers = await asyncio.gather(*map(run.ask, orders))
            assert {answer.status for answer in answers} == {"filled"}
            run.quote(112_120 + number)
        assert run.runner.counts.reloads >= 3
        assert (await run.audit()).positions == 80
    filled = [event for event in await events(client) if isinstance(event, OrderFilled)]
    assert len({event.cause for event in filled}) == len(filled) == 80


async def test_an_unreadable_command_goes_aside_once_although_its_commit_was_unknown(client, monkeypatch):
    commit, unknown = PartitionStore.commit, []

    async def unsure(self: PartitionStore, lease: Any, cursor: Cursor, batch: Any, now_ms: int) -> Cursor:
        after = await commit(self, lease, cursor, batch, now_ms)
        if batch.poisoned and not unknown:
            unknown.append(batch)
            raise OutcomeUnknown("no reply")
        return after

    monkeypatch.setattr(PartitionStore, "commit", unsure)
    async with running(client) as run:
        await run.fund("A")
        await hand_in(client, b"not JSON")
        assert (await run.ask(place("A", "order"))).status == "filled"
        await run.ask(place("A", "later"))
        assert len(unknown) == 1
        assert len(await put_aside(client)) == 1


async def test_answers_owed_survive_quotes_that_cannot_be_committed(client, monkeypatch):
    """A batch was applied and nobody was told; before its answers are looked up a stop-out fails."""
    commit, failures = PartitionStore.commit, []

    async def unsure(self: PartitionStore, lease: Any, cursor: Cursor, batch: Any, now_ms: int) -> Cursor:
        if b'"id":"order"' in b"".join(batch.answers.values()) and not failures:
            failures.append("orders")
            await commit(self, lease, cursor, batch, now_ms)
            run.quote(111_000)
            raise OutcomeUnknown("no reply")
        if not batch.answers and batch.events and failures == ["orders"]:
            failures.append("quotes")
            raise OutcomeUnknown("no reply")
        return await commit(self, lease, cursor, batch, now_ms)

    monkeypatch.setattr(PartitionStore, "commit", unsure)
    monkeypatch.setattr("tradewind.engine.desk.RESEND_FIRST_S", 1_000.0)
    async with running(client) as run:
        await run.fund("A", amount=100_000)
        assert (await run.ask(place("A", "order", volume=80_000))).status == "filled"
        assert failures == ["orders", "quotes"]


async def test_a_partition_whose_lease_is_lost_stops_and_writes_nothing_more(client):
    async with running(client) as run:
        await run.fund("A")
        await Leases(client, "worker").release(run.runner.lease)
        assert await Leases(client, "other").acquire(0) is not None
        before = await client.xlen(KEYS.events)
        await hand_in(client, encode(place("A", "order")))
        await asyncio.wait([run.task], timeout=10)
        assert run.task.done()
        assert run.lost
        assert set(run.lost) == {run.runner.lease}
        assert await client.xlen(KEYS.events) == before


async def test_a_lease_that_is_lost_while_idle_is_noticed(client):
    async with running(client) as run:
        await run.runner.ready.wait()
        await Leases(client, "worker").release(run.runner.lease)
        assert await Leases(client, "other").acquire(0) is not None
        await eventually(lambda: run.lost == [run.runner.lease])


async def test_a_partition_is_loaded_when_its_servers_answer(client, monkeypatch):
    load, failed = PartitionStore.load, []

    async def failing(self: PartitionStore) -> Any:
        if len(failed) < 3:
            failed.append("load")
            raise OSError("unreachable")
        return await load(self)

    monkeypatch.setattr(PartitionStore, "load", failing)
    monkeypatch.setattr(partition_module, "RETRY_S", 0.001)
    async with running(client) as run:
        await run.fund("A")
        assert len(failed) == 3


async def test_a_server_that_lost_the_library_costs_no_order(client: RedisCluster):
    async with running(client) as run:
        await run.fund("A")
        for node in client.get_primaries():
            await client.execute_command("FUNCTION DELETE", "tradewind_engine", target_nodes=node)
        answers = await asyncio.gather(*(run.ask(place("A", f"order-{number}")) for number in range(30)))
        assert {answer.status for answer in answers} == {"filled"}
        await run.audit()
