"""Amending orders, protecting positions, closing against each other, and reducing only."""

import msgspec
import pytest

from tests.engine.books import QUOTES, Desk
from tradewind.engine.messages import (
    Amend,
    Cancel,
    CancelAll,
    CloseBy,
    OrderAmended,
    OrderFilled,
    OrderReduced,
    PositionClosed,
    PositionsClosedBy,
    Protect,
)
from tradewind.engine.orders import OrderState

BID, ASK = QUOTES["EURUSD"]


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.open(deposit=1_000_000)
    return desk


def limit(desk: Desk, volume: int = 10_000, **fields: object) -> str:
    return str(desk.order("limit", "buy", 112_000, volume, **fields).order)


def partly_filled(desk: Desk, filled: int = 4_000) -> str:
    order = limit(desk)
    desk.bid(111_900, ask_size=filled)
    desk.bid(112_100)
    assert desk.resting[order].filled == filled
    return order


# -- amending --------------------------------------------------------------------------------------


def test_an_order_waits_for_its_new_price_and_no_longer_for_the_old_one(desk: Desk) -> None:
    order = limit(desk)
    answer = desk.do(Amend, order=order, price=111_500, volume=5_000)
    assert (answer.status, answer.order, answer.volume) == ("accepted", order, 0)
    assert desk.bid(111_900) == []
    (filled,) = desk.bid(111_400)
    assert isinstance(filled, OrderFilled)
    assert (filled.volume, filled.left) == (5_000, 0)


def test_what_is_not_named_stays_and_0_takes_a_protection_off(desk: Desk) -> None:
    order = limit(desk, stop_loss=111_000, take_profit=113_000)
    desk.do(Amend, order=order, stop_loss=110_500, take_profit=0)
    after = desk.resting[order]
    assert (after.price, after.volume, after.stop_loss, after.take_profit) == (112_000, 10_000, 110_500, None)


def test_an_amended_order_that_is_met_is_filled_at_once(desk: Desk) -> None:
    order = limit(desk)
    answer = desk.do(Amend, order=order, price=112_200)
    assert (answer.status, answer.order, answer.price, answer.volume) == ("filled", order, ASK, 10_000)
    assert desk.resting == {}


def test_an_amend_that_cannot_be_paid_for_leaves_the_order_as_it_was(desk: Desk) -> None:
    order = limit(desk)
    before = desk.resting[order]
    assert desk.do(Amend, order=order, price=112_200, volume=5_000_000).reason == "insufficient_margin"
    assert desk.resting[order] == before


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"volume": 0}, "invalid_volume"),
        ({"volume": 1_500}, "invalid_volume"),
        ({"price": 0}, "invalid_price"),
        ({"stop_price": 112_500}, "invalid_price"),
        ({"stop_loss": 112_000}, "invalid_protection"),
    ],
)
def test_an_amended_order_must_be_one_that_could_be_placed(desk: Desk, fields, reason) -> None:  # type: ignore[no-untyped-def]
    assert desk.do(Amend, order=limit(desk), **fields).reason == reason


@pytest.mark.parametrize("volume", [1_000, 4_000])
def test_a_replace_to_no_more_than_is_filled_ends_the_order_as_filled(desk: Desk, volume: int) -> None:
    order = partly_filled(desk)
    answer = desk.do(Amend, order=order, volume=volume)
    assert (answer.status, answer.volume) == ("filled", 4_000)
    event = desk.events[-1]
    assert isinstance(event, OrderAmended)
    assert (event.volume, event.filled) == (4_000, 4_000)
    assert desk.book.accounts["A1"].orders.ended_state(order) == OrderState.FILLED
    assert desk.do(Amend, order=order, volume=8_000).reason == "too_late_to_cancel"


def test_a_partly_filled_order_goes_on_with_what_is_left_of_its_new_volume(desk: Desk) -> None:
    order = partly_filled(desk)
    answer = desk.do(Amend, order=order, volume=6_000)
    assert (answer.status, answer.volume) == ("accepted", 4_000)
    (filled,) = desk.bid(111_900)
    assert isinstance(filled, OrderFilled)
    assert filled.volume == 2_000


def test_the_stop_price_of_an_order_that_was_triggered_is_history(desk: Desk) -> None:
    order = str(desk.order("stop_limit", "buy", 112_000, stop=112_050).order)
    assert desk.do(Amend, order=order, stop_price=112_300).reason == "invalid_price"
    assert desk.do(Amend, order=order, price=111_000).status == "accepted"


def test_a_stop_that_is_amended_to_where_the_quote_is_triggers(desk: Desk) -> None:
    order = desk.order("stop", "buy", stop=113_000).order
    assert desk.do(Amend, order=order, stop_price=112_050).status == "filled"


@pytest.mark.parametrize(
    ("state", "command", "reason"),
    [
        (OrderState.PENDING_REPLACE, Amend, "replace_pending"),
        (OrderState.PENDING_CANCEL, Amend, "cancel_pending"),
        (OrderState.PENDING_CANCEL, Cancel, "cancel_pending"),
    ],
)
def test_an_order_that_another_venue_decides_on_is_left_to_it(desk: Desk, state, command, reason) -> None:  # type: ignore[no-untyped-def]
    order = limit(desk)
    desk.resting[order] = msgspec.structs.replace(desk.resting[order], state=state)
    assert desk.do(command, order=order).reason == reason


