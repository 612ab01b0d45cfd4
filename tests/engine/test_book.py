import pytest

from tests.engine.books import NOW_MS, QUOTES, Desk, frame
from tradewind.engine.account import from_fields, to_fields
from tradewind.engine.book import POSITIONS_PER_ACCOUNT_MAX, Book, rebuild
from tradewind.engine.messages import (
    AllClosed,
    Deposit,
    OrderFilled,
    OrderRejected,
    Place,
    PositionClosed,
    RejectReason,
)


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.open(deposit=1_000_000)
    return desk


def test_an_order_is_filled_at_the_ask_and_named_after_its_event(desk: Desk) -> None:
    answer = desk.place("buy", 10_000)
    assert (answer.status, answer.price, answer.volume, answer.balance) == (
        "filled",
        112_112,
        10_000,
        1_000_000,
    )
    assert (answer.position, answer.sequence) == ("17-3", 3)
    event = desk.events[-1]
    assert isinstance(event, OrderFilled)
    assert (event.position, event.price, event.margin, event.cause) == ("17-3", 112_112, 11_212, answer.id)
    assert desk.book.accounts["A1"].used_margin == 11_212


def test_a_sell_opens_at_the_bid_and_closes_at_the_ask(desk: Desk) -> None:
    opened = desk.place("sell", 10_000)
    assert opened.price == 112_100
    closed = desk.close(opened.position)
    assert (closed.status, closed.price, closed.profit, closed.balance) == ("filled", 112_112, -120, 999_880)
    assert desk.book.accounts["A1"].used_margin == 0


def test_hedging_keeps_both_positions(desk: Desk) -> None:
    desk.place("buy")
    desk.place("sell")
    assert [position.side for position in desk.book.accounts["A1"].positions.values()] == ["buy", "sell"]


def test_a_part_can_be_closed_and_frees_its_margin(desk: Desk) -> None:
    position = desk.place("buy", 10_000).position
    answer = desk.close(position, 3_000)
    assert (answer.volume, answer.profit) == (3_000, -36)
    event = desk.events[-1]
    assert isinstance(event, PositionClosed)
    assert (event.left, event.reason) == (7_000, "close")
    # What stays is the share of the 7,000 units that are left: 7,848.4 cents, rounded up.
    assert desk.book.accounts["A1"].used_margin == 7_849 == 11_212 - event.margin
    desk.close(position)
    assert desk.book.accounts["A1"].positions == {}


@pytest.mark.parametrize("volume", [0, -1_000, 999, 1_500, 10_001_000])
def test_volumes_out_of_step_are_rejected_with_the_rule(desk: Desk, volume: int) -> None:
    answer = desk.place("buy", volume)
    assert (answer.status, answer.reason, answer.sequence) == ("rejected", "invalid_volume", 3)
    assert answer.text is not None
    assert "allowed are 1000 to 10000000 in steps of 1000" in answer.text
    event = desk.events[-1]
    assert isinstance(event, OrderRejected)
    assert (event.reason, event.text, event.cause) == ("invalid_volume", answer.text, answer.id)


@pytest.mark.parametrize("volume", [0, -1_000, 500, 9_500, 11_000])
def test_neither_what_is_closed_nor_what_is_left_may_be_out_of_step(desk: Desk, volume: int) -> None:
    position = desk.place("buy", 10_000).position
    assert desk.close(position, volume).reason == RejectReason.INVALID_VOLUME
    assert desk.book.accounts["A1"].positions[str(position)].volume == 10_000


def test_unknown_things_are_rejected_by_name(desk: Desk) -> None:
    assert desk.place("buy", account="A2").reason == RejectReason.UNKNOWN_ACCOUNT
    assert desk.deposit(1, account="A2").reason == RejectReason.UNKNOWN_ACCOUNT
    assert desk.place("buy", symbol="EURGBP").reason == RejectReason.UNKNOWN_SYMBOL
    assert desk.close_all(symbol="EURGBP").reason == RejectReason.UNKNOWN_SYMBOL
    assert desk.close("17-99").reason == RejectReason.UNKNOWN_POSITION
    commands = [event.command for event in desk.events if isinstance(event, OrderRejected)]
    assert commands == ["place", "deposit", "place", "close_all", "close"]


