"""Orders that rest: when they are accepted, what sets them off, and how they end."""

import pytest

from tests.engine.books import NOW_MS, QUOTES, Desk, frame
from tradewind.engine.account import from_fields, to_fields
from tradewind.engine.book import Book, rebuild
from tradewind.engine.deciders.placing import ORDERS_PER_ACCOUNT_MAX
from tradewind.engine.keys import DAY_MS
from tradewind.engine.messages import (
    Cancel,
    CancelAll,
    Event,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderTriggered,
    PositionClosed,
)
from tradewind.engine.resting import ENDED_ORDERS_KEPT

BID, ASK = QUOTES["EURUSD"]


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.open(deposit=1_000_000)
    return desk


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_a_limit_order_rests_until_its_price_and_is_filled_at_the_quote(desk: Desk) -> None:
    answer = desk.order("limit", "buy", 112_000)
    assert (answer.status, answer.order, answer.volume, answer.sequence) == ("accepted", "17-3", 0, 3)
    assert desk.bid(111_989) == []
    (filled,) = desk.bid(111_980)
    assert isinstance(filled, OrderFilled)
    assert (filled.price, filled.order, filled.position) == (111_992, "17-3", "17-4")
    assert filled.cause == f"quote:EURUSD:{NOW_MS}"
    assert desk.resting == {}
    assert "17-4" in desk.book.accounts["A1"].positions


@pytest.mark.parametrize(
    ("kind", "side", "prices", "quiet_bid", "reached_bid"),
    [
        ("limit", "buy", {"price": 112_000}, 111_989, 111_988),
        ("limit", "sell", {"price": 112_200}, 112_199, 112_200),
        ("stop", "buy", {"stop": 112_200}, 112_187, 112_188),
        ("stop", "sell", {"stop": 112_000}, 112_001, 112_000),
    ],
)
def test_each_kind_waits_for_its_side_of_the_quote(desk: Desk, kind, side, prices, quiet_bid, reached_bid):  # type: ignore[no-untyped-def]
    assert desk.order(kind, side, **prices).status == "accepted"
    assert desk.bid(quiet_bid) == []
    assert kinds(desk.bid(reached_bid))[-1] == "OrderFilled"
    assert desk.bid(reached_bid) == []


def test_a_limit_that_is_met_already_is_filled_as_a_market_order(desk: Desk) -> None:
    answer = desk.order("limit", "buy", 112_500)
    assert (answer.status, answer.price, answer.position, answer.order) == ("filled", ASK, "17-3", None)
    assert kinds(desk.events[2:]) == ["OrderFilled"]


def test_a_stop_that_is_met_already_is_filled_at_once(desk: Desk) -> None:
    assert desk.order("stop", "buy", stop=112_000).status == "filled"


def test_a_stop_limit_order_is_a_limit_order_once_its_stop_is_met(desk: Desk) -> None:
    order = desk.order("stop_limit", "buy", 112_200, stop=112_150).order
    assert order is not None
    (triggered,) = desk.bid(112_250)
    assert isinstance(triggered, OrderTriggered)
    assert desk.resting[order].triggered
    assert desk.bid(112_195) == []
    (filled,) = desk.bid(112_180)
    assert isinstance(filled, OrderFilled)
    assert filled.price == 112_192


def test_a_stop_limit_whose_stop_is_met_already_rests_as_a_limit_order(desk: Desk) -> None:
    answer = desk.order("stop_limit", "buy", 112_000, stop=112_050)
    assert answer.status == "accepted"
    assert kinds(desk.events[-2:]) == ["OrderAccepted", "OrderTriggered"]
    assert (answer.sequence, desk.resting[str(answer.order)].triggered) == (3, True)