def test_cancel_all_says_what_is_still_pending_elsewhere(desk: Desk) -> None:
    first, _ = limit(desk), limit(desk)
    desk.resting[first] = msgspec.structs.replace(desk.resting[first], state=OrderState.PENDING_CANCEL)
    answer = desk.do(CancelAll)
    assert (answer.canceled, answer.left) == (1, 1)


# -- protecting ------------------------------------------------------------------------------------


def test_protection_is_added_changed_and_taken_off(desk: Desk) -> None:
    position = str(desk.place("buy").position)
    held = desk.book.accounts["A1"].positions
    assert desk.do(Protect, position=position, stop_loss=111_800).status == "done"
    desk.do(Protect, position=position, take_profit=112_500)
    assert (held[position].stop_loss, held[position].take_profit) == (111_800, 112_500)
    desk.do(Protect, position=position, stop_loss=0)
    assert desk.bid(111_700) == []
    (closed,) = desk.bid(112_500)
    assert isinstance(closed, PositionClosed)
    assert closed.reason == "take_profit"


def test_protection_that_is_met_already_is_refused(desk: Desk) -> None:
    position = desk.place("buy").position
    assert desk.do(Protect, position=position, stop_loss=BID).reason == "invalid_protection"
    assert desk.do(Protect, position="17-99", stop_loss=1).reason == "unknown_position"
    desk.now_ms += 10_001
    assert desk.do(Protect, position=position, stop_loss=111_000).reason == "stale_quote"


def test_what_is_left_of_a_position_stays_protected(desk: Desk) -> None:
    position = desk.order("market", "buy", stop_loss=111_900).position
    desk.close(position, 4_000)
    (closed,) = desk.bid(111_900)
    assert isinstance(closed, PositionClosed)
    assert (closed.volume, closed.reason) == (6_000, "stop_loss")


# -- closing against each other --------------------------------------------------------------------


def test_two_opposite_positions_close_without_a_spread(desk: Desk) -> None:
    buy, sell = desk.place("buy", 10_000).position, desk.place("sell", 4_000).position
    answer = desk.do(CloseBy, position=buy, by=sell)
    # Bought at 1.12112 and sold at 1.12100: 12 steps of 4,000 units.
    assert (answer.status, answer.volume, answer.profit, answer.balance) == ("filled", 4_000, -48, 999_952)
    (left,) = desk.book.accounts["A1"].positions.values()
    assert (left.id, left.volume) == (buy, 6_000)
    event = desk.events[-1]
    assert isinstance(event, PositionsClosedBy)
    assert (event.left, event.by_left) == (6_000, 0)
    assert desk.book.accounts["A1"].used_margin == left.margin


def test_closing_against_each_other_needs_two_opposite_positions_of_a_symbol(desk: Desk) -> None:
    buy, same = desk.place("buy").position, desk.place("buy").position
    other = desk.place("sell", symbol="GBPUSD").position
    for by in (buy, same, other):
        assert desk.do(CloseBy, position=buy, by=by).reason == "not_opposite"
    assert desk.do(CloseBy, position=buy, by="17-99").reason == "unknown_position"


# -- reducing only ---------------------------------------------------------------------------------


def test_a_reduce_only_order_closes_the_oldest_first_and_opens_nothing(desk: Desk) -> None:
    first, second = desk.place("buy", 3_000).position, desk.place("buy", 4_000).position
    answer = desk.order("market", "sell", volume=5_000, reduce_only=True)
    assert (answer.status, answer.volume, answer.closed, answer.profit) == ("filled", 5_000, 2, -60)
    (left,) = desk.book.accounts["A1"].positions.values()
    assert (left.id, left.volume) == (second, 2_000)
    *_, one, two, end = desk.events
    assert isinstance(one, PositionClosed) and isinstance(two, PositionClosed)
    assert [one.position, two.position, one.reason] == [first, second, "reduce"]
    assert isinstance(end, OrderReduced)


def test_a_reduce_only_order_ends_when_nothing_is_left_to_reduce(desk: Desk) -> None:
    assert desk.order("market", "sell", reduce_only=True).reason == "nothing_to_reduce"
    desk.place("buy", 3_000)
    answer = desk.order("market", "sell", volume=5_000, reduce_only=True)
    assert (answer.status, answer.volume, answer.volume_canceled) == ("partially_filled", 3_000, 2_000)


def test_a_resting_reduce_only_order_is_a_take_profit_of_its_own(desk: Desk) -> None:
    desk.place("buy", 3_000)
    answer = desk.order("limit", "sell", 112_400, 5_000, reduce_only=True)
    assert answer.status == "accepted"
    events = desk.bid(112_400)
    assert [type(event) for event in events] == [PositionClosed, OrderReduced]
    assert desk.resting == {}


def test_a_reduce_only_order_has_nothing_to_protect(desk: Desk) -> None:
    desk.place("buy")
    answer = desk.order("market", "sell", reduce_only=True, stop_loss=113_000)
    assert answer.reason == "invalid_protection"


def test_orders_that_are_met_wait_while_trading_is_halted(desk: Desk) -> None:
    limit(desk)
    desk.order("market", "buy", stop_loss=112_000)
    desk.book.accounts["A1"].trading = "halted"
    assert desk.bid(111_900) == []
    desk.book.accounts["A1"].trading = "reducing"
    assert [type(event) for event in desk.bid(111_901)] == [PositionClosed]
    desk.book.accounts["A1"].trading = "active"
    assert [type(event) for event in desk.bid(111_902)] == [OrderFilled]
