"""What an account's group asks of it: markup, commission, levels, limits of orders, withdrawals, debts."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.books import NOW_MS, QUOTES, Desk
from tradewind.engine.account import from_fields, to_fields
from tradewind.engine.book import rebuild
from tradewind.engine.cash import cash_flows
from tradewind.engine.messages import (
    Answer,
    DebtForgiven,
    MarginCall,
    OpenAccount,
    PositionClosed,
    RejectReason,
    SetGroup,
    Withdraw,
    decode_event,
    encode,
)
from tradewind.engine.messages.groups import DEFAULT_TERMS, Terms, decode_terms, encode_terms, shared


def desk_with(terms: Terms, deposit: int = 1_000_000) -> Desk:
    """Account A1 is in the group."""
    desk = Desk()
    desk.house.groups = {terms.group: terms}
    answer = desk.answer(
        desk.book.decide(OpenAccount(account="A1", id="open", group=terms.group), desk.now_ms)
    )
    assert answer.status == "done", answer.text
    desk.deposit(deposit)
    return desk


def withdraw(desk: Desk, amount: int, id: str = "w") -> Answer:
    return desk.answer(desk.book.decide(Withdraw(account="A1", id=id, amount=amount), desk.now_ms))


def check_books(desk: Desk) -> None:
    """Events alone, and the stored hash, give the account; its balance is its sums."""
    account = desk.book.accounts["A1"]
    events = [decode_event(encode(event)) for event in desk.events]
    assert rebuild(events)["A1"] == account == from_fields(to_fields(account))
    assert account.balance == sum(cents for event in events for _, cents in cash_flows(event))


def test_the_built_in_group_is_not_written_anywhere() -> None:
    desk = Desk()
    desk.open()
    assert desk.book.accounts["A1"].terms is DEFAULT_TERMS
    assert b"terms" not in encode(desk.events[0])
    assert "terms" not in to_fields(desk.book.accounts["A1"])


def test_an_account_keeps_the_terms_that_it_was_opened_with() -> None:
    desk = desk_with(Terms(group="vip", leverage=30))
    account = desk.book.accounts["A1"]
    assert account.leverage == 30
    desk.house.groups = {"vip": Terms(group="vip", leverage=200)}
    assert account.leverage == 30
    check_books(desk)
    changed = SetGroup(account="A1", id="g", group="vip")
    assert desk.answer(desk.book.decide(changed, NOW_MS)).status == "done"
    assert (account.leverage, account.terms.leverage) == (200, 200)
    check_books(desk)


def test_a_group_must_be_there_and_its_leverage_is_a_limit() -> None:
    desk = desk_with(Terms(group="vip", leverage_max=100))
    for command, reason in [
        (SetGroup(account="A1", id="1", group="none"), RejectReason.UNKNOWN_GROUP),
        (SetGroup(account="A1", id="2", group="vip", leverage=101), RejectReason.INVALID_LEVERAGE),
        (SetGroup(account="A2", id="3", group="vip"), RejectReason.UNKNOWN_ACCOUNT),
    ]:
        assert desk.answer(desk.book.decide(command, NOW_MS)).reason == reason


def test_the_markup_widens_the_spread_when_opening_valuing_and_closing() -> None:
    desk = desk_with(Terms(group="wide", markup_points=5))
    assert desk.place("buy").price == 112_117
    opened = desk.place("sell")
    assert opened.price == 112_095
    # 12 points of spread and 5 on each side, for both positions.
    assert desk.book.accounts["A1"].equity(desk.book.quotes.last) == 1_000_000 - 2 * 220
    assert desk.close(opened.position).profit == -220
    check_books(desk)


@pytest.mark.parametrize("markup_points", [0, 1, 700])
def test_an_account_with_a_markup_is_called_at_the_very_tick(markup_points: int) -> None:
    """Also when it is not looked at with every tick."""
    desk = desk_with(Terms(group="g", markup_points=markup_points), deposit=60_000)
    desk.place("buy", 20_000)
    bid = QUOTES["EURUSD"][0]
    for lower in range(1, 2_000, 1):
        events = desk.quote({"EURUSD": (bid - lower, bid - lower + 12)})
        account = desk.book.accounts["A1"]
        equity = account.equity(desk.book.quotes.last)
        assert equity is not None
        called = [event for event in events if isinstance(event, MarginCall)]
        assert bool(called) == (equity < account.used_margin)
        if called:
            return
    pytest.fail("never called")


def test_a_commission_is_paid_at_the_opening_and_at_the_close() -> None:
    desk = desk_with(Terms(group="raw", commission_cents=350))
    opened = desk.place("buy", 10_000)
    assert opened.balance == 1_000_000 - 35
    closed = desk.close(opened.position, 1_000)
    assert closed.balance == 1_000_000 - 35 + (closed.profit or 0) - 4  # 3.5 cents, rounded up
    desk.close_all()
    check_books(desk)


def test_a_commission_must_be_free_as_well() -> None:
    desk = desk_with(Terms(group="raw", commission_cents=350), deposit=11_332 + 34)
    answer = desk.place("buy", 10_000)
    assert answer.reason == RejectReason.INSUFFICIENT_MARGIN
    assert answer.text is not None and "and 35 of commission" in answer.text
    desk.deposit(1)
    assert desk.place("buy", 10_000).status == "filled"
    assert desk.quote(QUOTES) == []


def test_levels_are_those_of_the_group() -> None:
    terms = Terms(group="strict", margin_call_percent=150, margin_restored_percent=160, stop_out_percent=140)
    desk = desk_with(terms, deposit=17_000)
    assert desk.place("buy", 10_000).status == "filled"  # margin 11,212: 150 % are 16,818
    assert [type(event) for event in desk.quote({"EURUSD": (112_030, 112_042)})] == [MarginCall]
    closed = desk.quote({"EURUSD": (111_800, 111_812)})  # 140 % are 15,697
    assert [event.reason for event in closed if isinstance(event, PositionClosed)] == ["stop_out"]
    check_books(desk)


@pytest.mark.parametrize("forgives", [True, False])
def test_a_debt_is_forgiven_where_the_group_says_so(forgives: bool) -> None:
    desk = desk_with(Terms(group="g", forgives_debt=forgives), deposit=12_000)
    desk.place("buy", 10_000)
    events = desk.quote({"EURUSD": (110_000, 110_012)})
    debt = 12_000 - 10 * 2_112
    assert desk.book.accounts["A1"].balance == (0 if forgives else debt)
    forgiven = [event.amount for event in events if isinstance(event, DebtForgiven)]
    assert forgiven == ([-debt] if forgives else [])
    check_books(desk)


def test_a_debt_is_not_forgiven_while_something_is_open() -> None:
    desk = desk_with(Terms(group="g", forgives_debt=True), deposit=25_000)
    desk.place("buy", 10_000)
    desk.place("sell", 1_000, symbol="USDJPY")
    desk.now_ms += 10_001
    desk.quote({"EURUSD": (109_000, 109_012)})
    account = desk.book.accounts["A1"]
    assert account.balance < 0 and len(account.positions) == 1
    desk.quote({"USDJPY": QUOTES["USDJPY"]})
    assert account.balance == 0 and not account.positions
    check_books(desk)


def test_no_more_is_withdrawn_than_is_free() -> None:
    desk = desk_with(Terms(group="g"), deposit=20_000)
    desk.place("buy", 10_000)
    free = 20_000 - 11_212 - 120
    refused = withdraw(desk, free + 1)
    assert refused.reason == RejectReason.INSUFFICIENT_FUNDS
    assert refused.text is not None and f"{free} are free" in refused.text
    assert withdraw(desk, free, "w2").balance == 20_000 - free
    assert desk.quote(QUOTES) == [], "nobody is called for what was free"
    check_books(desk)


def test_what_floats_is_not_withdrawn_nor_anything_at_a_stale_quote() -> None:
    desk = desk_with(Terms(group="g"), deposit=20_000)
    desk.place("buy", 1_000)
    desk.quote({"EURUSD": (130_000, 130_012)})
    assert withdraw(desk, 20_001).reason == RejectReason.INSUFFICIENT_FUNDS
    desk.now_ms += 10_001
    assert withdraw(desk, 1, "w2").reason == RejectReason.STALE_QUOTE
    for amount in (0, -1, 10**12 + 1):
        assert withdraw(desk, amount, f"w{amount}").reason == RejectReason.INVALID_AMOUNT


@pytest.mark.parametrize(
    ("terms", "reason", "numbers"),
    [
        (Terms(group="g", order_volume_max=9_000), "order_volume", "10000 units asked; group g allows 9000"),
        (Terms(group="g", order_value_max=1_121_119), "order_value", "worth 1121120 cents"),
        (Terms(group="g", positions_max=0), "open_positions_limit", "0 are open"),
    ],
)
def test_orders_beyond_the_limits_of_the_group_are_refused(terms: Terms, reason: str, numbers: str) -> None:
    answer = desk_with(terms).place("buy", 10_000)
    assert answer.reason == reason
    assert answer.text is not None and numbers in answer.text


def test_a_spread_that_is_too_wide_is_not_traded_at() -> None:
    desk = desk_with(Terms(group="g"))
    desk.quote({"EURUSD": (90_000, 112_000)})
    answer = desk.place("buy")
    assert answer.reason == RejectReason.PRICE_COLLAR
    assert answer.text is not None and "112000 is more than 1000 basis points off EURUSD" in answer.text


def test_orders_come_no_faster_than_the_group_allows() -> None:
    desk = desk_with(Terms(group="g", orders_per_second=2, orders_at_once=3))
    reasons = [desk.place("buy", 1_000).reason for _ in range(4)]
    assert reasons == [None, None, None, RejectReason.ORDER_RATE]
    assert desk.close_all().status == "done", "closing is not limited"
    desk.now_ms += 499
    desk.quote(QUOTES)
    assert desk.place("buy", 1_000).reason == RejectReason.ORDER_RATE
    desk.now_ms += 1
    assert desk.place("buy", 1_000).reason is None
    desk.now_ms -= 5_000  # another worker's clock
    assert desk.place("buy", 1_000).reason == RejectReason.ORDER_RATE


@pytest.mark.parametrize(
    "body",
    [
        b'{"leverage":501}',
        b'{"leverage":200,"leverage_max":100}',
        b'{"stop_out_percent":101}',
        b'{"margin_call_percent":120}',
        b'{"comission_cents":1}',
        b'{"markup_points":-1}',
    ],
)
def test_terms_that_make_no_sense_are_refused(body: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_terms(body)


@given(st.integers(0, 10_000), st.booleans())
def test_terms_are_shared_and_read_back_as_they_were_written(commission: int, forgives: bool) -> None:
    terms = Terms(group="g", commission_cents=commission, forgives_debt=forgives)
    assert decode_terms(encode_terms(terms)) == terms
    assert shared(terms) is shared(decode_terms(encode_terms(terms)))
    assert shared(decode_terms(b"{}")) is DEFAULT_TERMS
