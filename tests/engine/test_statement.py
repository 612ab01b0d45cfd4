"""A statement adds up: from the events alone, for any span of time."""

from tests.engine.books import QUOTES
from tests.engine.test_groups import desk_with, withdraw
from tradewind.engine.messages.groups import Terms
from tradewind.engine.statement import statement


def test_opening_balance_and_totals_give_the_closing_balance() -> None:
    desk = desk_with(Terms(group="g", commission_cents=350), deposit=100_000)
    start_ms = desk.now_ms
    desk.now_ms += 1_000
    position = desk.place("buy", 10_000).position
    desk.quote({"EURUSD": (112_200, 112_212)})
    desk.close(position)
    withdraw(desk, 5_000)
    desk.now_ms += 1_000
    desk.quote(QUOTES)
    desk.open("A2", deposit=7)
    desk.deposit(1)
    whole = statement(desk.events, "A1", 0, desk.now_ms + 1)
    assert (whole.opening_balance, whole.closing_balance) == (0, desk.book.accounts["A1"].balance)
    middle = statement(desk.events, "A1", start_ms + 1, desk.now_ms)
    assert middle.opening_balance == 100_000
    assert middle.totals == {
        "deposits": 0,
        "withdrawals": -5_000,
        "closed_profit": 880,
        "commission": -70,
        "swaps": 0,
        "forgiven": 0,
    }
    assert middle.closing_balance == 100_000 - 5_000 + 880 - 70 == middle.lines[-1].balance
    assert [(line.kind, line.position == position) for line in middle.lines] == [
        ("commission", True),
        ("closed_profit", True),
        ("commission", True),
        ("withdrawals", False),
    ]


def test_a_statement_goes_on_from_where_the_events_begin() -> None:
    desk = desk_with(Terms(group="g"), deposit=100)
    earlier, later = desk.events[:1], desk.events[1:]
    assert not [event for event in earlier if hasattr(event, "balance")]
    assert statement(later, "A1", desk.now_ms, desk.now_ms + 1, 50).closing_balance == 150
