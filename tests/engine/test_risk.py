import pytest

from tests.engine.books import NOW_MS, QUOTES, Desk, frame
from tradewind.engine.account import from_fields, to_fields
from tradewind.engine.book import Book, rebuild
from tradewind.engine.instruments import QuoteFrame
from tradewind.engine.messages import CloseAll, Event, MarginCall, MarginRestored, PositionClosed

# 100,000 units of EURUSD at the ask of 1.12112 hold 112,112 cents at 1:100; a step is worth 100 cents.
MARGIN = 112_112


def at(bid: int) -> dict[str, tuple[int, int]]:
    return {"EURUSD": (bid, bid + 12)}


def bid_for(equity: int, balance: int) -> int:
    """The bid at which one buy of 100,000 units at 112,112 leaves no less than this equity."""
    return 112_112 - (balance - equity) // 100


def kinds(events: list[Event]) -> list[str]:
    return [str(type(event).__struct_config__.tag) for event in events]


def stopped_out(events: list[Event]) -> list[str]:
    closed = [event for event in events if isinstance(event, PositionClosed)]
    assert all(event.reason == "stop_out" for event in closed)
    return [event.position for event in closed]


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.open(deposit=200_000)
    desk.place("buy", 100_000)
    return desk


def test_an_account_is_called_below_its_margin_and_not_at_it(desk: Desk) -> None:
    assert desk.quote(at(bid_for(MARGIN, 200_000))) == []
    events = desk.quote(at(bid_for(MARGIN, 200_000) - 1))
    assert kinds(events) == ["margin_call"]
    call = events[0]
    assert isinstance(call, MarginCall)
    assert MARGIN - 100 <= call.equity < MARGIN == call.used_margin
    assert call.cause == f"quote:EURUSD:{NOW_MS}"