@pytest.mark.parametrize(
    ("kind", "price", "stop"),
    [
        ("market", 112_000, None),
        ("market", None, 112_000),
        ("limit", None, None),
        ("limit", 112_000, 112_000),
        ("limit", 0, None),
        ("limit", 10**12 + 1, None),
        ("stop", 112_000, 112_000),
        ("stop_limit", None, 112_000),
        ("stop_limit", 112_000, None),
    ],
)
def test_an_order_has_the_prices_that_its_kind_needs_and_no_other(desk: Desk, kind, price, stop):  # type: ignore[no-untyped-def]
    answer = desk.order(kind, "buy", price, stop=stop)
    assert (answer.status, answer.reason) == ("rejected", "invalid_price")
    assert desk.resting == {}


@pytest.mark.parametrize("time_in_force", ["ioc", "fok"])
def test_what_must_be_filled_at_once_and_cannot_be_is_refused(desk: Desk, time_in_force: str) -> None:
    answer = desk.order("limit", "buy", 112_000, time_in_force=time_in_force)
    assert (answer.status, answer.reason) == ("rejected", "not_fillable")


def test_orders_rest_without_a_quote_and_are_filled_by_the_first_one() -> None:
    desk = Desk(quotes={})
    desk.open(deposit=1_000_000)
    assert desk.order("limit", "buy", 113_000).status == "accepted"
    assert desk.order("stop", "buy", stop=112_000).status == "accepted"
    assert desk.order("limit", "buy", 113_000, time_in_force="ioc").reason == "no_quote"
    assert kinds(desk.quote(QUOTES)) == ["OrderFilled", "OrderTriggered", "OrderFilled"]


def test_a_stale_quote_sets_nothing_off(desk: Desk) -> None:
    desk.order("limit", "buy", 112_000)
    desk.now_ms += 20_000
    assert desk.quote({"EURUSD": (111_900, 111_912)}, time_ms=NOW_MS + 5_000) == []
    assert kinds(desk.quote({"EURUSD": (111_900, 111_912)})) == ["OrderFilled"]


def test_resting_orders_hold_no_margin_and_are_checked_when_they_are_met(desk: Desk) -> None:
    orders = [desk.order("limit", "buy", 112_000, 500_000) for _ in range(3)]
    assert [answer.status for answer in orders] == ["accepted"] * 3
    events = desk.bid(111_980)
    assert kinds(events) == ["OrderFilled", "OrderRejected", "OrderRejected"]
    rejected = events[1]
    assert isinstance(rejected, OrderRejected)
    assert (rejected.reason, rejected.order) == ("insufficient_margin", orders[1].order)
    assert desk.resting == {}
    assert desk.do(Cancel, order=orders[1].order).text == (
        f"The order has ended already. ({orders[1].order} is rejected)"
    )


def test_a_rejected_stop_was_triggered_before(desk: Desk) -> None:
    desk.order("stop", "buy", stop=112_500, volume=5_000_000)
    assert kinds(desk.bid(112_600)) == ["OrderTriggered", "OrderRejected"]


def test_what_a_tick_sets_off_is_done_oldest_first_over_all_accounts() -> None:
    desk = Desk()
    for account in ("A2", "A1"):
        desk.open(account, deposit=1_000_000)
    for account in ("A2", "A1", "A2"):
        desk.order("limit", "buy", 112_000, account=account)
    assert [event.account for event in desk.bid(111_900)] == ["A2", "A1", "A2"]


def test_resting_orders_are_limited(desk: Desk) -> None:
    answers = [desk.order("limit", "buy", 111_000, 1_000) for _ in range(ORDERS_PER_ACCOUNT_MAX + 1)]
    assert answers[-1].reason == "open_orders_limit"
    assert [answer.status for answer in answers[:-1]] == ["accepted"] * ORDERS_PER_ACCOUNT_MAX
    assert desk.place("buy", 1_000).status == "filled"


# -- days ------------------------------------------------------------------------------------------