def test_positions_of_others_are_unknown(desk: Desk) -> None:
    desk.open("A2", deposit=1_000_000)
    position = desk.place("buy").position
    assert desk.close(position, account="A2").reason == RejectReason.UNKNOWN_POSITION


def test_an_account_opens_once_and_with_a_sane_leverage(desk: Desk) -> None:
    assert desk.open().reason == RejectReason.ACCOUNT_EXISTS
    for leverage in (0, -1, 501):
        assert desk.open("A2", leverage=leverage).reason == RejectReason.INVALID_LEVERAGE
    assert desk.open("A2", leverage=500).status == "done"


@pytest.mark.parametrize("amount", [0, -1, 10**12 + 1])
def test_deposits_are_positive_and_bounded(desk: Desk, amount: int) -> None:
    assert desk.deposit(amount).reason == RejectReason.INVALID_AMOUNT
    assert desk.book.accounts["A1"].balance == 1_000_000


def test_margin_is_checked_to_the_cent_with_the_spread() -> None:
    # 10,000 units at 1.12112 hold 11,212 cents, and the spread of 12 steps costs 120 at once.
    desk = Desk()
    desk.open(deposit=11_331)
    answer = desk.place("buy", 10_000)
    assert answer.reason == RejectReason.INSUFFICIENT_MARGIN
    assert answer.text is not None
    assert "needs 11212 cents, and 120 for the spread; 11331 are free" in answer.text
    desk.deposit(1)
    assert desk.place("buy", 10_000).status == "filled"
    assert desk.quote(QUOTES) == [], "an order just filled is not called at the same quote"


def test_without_a_quote_nothing_trades() -> None:
    desk = Desk(quotes={})
    desk.open(deposit=1_000_000)
    assert desk.place("buy").reason == RejectReason.NO_QUOTE


def test_a_stale_quote_stops_orders_and_closes(desk: Desk) -> None:
    position = desk.place("buy").position
    desk.now_ms += 10_001
    assert desk.place("buy").reason == RejectReason.STALE_QUOTE
    assert desk.close(position).reason == RejectReason.STALE_QUOTE


def test_the_limit_of_staleness_is_a_parameter() -> None:
    book = Book(1, stale_quote_ms_max=100)
    book.on_frame(frame(QUOTES), NOW_MS)
    order = Place(account="A1", id="1", symbol="EURUSD", side="buy", volume=1_000)
    assert book.decide(order, NOW_MS).answer is not None
    assert not book.quotes.is_fresh("EURUSD", NOW_MS + 101)


def test_an_account_that_cannot_be_valued_opens_nothing_more(desk: Desk) -> None:
    desk.place("buy", symbol="USDJPY")
    book = Book(17, desk.book.accounts.values(), desk.book.event_sequence)
    book.on_frame(frame({"EURUSD": QUOTES["EURUSD"]}), NOW_MS)
    order = Place(account="A1", id="1", symbol="EURUSD", side="buy", volume=1_000)
    answer = book.decide(order, NOW_MS).answer
    assert answer is not None and answer.text is not None
    assert answer.reason == RejectReason.NO_QUOTE
    assert "positions are open in USDJPY" in answer.text


def test_positions_are_limited(desk: Desk) -> None:
    desk.deposit(10**9)
    answers = [desk.place("buy", 1_000) for _ in range(POSITIONS_PER_ACCOUNT_MAX + 1)]
    assert [answer.status for answer in answers].count("filled") == POSITIONS_PER_ACCOUNT_MAX
    assert answers[-1].reason == RejectReason.OPEN_POSITIONS_LIMIT