def test_it_is_called_once_until_it_has_recovered(desk: Desk) -> None:
    below, just_above = bid_for(MARGIN, 200_000) - 1, bid_for(MARGIN * 109 // 100, 200_000)
    assert kinds(desk.quote(at(below))) == ["margin_call"]
    for bid in (below - 5, just_above, below, just_above):
        assert desk.quote(at(bid)) == []
    assert kinds(desk.quote(at(bid_for(MARGIN * 110 // 100, 200_000) + 1))) == ["margin_restored"]
    assert kinds(desk.quote(at(below))) == ["margin_call"]


def test_a_deposit_ends_the_call(desk: Desk) -> None:
    desk.quote(at(bid_for(MARGIN, 200_000) - 1))
    answer = desk.deposit(50_000)
    assert kinds(desk.events[-2:]) == ["deposited", "margin_restored"]
    assert answer.sequence == len(desk.events) - 1, "the answer names the event that decided it"
    assert not desk.book.accounts["A1"].margin_called


def test_a_close_ends_the_call(desk: Desk) -> None:
    desk.quote(at(bid_for(MARGIN, 200_000) - 1))
    desk.close(next(iter(desk.book.accounts["A1"].positions)), 50_000)
    assert kinds(desk.events[-2:]) == ["position_closed", "margin_restored"]


def test_positions_are_stopped_out_below_half_the_margin_and_not_at_it(desk: Desk) -> None:
    assert kinds(desk.quote(at(bid_for(MARGIN // 2, 200_000) + 1))) == ["margin_call"]
    events = desk.quote(at(bid_for(MARGIN // 2, 200_000) - 1))
    assert kinds(events) == ["position_closed", "margin_restored"]
    closed = events[0]
    assert isinstance(closed, PositionClosed)
    assert (closed.reason, closed.price) == ("stop_out", bid_for(MARGIN // 2, 200_000) - 1)
    assert desk.book.accounts["A1"].used_margin == 0


def test_largest_loss_goes_first_and_the_level_is_looked_at_after_each_close() -> None:
    desk = Desk()
    desk.open(deposit=300_000)
    small = desk.place("buy", 20_000).position
    large = desk.place("buy", 100_000).position
    middle = desk.place("buy", 50_000).position
    winner = desk.place("sell", 10_000).position
    # Margin 201,801. 1,312 steps down: losses of 26,240, 131,200 and 65,600, a gain of 12,880: 44 %.
    # Without the largest the same equity is 100 % of what is left.
    events = desk.quote(at(110_800))
    assert kinds(events) == ["margin_call", "position_closed"]
    assert stopped_out(events) == [large]
    # 2,612 steps down: 13 %, without the next 35 %, and with only the winner left 105 %.
    events = desk.quote(at(109_500))
    assert stopped_out(events) == [middle, small]
    assert list(desk.book.accounts["A1"].positions) == [winner]


def test_the_oldest_goes_first_among_equal_losses() -> None:
    desk = Desk()
    desk.open(deposit=60_000)
    positions = [desk.place("buy", 10_000).position for _ in range(5)]
    # Each holds 11,212 cents of margin and loses 7,000 over 700 steps: 25,000 of 56,060 are 44 %.
    assert stopped_out(desk.quote(at(111_412))) == positions[:1]


def test_a_gap_can_leave_a_negative_balance_that_a_deposit_settles(desk: Desk) -> None:
    events = desk.quote(at(109_000))
    assert kinds(events) == ["margin_call", "position_closed"]
    account = desk.book.accounts["A1"]
    assert account.balance == 200_000 - 311_200
    assert account.margin_called, "it owes money: the call stands"
    desk.deposit(111_200)
    assert kinds(desk.events[-2:]) == ["deposited", "margin_restored"]
    assert account.balance == 0


def test_positions_without_a_fresh_quote_wait_for_one() -> None:
    desk = Desk()
    desk.open(deposit=400_000)
    euro = desk.place("buy", 200_000).position
    yen = desk.place("buy", 100_000, "USDJPY").position
    desk.now_ms += 10_001
    events = desk.quote({"USDJPY": (105_000, 105_012)})
    assert kinds(events) == ["margin_call", "position_closed"]
    assert stopped_out(events) == [yen]
    events = desk.quote({"USDJPY": (105_000, 105_012)})
    assert events == [], "it holds no yen any more"
    events = desk.quote(at(111_000))
    assert stopped_out(events) == [euro]


def test_only_accounts_exposed_to_what_moved_are_looked_at(desk: Desk) -> None:
    desk.open("A2", deposit=200_000)
    desk.place("buy", 100_000, "USDJPY", account="A2")
    assert desk.quote({"GBPUSD": (1, 2)}) == []
    assert {event.account for event in desk.quote(at(110_000))} == {"A1"}


def test_accounts_are_decided_in_the_order_of_their_ids() -> None:
    desk = Desk()
    for account in ("A3", "A1", "A2"):
        desk.open(account, deposit=200_000)
        desk.place("buy", 100_000, account=account)
    decisions = desk.book.on_frame(frame(at(109_000)), NOW_MS)
    assert [decision.touched for decision in decisions] == [("A1",), ("A2",), ("A3",)]
    assert all(decision.answer is None for decision in decisions)
    numbers = [decision.first_sequence for decision in decisions]
    assert numbers == [numbers[0], numbers[0] + 2, numbers[0] + 4]


def test_an_account_that_cannot_be_valued_is_left_alone_until_it_can(desk: Desk) -> None:
    desk.deposit(200_000)
    desk.place("buy", 100_000, "USDJPY")
    stored = [from_fields(to_fields(account)) for account in desk.book.accounts.values()]
    book = Book(17, stored, desk.book.event_sequence)
    assert book.on_frame(frame(at(109_000)), NOW_MS) == []
    assert len(book.on_frame(frame({"USDJPY": QUOTES["USDJPY"]}), NOW_MS)) == 1


def test_calls_and_stop_outs_are_rebuilt_from_events(desk: Desk) -> None:
    desk.quote(at(bid_for(MARGIN, 200_000) - 1))
    assert rebuild(desk.events) == desk.book.accounts
    desk.quote(at(109_000))
    desk.deposit(500_000)
    assert rebuild(desk.events) == desk.book.accounts
    assert any(isinstance(event, MarginRestored) for event in desk.events)


def test_reviews_that_are_left_over_come_with_the_next_look_unless_a_command_was_quicker() -> None:
    desk = Desk()
    for account in ("A1", "A2", "A3"):
        desk.open(account, deposit=200_000)
        desk.place("buy", 100_000, account=account)
    first = list(desk.book.look(frame(at(109_000)), NOW_MS, 1))
    assert [decision.touched for decision in first] == [("A1",)]
    assert desk.book.has_reviews_due
    desk.book.decide(CloseAll(account="A2", id="quicker"), NOW_MS)
    second = list(desk.book.look(QuoteFrame(2, []), NOW_MS, 1))
    assert [decision.touched for decision in second] == [("A3",)]
    assert stopped_out(second[0].events[1:2])
    assert not desk.book.has_reviews_due
    assert desk.book.on_frame(QuoteFrame(3, []), NOW_MS) == []