def test_a_day_order_ends_with_the_first_tick_after_midnight(desk: Desk) -> None:
    order = str(desk.order("limit", "buy", 112_000, time_in_force="day").order)
    midnight_ms = (NOW_MS // DAY_MS + 1) * DAY_MS
    assert desk.resting[order].expires_at_ms == midnight_ms
    desk.now_ms = midnight_ms - 1
    assert desk.bid(112_100) == []
    desk.now_ms = midnight_ms
    assert desk.do(Cancel, order=order).reason == "too_late_to_cancel"
    (expired,) = desk.bid(111_900)
    assert isinstance(expired, OrderExpired)
    assert (expired.order, expired.volume, expired.left) == (order, 0, 10_000)
    assert desk.resting == {}


def test_a_good_till_cancelled_order_outlives_the_day(desk: Desk) -> None:
    desk.order("limit", "buy", 112_000)
    desk.now_ms += 30 * DAY_MS
    assert kinds(desk.bid(111_900)) == ["OrderFilled"]


# -- cancelling ------------------------------------------------------------------------------------


def test_a_cancelled_order_is_gone_and_says_what_was_left(desk: Desk) -> None:
    order = desk.order("limit", "buy", 112_000).order
    answer = desk.do(Cancel, order=order)
    assert (answer.status, answer.order, answer.volume, answer.volume_canceled) == ("done", order, 0, 10_000)
    assert desk.bid(111_900) == []
    assert desk.do(Cancel, order=order).reason == "too_late_to_cancel"


def test_a_filled_order_is_too_late_to_cancel_and_others_are_unknown(desk: Desk) -> None:
    order = desk.order("limit", "buy", 112_000).order
    desk.bid(111_900)
    assert desk.do(Cancel, order=order).reason == "too_late_to_cancel"
    assert desk.do(Cancel, order="17-99").reason == "unknown_order"
    desk.open("A2", deposit=1)
    assert desk.do(Cancel, account="A2", order=order).reason == "unknown_order"


def test_the_last_orders_that_ended_are_remembered(desk: Desk) -> None:
    ended = []
    for _ in range(ENDED_ORDERS_KEPT + 1):
        ended.append(desk.order("limit", "buy", 112_000).order)
        desk.do(Cancel, order=ended[-1])
    assert desk.do(Cancel, order=ended[0]).reason == "unknown_order"
    assert desk.do(Cancel, order=ended[1]).reason == "too_late_to_cancel"
    account = desk.book.accounts["A1"]
    assert from_fields(to_fields(account)) == account


def test_cancel_all_takes_what_matches_and_counts_it(desk: Desk) -> None:
    desk.order("limit", "buy", 112_000)
    desk.order("limit", "sell", 113_000)
    desk.order("limit", "buy", 100_000, symbol="USDJPY")
    answer = desk.do(CancelAll, symbol="EURUSD", side="buy")
    assert (answer.status, answer.canceled, answer.left, answer.volume_canceled) == ("done", 1, 0, 10_000)
    assert kinds(desk.events[-2:]) == ["OrderCanceled", "AllCanceled"]
    assert desk.do(CancelAll).canceled == 2
    assert desk.do(CancelAll).canceled == 0
    assert desk.do(CancelAll, symbol="XXXYYY").reason == "unknown_symbol"


# -- liquidity -------------------------------------------------------------------------------------


def test_a_limit_order_takes_what_is_there_and_rests_with_the_rest(desk: Desk) -> None:
    desk.bid(112_000, ask_size=3_500)
    answer = desk.order("limit", "buy", 112_100)
    assert (answer.status, answer.volume, answer.order, answer.position) == (
        "partially_filled", 3_000, "17-3", "17-4",
    )  # fmt: skip
    order = desk.resting["17-3"]
    assert (order.state, order.filled, order.left) == ("partially_filled", 3_000, 7_000)
    assert desk.bid(112_000, ask_size=3_500) == [], "the same quote offers nothing anew"
    (filled,) = desk.bid(112_001, ask_size=20_000)
    assert isinstance(filled, OrderFilled)
    assert (filled.volume, filled.left, desk.resting) == (7_000, 0, {})


def test_orders_share_what_a_quote_offers(desk: Desk) -> None:
    for _ in range(3):
        desk.order("limit", "buy", 112_000, 4_000)
    events = desk.bid(111_900, ask_size=9_000)
    assert [event.volume for event in events if isinstance(event, OrderFilled)] == [4_000, 4_000, 1_000]
    assert desk.place("buy", 1_000).reason == "not_fillable"
    assert desk.place("sell", 1_000).status == "filled"


def test_a_market_order_takes_what_is_there_and_the_rest_is_cancelled(desk: Desk) -> None:
    desk.bid(112_000, ask_size=4_000)
    answer = desk.order("market", "buy")
    assert (answer.status, answer.volume, answer.volume_canceled) == ("partially_filled", 4_000, 6_000)
    assert desk.resting == {}


def test_immediate_or_cancel_takes_what_is_there_and_fill_or_kill_all_or_nothing(desk: Desk) -> None:
    desk.bid(112_000, ask_size=4_000)
    assert desk.order("limit", "buy", 113_000, time_in_force="fok").reason == "not_fillable"
    answer = desk.order("limit", "buy", 113_000, time_in_force="ioc")
    assert (answer.status, answer.volume, answer.volume_canceled) == ("partially_filled", 4_000, 6_000)
    desk.bid(112_001, ask_size=10_000)
    assert desk.order("limit", "buy", 113_000, time_in_force="fok").status == "filled"


def test_a_triggered_stop_that_finds_nothing_is_cancelled(desk: Desk) -> None:
    desk.order("stop", "buy", stop=112_200)
    events = desk.bid(112_300, ask_size=0)
    assert kinds(events) == ["OrderTriggered", "OrderCanceled"]
    assert isinstance(events[1], OrderCanceled)
    assert events[1].reason == "not_fillable"


def test_a_partly_filled_order_without_margin_is_cancelled_for_its_rest(desk: Desk) -> None:
    order = str(desk.order("limit", "buy", 112_000, 900_000).order)
    desk.bid(111_900, ask_size=800_000)
    assert desk.resting[order].filled == 800_000
    (canceled,) = desk.bid(111_901)
    assert isinstance(canceled, OrderCanceled)
    assert (canceled.reason, canceled.volume, canceled.left) == ("insufficient_margin", 800_000, 100_000)


# -- protection ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bid", "reason"), [(111_900, "stop_loss"), (112_400, "take_profit"), (112_100, None)]
)
def test_a_position_closes_by_the_first_of_its_two_prices(desk: Desk, bid: int, reason: str | None) -> None:
    desk.order("market", "buy", stop_loss=111_900, take_profit=112_400)
    events = desk.bid(bid)
    assert [event.reason for event in events if isinstance(event, PositionClosed)] == [reason] * len(events)
    assert len(events) == (reason is not None)
    assert desk.bid(111_000) == [] or reason is None