def test_close_all_takes_what_matches_oldest_first(desk: Desk) -> None:
    first = desk.place("buy").position
    desk.place("sell")
    desk.place("buy", symbol="USDJPY")
    last = desk.place("buy").position
    before = len(desk.events)
    answer = desk.close_all("EURUSD", "buy")
    assert (answer.status, answer.closed, answer.left, answer.volume) == ("done", 2, 0, 20_000)
    assert (answer.profit, answer.balance) == (-240, 999_760)
    closed = [event.position for event in desk.events[before:] if isinstance(event, PositionClosed)]
    assert closed == [first, last]
    assert isinstance(desk.events[-1], AllClosed)
    assert answer.sequence == len(desk.events)
    assert desk.close_all().closed == 2
    assert desk.close_all().closed == 0


def test_close_all_leaves_what_has_no_fresh_quote_and_says_so(desk: Desk) -> None:
    desk.place("buy")
    desk.place("buy", symbol="USDJPY")
    desk.now_ms += 10_001
    desk.quote({"USDJPY": QUOTES["USDJPY"]})
    answer = desk.close_all()
    assert (answer.closed, answer.left) == (1, 1)
    assert [position.symbol for position in desk.book.accounts["A1"].positions.values()] == ["EURUSD"]


def test_a_rejection_touches_no_account_and_leaves_nothing_to_write(desk: Desk) -> None:
    desk.book.changes(["A1"])
    decision = desk.book.decide(Deposit(account="A1", id="x", amount=0), NOW_MS)
    assert decision.touched == ()
    assert desk.book.changes(["A1"]) == {}


def test_changes_are_relative_to_the_call_before(desk: Desk) -> None:
    to_set, to_delete = desk.book.changes(["A1", "A1"])["A1"]
    assert (to_set, to_delete) == (to_fields(desk.book.accounts["A1"]), [])
    position = desk.place("buy").position
    to_set, to_delete = desk.book.changes(["A1"])["A1"]
    assert (sorted(to_set), to_delete) == ([f"position:{position}", "used_margin"], [])
    desk.close(position)
    to_set, to_delete = desk.book.changes(["A1"])["A1"]
    assert (sorted(to_set), to_delete) == (["balance", "used_margin"], [f"position:{position}"])
    assert desk.book.changes(["A1"]) == {}


def test_a_position_opened_and_closed_between_two_commits_is_never_written(desk: Desk) -> None:
    desk.book.changes(["A1"])
    desk.close(desk.place("buy").position)
    assert desk.book.changes(["A1"]) == {"A1": ({"balance": "999880"}, [])}


def test_a_loaded_book_goes_on_where_the_other_stopped(desk: Desk) -> None:
    desk.place("buy")
    stored = [from_fields(to_fields(account)) for account in desk.book.accounts.values()]
    book = Book(17, stored, desk.book.event_sequence)
    book.on_frame(frame(QUOTES), NOW_MS)
    order = Place(account="A1", id="next", symbol="EURUSD", side="buy", volume=1_000)
    live, loaded = desk.book.decide(order, NOW_MS), book.decide(order, NOW_MS)
    assert live == loaded
    assert loaded.first_sequence == 4
    assert loaded.answer is not None and loaded.answer.position == "17-4"


def test_events_alone_rebuild_the_accounts(desk: Desk) -> None:
    position = desk.place("buy", 10_000).position
    desk.place("sell", symbol="USDJPY")
    desk.close(position, 4_000)
    desk.place("buy", 1)
    desk.open("A2", deposit=7)
    assert rebuild(desk.events) == desk.book.accounts


def test_the_book_describes_itself_in_a_line(desk: Desk) -> None:
    desk.place("buy")
    assert repr(desk.book) == "<Book {p17}: 1 accounts, 1 positions, event 3, 6 quotes>"
