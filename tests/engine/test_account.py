import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.books import NOW_MS, QUOTES
from tradewind.engine.account import Account, Leg, Position, apply, from_fields, to_fields
from tradewind.engine.errors import InconsistentEvent
from tradewind.engine.instruments import INSTRUMENTS, Quote
from tradewind.engine.messages import AccountOpened, AllClosed, Deposited, OrderFilled, PositionClosed, Side
from tradewind.engine.money import closing_price, profit_cents

LAST = {symbol: Quote(symbol, bid, ask, NOW_MS) for symbol, (bid, ask) in QUOTES.items()}


def position(number: int, side: Side = "buy", volume: int = 10_000, symbol: str = "EURUSD") -> Position:
    return Position(f"17-{number}", symbol, side, volume, QUOTES[symbol][0], 11_210, NOW_MS)


def account_with(*positions: Position) -> Account:
    account = Account("A1", leverage=100, balance=100_000)
    for each in positions:
        account.add(each)
    return account


def test_equity_is_the_balance_and_what_each_leg_floats() -> None:
    account = account_with(position(1), position(2, "sell"), position(3, "sell", symbol="USDJPY"))
    # The buy was opened at today's bid; the sells at the bid close at the ask: 12 steps of 10,000 units each.
    assert account.equity(LAST) == 100_000 - 120 - 111
    assert account.free_margin(LAST) == 100_000 - 120 - 111 - 3 * 11_210
    assert account.margin_level_percent(LAST) == 296  # 99,769 of 33,630


def test_an_account_without_a_quote_for_what_it_holds_has_no_equity() -> None:
    account = account_with(position(1))
    assert account.equity({}) is None
    assert account.free_margin({}) is None
    assert account.margin_level_percent({}) is None
    assert Account("A1", leverage=100, balance=5).equity({}) == 5


def test_legs_are_gone_with_their_last_position() -> None:
    account = account_with(position(1), position(2, volume=5_000))
    account.reduce("17-1", 10_000, 11_210)
    assert account.legs["EURUSD", "buy"].volume == 5_000
    account.reduce("17-2", 5_000, 11_210)
    assert (account.legs, account.positions, account.used_margin) == ({}, {}, 0)


def test_a_partial_close_keeps_the_position_at_its_place() -> None:
    account = account_with(position(1), position(2))
    account.reduce("17-1", 4_000, 4_484)
    assert list(account.positions) == ["17-1", "17-2"]
    assert (account.positions["17-1"].volume, account.positions["17-1"].margin) == (6_000, 6_726)


def opened(account: str = "A1") -> AccountOpened:
    return AccountOpened(account=account, at_ms=1, cause="o", leverage=100)


def filled(volume: int = 1_000) -> OrderFilled:
    return OrderFilled(
        account="A1",
        at_ms=2,
        cause="f",
        position="17-2",
        symbol="EURUSD",
        side="buy",
        volume=volume,
        price=112_112,
        margin=1_122,
    )


def closed(volume: int, balance: int = -1) -> PositionClosed:
    return PositionClosed(
        account="A1",
        at_ms=3,
        cause="c",
        position="17-2",
        symbol="EURUSD",
        side="buy",
        volume=volume,
        left=0,
        price=112_000,
        profit=-1,
        margin=1_122,
        balance=balance,
        reason="close",
    )


def test_events_that_change_no_account_are_passed_over() -> None:
    accounts: dict[str, Account] = {}
    apply(accounts, AllClosed(account="nobody", at_ms=1, cause="c", closed=0, left=0))
    assert accounts == {}


@pytest.mark.parametrize(
    ("history", "complaint"),
    [
        ([opened(), opened()], "opened twice"),
        ([filled()], "before it was opened"),
        ([opened(), filled(), filled()], "17-2 is opened twice"),
        ([opened(), closed(1_000)], "is not open"),
        ([opened(), filled(), closed(2_000)], "holds 1000 units"),
        ([opened(), filled(), closed(0)], "holds 1000 units"),
        ([opened(), filled(), closed(1_000, balance=5)], "has balance 5 cents, it is -1"),
        ([opened(), Deposited(account="A1", at_ms=1, cause="d", amount=5, balance=10)], "it is 5"),
    ],
)
def test_a_history_that_cannot_have_happened_is_refused(history: list, complaint: str) -> None:  # type: ignore[type-arg]
    accounts: dict[str, Account] = {}
    with pytest.raises(InconsistentEvent, match=complaint):
        for event in history:
            apply(accounts, event)


def test_stored_fields_give_the_same_account_whatever_order_the_hash_has() -> None:
    account = account_with(*(position(number) for number in (2, 9, 10, 100)))
    account.margin_called = True
    fields = to_fields(account)
    assert fields["position:17-9"].startswith('{"id":"17-9","symbol":"EURUSD"')
    shuffled = dict(sorted(fields.items(), reverse=True))
    assert from_fields(shuffled) == account
    assert list(from_fields(shuffled).positions) == ["17-2", "17-9", "17-10", "17-100"]


@pytest.mark.parametrize(
    "change",
    [
        {"balance": "12.5"},
        {"position:17-1": "{"},
        {"position:17-1": '{"id":"17-1"}'},
        {"position:x": '{"id":"17-1"}'},
        {"used_margin": "7"},
        {"leverage": None},
    ],
    ids=str,
)
def test_a_broken_stored_account_is_named(change: dict[str, str | None]) -> None:
    fields: dict[str, str | None] = {**to_fields(account_with(position(1))), **change}
    with pytest.raises(ValueError, match="stored account A1"):
        from_fields({name: value for name, value in fields.items() if value is not None})


@given(
    symbol=st.sampled_from(sorted(QUOTES)),
    side=st.sampled_from(["buy", "sell"]),
    volume=st.integers(1, 10**9),
    opened=st.integers(1, 10**6),
    bid=st.integers(1, 10**6),
    markup=st.integers(0, 50),
)
def test_a_leg_floats_what_closing_it_would_give(
    symbol: str, side: Side, volume: int, opened: int, bid: int, markup: int
) -> None:
    leg = Leg(INSTRUMENTS[symbol], side, volume, volume * opened)
    quote = Quote(symbol, bid, bid + 12, NOW_MS)
    price = closing_price(quote, side, markup)
    assert leg.profit(quote, markup) == profit_cents(leg.instrument, side, volume, leg.cost, price)