def test_protection_of_a_sell_is_met_at_the_ask(desk: Desk) -> None:
    desk.order("limit", "sell", 112_200, stop_loss=112_300, take_profit=111_000)
    desk.bid(112_200)
    assert desk.bid(112_287) == []
    (closed,) = desk.bid(112_288)
    assert isinstance(closed, PositionClosed)
    assert (closed.reason, closed.price) == ("stop_loss", 112_300)


@pytest.mark.parametrize(
    ("side", "levels"),
    [
        ("buy", {"stop_loss": BID}),
        ("buy", {"take_profit": BID}),
        ("buy", {"stop_loss": 0}),
        ("sell", {"stop_loss": ASK}),
        ("sell", {"take_profit": ASK}),
        ("sell", {"stop_loss": ASK + 5, "take_profit": ASK + 1}),
    ],
)
def test_protection_must_be_on_its_side_of_the_price(desk: Desk, side, levels):  # type: ignore[no-untyped-def]
    assert desk.order("market", side, **levels).reason == "invalid_protection"


def test_protection_of_a_resting_order_is_held_against_its_own_price(desk: Desk) -> None:
    assert desk.order("limit", "buy", 111_000, stop_loss=111_000).reason == "invalid_protection"
    assert desk.order("limit", "buy", 111_000, stop_loss=110_999).status == "accepted"
    assert desk.order("stop", "buy", stop=113_000, take_profit=113_000).reason == "invalid_protection"


