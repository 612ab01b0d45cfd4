"""What time alone sets off: the dead-man timer, and swaps at the end of the day."""

from datetime import UTC, datetime

import pytest

from tests.engine.books import QUOTES, Desk
from tests.engine.partition_runs import KEYS, hand_in, running
from tests.engine.test_groups import check_books, desk_with
from tests.support.waiting import eventually
from tradewind import RedisCluster, clock
from tradewind.engine.book import TIMERS_WAIT_MS, Book
from tradewind.engine.instruments import QuoteFrame
from tradewind.engine.keys import DAY_MS
from tradewind.engine.messages import (
    Answer,
    CancelAfter,
    CancelTimerEnded,
    Event,
    OrderCanceled,
    Place,
    RejectReason,
    SetGroup,
    SwapPaid,
    encode,
)
from tradewind.engine.messages.groups import Terms
from tradewind.engine.swaps import nights


def rest(desk: Desk, id: str = "limit") -> Answer:
    order = Place(account="A1", id=id, symbol="EURUSD", side="buy", volume=1_000, kind="limit", price=111_000)
    return desk.answer(desk.book.decide(order, desk.now_ms))


def cancel_after(desk: Desk, seconds: int, id: str = "timer") -> Answer:
    return desk.answer(desk.book.decide(CancelAfter(account="A1", id=id, seconds=seconds), desk.now_ms))


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.open(deposit=1_000_000)
    return desk


def test_orders_of_who_falls_silent_are_cancelled(desk: Desk) -> None:
    assert rest(desk).status == "accepted"
    assert cancel_after(desk, 10).status == "done"
    desk.now_ms += 9_999
    assert desk.quote({}) == []
    desk.now_ms += 1
    events = desk.quote({})
    assert [type(event) for event in events] == [OrderCanceled, CancelTimerEnded]
    assert {event.cause for event in events} == {f"time:{desk.now_ms}"}
    assert not desk.book.accounts["A1"].orders.open
    desk.now_ms += 10_000
    assert desk.quote({}) == [], "it ends once"
    check_books(desk)


def test_who_sets_it_anew_or_takes_it_off_keeps_the_orders(desk: Desk) -> None:
    rest(desk)
    cancel_after(desk, 10)
    desk.now_ms += 9_000
    cancel_after(desk, 10, "again")
    desk.now_ms += 9_000
    assert desk.quote({}) == []
    cancel_after(desk, 0, "off")
    desk.now_ms += 9_000
    assert desk.quote({}) == []
    check_books(desk)
    for seconds in (-1, 86_401):
        assert cancel_after(desk, seconds, f"{seconds}").reason == RejectReason.INVALID_TIMER


def test_a_new_owner_goes_on_counting(desk: Desk) -> None:
    rest(desk)
    cancel_after(desk, 10)
    book = Book(17, desk.book.accounts.values(), desk.book.event_sequence)
    assert book.on_frame(QuoteFrame(1, []), desk.now_ms + 10_000) == [], "first it hears what waits"
    decisions = book.on_frame(QuoteFrame(2, []), desk.now_ms + 10_000 + TIMERS_WAIT_MS)
    assert [type(event) for each in decisions for event in each.events] == [OrderCanceled, CancelTimerEnded]


async def test_who_sets_the_timer_anew_while_nobody_owns_the_partition_keeps_the_orders(
    client: RedisCluster,
) -> None:
    async with running(client, "first") as run:
        await run.fund("A1")
        order = Place(
            account="A1", id="limit", symbol="EURUSD", side="buy", volume=1_000, kind="limit", price=111_000
        )
        await run.ask(order)
        await run.ask(CancelAfter(account="A1", id="timer", seconds=1))
        told = run.journal
    again = CancelAfter(account="A1", id="again", seconds=60)
    await hand_in(client, encode(again))
    due_ms = int(await client.hget(KEYS.account("A1"), "cancel_at_ms"))
    await eventually(lambda: clock.now_ms() > due_ms)
    async with running(client, "second") as run:
        run.journal.extend(told)
        assert (await run.ask(again)).status == "done"
        assert len(run.runner._book.accounts["A1"].orders.open) == 1
        await run.audit()


