"""What follows from a report, as plain data."""

import itertools
from dataclasses import replace

import pytest

from tradewind.engine.instruments import Quote
from tradewind.engine.orders import FINAL_STATES, OrderState
from tradewind.providers.errors import ReportRefused
from tradewind.providers.orders import ExternalOrder, Kind, Report, cancel_requested, reported
from tradewind.providers.provider import Dealer
from tradewind.providers.tracker import Tracker

ORDER = ExternalOrder("1", "EURUSD", "buy", 100)
ACCEPTED = replace(ORDER, state=OrderState.NEW)


def fill(volume: int, filled: int, name: str = "x1") -> Report:
    return Report("1", Kind.FILL, execution_id=name, volume=volume, price=7, filled=filled)


def test_fills_add_up():
    part = reported(ORDER, fill(40, 40))
    assert (part.state, part.filled, part.cost) == (OrderState.PARTIALLY_FILLED, 40, 280)
    whole = reported(part, fill(60, 100, "x2"))
    assert (whole.state, whole.filled, whole.cost) == (OrderState.FILLED, 100, 700)


def test_the_same_execution_counts_once():
    part = reported(ORDER, fill(40, 40))
    assert reported(part, fill(40, 40)) is part


@pytest.mark.parametrize("report", [fill(40, 50), fill(101, 101), fill(0, 0), fill(-1, -1)])
def test_a_fill_that_does_not_add_up_is_refused(report):
    with pytest.raises(ReportRefused, match="0 of 100 filled"):
        reported(ORDER, report)


def test_fills_go_on_while_a_cancel_is_pending():
    pending = cancel_requested(ACCEPTED)
    part = reported(pending, fill(40, 40))
    assert part.state is OrderState.PENDING_CANCEL
    assert reported(part, Report("1", Kind.CANCEL_REFUSED)).state is OrderState.PARTIALLY_FILLED
    assert reported(part, Report("1", Kind.CANCELED, "c")).state is OrderState.CANCELED


def test_only_an_order_that_was_never_acknowledged_can_be_unknown_to_its_provider():
    assert reported(ORDER, Report("1", Kind.NOT_FOUND)).state is OrderState.REJECTED
    with pytest.raises(ReportRefused, match="the provider knows no such order"):
        reported(ACCEPTED, Report("1", Kind.NOT_FOUND))


def test_a_status_ends_what_has_ended_and_brings_no_fills():
    for state in (OrderState.CANCELED, OrderState.EXPIRED):
        assert reported(ACCEPTED, Report("1", Kind.STATUS, state=state)).state is state
    with pytest.raises(ReportRefused, match="100 filled, its reports came to 0"):
        reported(ACCEPTED, Report("1", Kind.STATUS, state=OrderState.FILLED, filled=100))
    pending = cancel_requested(ACCEPTED)
    assert reported(pending, Report("1", Kind.STATUS, state=OrderState.NEW)).state is OrderState.NEW


@pytest.mark.parametrize(("state", "kind"), list(itertools.product(OrderState, Kind)))
def test_every_report_to_every_state_changes_the_order_by_the_table_or_is_refused(state, kind):
    order = replace(ORDER, state=state)
    report = Report("1", kind, "x", volume=100, price=7, filled=100 if kind is Kind.FILL else 0, state=state)
    try:
        changed = reported(order, report)
    except ReportRefused:
        return
    assert changed is order or state not in FINAL_STATES
    assert changed.filled == (100 if kind is Kind.FILL else 0)


def test_an_order_is_asked_about_less_and_less_often_but_for_ever():
    tracker = Tracker(answer_s_max=1.0)
    tracker.add(ORDER, 0.0)
    asked = [second for second in range(200) if tracker.due(float(second))]
    assert asked[:5] == [1, 3, 7, 15, 31]
    assert asked[-1] - asked[-2] == 30
    tracker.ask_all(200.0)
    assert tracker.due(200.0) == [ORDER]


def test_an_id_is_open_once():
    tracker = Tracker()
    tracker.add(ORDER, 0.0)
    with pytest.raises(ValueError, match="order 1 is with the provider already"):
        tracker.add(ORDER, 0.0)


@pytest.mark.parametrize(
    ("side", "limit", "state"),
    [
        ("buy", None, OrderState.FILLED),
        ("buy", 112_130, OrderState.FILLED),
        ("buy", 112_129, OrderState.CANCELED),
        ("sell", 112_120, OrderState.FILLED),
        ("sell", 112_121, OrderState.CANCELED),
    ],
)
async def test_the_house_deals_at_its_quote(side, limit, state):
    heard = []

    async def on_change(order: ExternalOrder) -> None:
        heard.append(order)

    dealer = Dealer({"EURUSD": Quote("EURUSD", 112_120, 112_130, 1)}.get, on_change)
    await dealer.start()
    await dealer.send(replace(ORDER, side=side, limit=limit))
    await dealer.send(replace(ORDER, symbol="USDJPY"))
    await dealer.reconcile([ORDER])
    with pytest.raises(KeyError):
        await dealer.cancel("1")
    await dealer.close()
    assert [order.state for order in heard] == [state, OrderState.REJECTED, OrderState.REJECTED]