# -- what is kept ----------------------------------------------------------------------------------


def test_changes_write_only_the_orders_that_changed(desk: Desk) -> None:
    desk.order("limit", "buy", 111_000)
    order = desk.order("limit", "buy", 112_000).order
    desk.book.changes(["A1"])
    desk.bid(111_900, ask_size=4_000)
    to_set, to_delete = desk.book.changes(["A1"])["A1"]
    assert (sorted(to_set), to_delete) == ([f"order:{order}", "position:17-5", "used_margin"], [])
    desk.do(Cancel, order=order)
    assert desk.book.changes(["A1"])["A1"] == (
        {"orders_ended": "1", "ended:0": f'{{"id":"{order}","state":"canceled"}}'}, [f"order:{order}"],
    )  # fmt: skip


def test_an_order_that_came_and_went_between_two_commits_is_never_written(desk: Desk) -> None:
    desk.book.changes(["A1"])
    desk.do(Cancel, order=desk.order("limit", "buy", 111_000).order)
    to_set, to_delete = desk.book.changes(["A1"])["A1"]
    assert (sorted(to_set), to_delete) == (["ended:0", "orders_ended"], [])


def test_a_loaded_book_knows_what_waits(desk: Desk) -> None:
    desk.order("limit", "buy", 112_000, time_in_force="day")
    desk.order("stop_limit", "sell", 111_500, stop=111_800)
    desk.order("market", "buy", stop_loss=111_850)
    loaded = [from_fields(to_fields(account)) for account in desk.book.accounts.values()]
    assert {account.id: account for account in loaded} == desk.book.accounts
    book = Book(17, loaded, desk.book.event_sequence)
    quotes = frame({"EURUSD": (111_700, 111_712)})
    live = desk.book.on_frame(quotes, NOW_MS)
    assert book.on_frame(quotes, NOW_MS) == live
    found = [type(event) for decision in live for event in decision.events]
    assert found == [OrderFilled, OrderTriggered, OrderFilled, PositionClosed]
    assert book.accounts == desk.book.accounts


def test_an_order_that_is_met_before_a_new_owner_can_value_its_account_waits(desk: Desk) -> None:
    desk.order("market", "sell", symbol="USDJPY")
    order = desk.order("stop", "buy", stop=112_200).order
    book = Book(17, desk.book.accounts.values(), desk.book.event_sequence)
    met = {"EURUSD": (112_200, 112_212)}
    assert book.on_frame(frame(met), NOW_MS) == []
    book.on_frame(frame({"USDJPY": QUOTES["USDJPY"]}), NOW_MS)
    decisions = book.on_frame(frame(met), NOW_MS)
    assert kinds(decisions[0].events) == ["OrderTriggered", "OrderFilled"]
    assert decisions[0].events[1].order == order  # type: ignore[union-attr]


def test_events_alone_rebuild_accounts_with_orders(desk: Desk) -> None:
    desk.order("limit", "buy", 112_000, time_in_force="day")
    desk.order("stop", "sell", stop=111_900, stop_loss=112_500)
    desk.do(Cancel, order=desk.order("limit", "sell", 113_000).order)
    desk.bid(111_950, ask_size=2_000)
    desk.bid(111_850)
    assert rebuild(desk.events) == desk.book.accounts
    assert {OrderAccepted, OrderFilled, OrderCanceled, OrderTriggered} <= {type(e) for e in desk.events}