async def test_a_partition_looks_at_the_time_also_when_no_quote_comes(client: RedisCluster) -> None:
    async with running(client) as run:
        await run.fund("A1")
        order = Place(
            account="A1", id="limit", symbol="EURUSD", side="buy", volume=1_000, kind="limit", price=111_000
        )
        await run.ask(order)
        await run.ask(CancelAfter(account="A1", id="timer", seconds=1))
        await eventually(lambda: not run.runner._book.accounts["A1"].orders.open, timeout_s=20)
        await run.audit()


def day_of(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000 // DAY_MS


@pytest.mark.parametrize(
    ("from_day", "until_day", "counted"),
    [
        ("2026-11-23", "2026-11-24", 1),  # Monday
        ("2026-11-25", "2026-11-26", 3),  # Wednesday
        ("2026-11-27", "2026-11-30", 1),  # over the weekend
        ("2026-11-23", "2026-11-30", 7),
        ("2026-11-25", "2026-12-03", 10),
        ("2026-11-25", "2026-11-25", 0),
        ("2026-11-25", "2026-11-24", 0),  # the clock of another worker
    ],
)
def test_a_week_has_seven_nights_and_wednesday_three(from_day: str, until_day: str, counted: int) -> None:
    assert nights(day_of(from_day), day_of(until_day)) == counted


def swaps(events: list[Event]) -> list[int]:
    return [event.amount for event in events if isinstance(event, SwapPaid)]


def test_positions_pay_for_each_night_once() -> None:
    desk = desk_with(Terms(group="g", swap_buy_cents=-650, swap_sell_cents=120))
    desk.now_ms = (day_of("2026-11-24") + 1) * DAY_MS - 1_000  # Tuesday, a second before midnight
    desk.quote(QUOTES)
    desk.place("buy", 1_000)
    desk.place("sell", 10_000)
    desk.now_ms += 999
    assert swaps(desk.quote({})) == []
    desk.now_ms += 1
    assert swaps(desk.quote({})) == [-7 + 12]
    assert swaps(desk.quote(QUOTES)) == []
    book = Book(17, desk.book.accounts.values(), desk.book.event_sequence)
    assert book.on_frame(QuoteFrame(1, []), desk.now_ms) == [], "nor by a new owner"
    desk.now_ms += DAY_MS
    assert swaps(desk.quote({})) == [-20 + 36], "Wednesday counts three times"
    desk.now_ms += 5 * DAY_MS
    assert swaps(desk.quote({})) == [-20 + 36], "days on which nobody looked"
    check_books(desk)


def test_without_swaps_or_positions_the_day_ends_without_an_event(desk: Desk) -> None:
    desk.place("buy")
    desk.now_ms += DAY_MS
    assert desk.quote({}) == []


def test_swaps_that_come_to_nothing_together_are_paid() -> None:
    desk = desk_with(Terms(group="g", swap_buy_cents=-500, swap_sell_cents=500))
    bought = desk.place("buy")
    desk.place("sell")
    desk.now_ms += DAY_MS
    assert swaps(desk.quote(QUOTES)) == [0]
    desk.close(bought.position)
    desk.now_ms += DAY_MS
    paid = desk.quote({})
    assert swaps(paid) == [50 * nights(desk.now_ms // DAY_MS - 1, desk.now_ms // DAY_MS)]
    check_books(desk)


def test_who_changes_the_group_pays_each_night_on_the_terms_of_that_night() -> None:
    desk = desk_with(Terms(group="without"))
    cheap, dear = Terms(group="cheap", swap_buy_cents=-100), Terms(group="dear", swap_buy_cents=-700)
    desk.house.groups = {terms.group: terms for terms in (Terms(group="without"), cheap, dear)}
    desk.now_ms = day_of("2026-11-23") * DAY_MS  # a Monday
    desk.quote(QUOTES)
    desk.place("buy", 100_000)
    desk.now_ms += DAY_MS
    assert swaps(desk.quote({})) == []
    desk.do(SetGroup, group="cheap")
    assert swaps(desk.quote({})) == []
    desk.now_ms += DAY_MS
    desk.do(SetGroup, group="dear")
    assert swaps(desk.events) == [-100], "the night that is over, although nobody has looked yet"
    desk.now_ms += DAY_MS
    assert swaps(desk.quote({})) == [-2_100], "Wednesday"
    check_books(desk)
