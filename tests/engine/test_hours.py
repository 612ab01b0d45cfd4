"""Hours of the week: how they are written, and what may be done outside them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.books import Desk
from tradewind.engine.hours import (
    DAYS,
    MINUTES_PER_DAY,
    MINUTES_PER_WEEK,
    SPANS_MAX,
    HoursRuling,
    parse_hours,
)
from tradewind.engine.house import House
from tradewind.engine.messages import (
    Amend,
    Cancel,
    CancelAll,
    CloseBy,
    OrderFilled,
    OrderTriggered,
    PositionClosed,
    Protect,
    encode,
)

MONDAY_MS = int(datetime(2023, 11, 13, tzinfo=UTC).timestamp() * 1_000)
minutes = st.integers(0, MINUTES_PER_WEEK - 1)


def written(minute: int) -> str:
    day, of_day = divmod(minute, MINUTES_PER_DAY)
    return f"{DAYS[day]} {of_day // 60:02d}:{of_day % 60:02d}"


@given(minutes, minutes, minutes, st.integers(0, 59_999), st.integers(-3_000, 3_000))
def test_a_span_is_open_from_its_first_minute_up_to_its_last(
    opens: int, closes: int, minute: int, rest_ms: int, weeks: int
) -> None:
    """Also past the end of the week, and in every week: counted around the clock from the opening."""
    if opens == closes:
        return
    hours = parse_hours(f"{written(opens)}-{written(closes)}")
    assert hours is not None
    now_ms = MONDAY_MS + (weeks * MINUTES_PER_WEEK + minute) * 60_000 + rest_ms
    assert hours.is_open(now_ms) == (
        (minute - opens) % MINUTES_PER_WEEK < (closes - opens) % MINUTES_PER_WEEK
    )


@given(
    st.lists(st.tuples(minutes, minutes).filter(lambda span: span[0] != span[1]), min_size=1, max_size=4),
    minutes,
)
def test_of_several_spans_one_is_enough_and_the_next_opening_is_told(
    spans: list[tuple[int, int]], minute: int
) -> None:
    texts = [f"{written(opens)}-{written(closes)}" for opens, closes in spans]
    each = [parse_hours(text) for text in texts]
    hours = parse_hours(", ".join(texts))
    now_ms = MONDAY_MS + minute * 60_000
    assert hours is not None
    assert hours.is_open(now_ms) == any(one is not None and one.is_open(now_ms) for one in each)
    if not hours.is_open(now_ms):
        opening = min((opens - minute) % MINUTES_PER_WEEK for opens, _ in spans)
        assert hours.words(now_ms).endswith(f"it opens {written((minute + opening) % MINUTES_PER_WEEK)}")


def test_hours_as_people_write_them() -> None:
    assert parse_hours("always") is None
    hours = parse_hours("mon 08:00-17:30,sun 22:00-24:00")
    assert hours is not None
    assert hours.text == "mon 08:00-17:30, sun 22:00-24:00"
    assert hours.spans == ((480, 1_050), (6 * 1_440 + 1_320, MINUTES_PER_WEEK))


@pytest.mark.parametrize(
    "text",
    [
        "", "never", "mon", "mon 8:00-17:00", "mon 08:00-08:00", "mon 17:00-08:00", "mon 08:00-24:01",
        "mon 08:60-09:00", "mon 25:00-26:00", "sun 24:00-mon 01:00", "mon 08:00-17:00,", "Mon 08:00-17:00",
        ",".join(["mon 08:00-17:00"] * (SPANS_MAX + 1)),
    ],
)  # fmt: skip
def test_what_is_no_hours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|ends before|no time|more than"):
        parse_hours(text)


@pytest.mark.parametrize("stored", ["{", '{"hours":"soon"}', '{"hours":7}'])
def test_hours_that_cannot_be_read_close_the_symbol(stored: str) -> None:
    house = House()
    house.take({"hours:EURUSD": stored, "version": "1"})
    assert not house.is_open("EURUSD", MONDAY_MS)
    assert house.is_open("USDJPY", MONDAY_MS)


def set_hours(desk: Desk, **hours: str) -> None:
    fields = {f"hours:{symbol}": encode(HoursRuling(text)).decode() for symbol, text in hours.items()}
    desk.house.take({"version": str(desk.house.version + 1), **fields})


CLOSED, OPEN = "sat 08:00-17:00", "tue 22:00-23:00"  # the desk's time is tue 22:13


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.open(deposit=1_000_000)
    return desk


def test_within_the_hours_and_always_everything_passes(desk: Desk) -> None:
    for hours in (OPEN, "always"):
        set_hours(desk, EURUSD=hours)
        assert desk.close(desk.place("buy").position).status == "filled"


def test_outside_the_hours_nothing_is_traded_and_cancels_pass(desk: Desk) -> None:
    bought, sold = desk.place("buy").position, desk.place("sell").position
    resting = [desk.order("limit", "buy", 111_000).order for _ in range(2)]
    set_hours(desk, EURUSD=CLOSED)
    refused = [
        desk.place("buy"),
        desk.order("limit", "buy", 111_000),
        desk.order("market", "sell", reduce_only=True),
        desk.do(Amend, order=resting[0], price=111_100),
        desk.do(Protect, position=bought, stop_loss=111_000),
        desk.do(CloseBy, position=bought, by=sold),
        desk.close(bought),
        desk.close_all("EURUSD"),
    ]
    assert {answer.reason for answer in refused} == {"market_closed"}
    text = refused[0].text
    assert (
        text is not None
        and "EURUSD trades sat 08:00-17:00 UTC; it is tue 22:13, and it opens sat 08:00" in text
    )
    assert desk.do(Cancel, order=resting[0]).status == "done"
    assert desk.do(CancelAll).canceled == 1
    assert desk.deposit(1).status == "done"
    assert desk.place("buy", symbol="USDJPY").status == "filled"
    answer = desk.close_all()
    assert (answer.closed, answer.left) == (1, 2)


def test_a_halt_is_named_before_the_hours(desk: Desk) -> None:
    fields = {"hours:EURUSD": encode(HoursRuling(CLOSED)).decode(), "symbol:EURUSD": '{"state":"halted"}'}
    desk.house.take({"version": "1", **fields})
    assert desk.place("buy").reason == "symbol_halted"


def test_what_a_quote_meets_outside_the_hours_waits_for_the_first_one_within_them(desk: Desk) -> None:
    desk.order("stop", "buy", stop=112_500)
    protected = desk.order("market", "sell", stop_loss=112_400).position
    set_hours(desk, EURUSD=CLOSED)
    assert desk.bid(113_000) == []
    set_hours(desk, EURUSD=OPEN)
    assert len(desk.resting) == 1, "hours alone fill nothing"
    events = desk.bid(113_100)
    assert [type(event) for event in events] == [OrderTriggered, OrderFilled, PositionClosed]
    assert isinstance(events[-1], PositionClosed)
    assert (events[-1].position, events[-1].price) == (protected, 113_112)


def test_a_stop_out_waits_for_the_first_quote_within_the_hours_and_a_margin_call_does_not(desk: Desk) -> None:
    desk.open("A2", deposit=12_000)
    desk.place("buy", account="A2")
    set_hours(desk, EURUSD=CLOSED)
    called = desk.quote({"EURUSD": (111_100, 111_112)})
    assert [type(event).__name__ for event in called] == ["MarginCall"]
    assert desk.quote({"EURUSD": (111_090, 111_102)}) == []
    set_hours(desk, EURUSD=OPEN)
    closed = desk.quote({"EURUSD": (111_090, 111_102)})
    assert [type(event).__name__ for event in closed][:1] == ["PositionClosed"]
    assert desk.book.accounts["A2"].positions == {}


def test_a_stop_out_closes_meanwhile_what_is_in_symbols_that_are_open(desk: Desk) -> None:
    desk.open("A2", deposit=25_000)
    desk.place("buy", account="A2")
    desk.place("buy", symbol="AUDUSD", account="A2")
    set_hours(desk, EURUSD=CLOSED)
    desk.quote({"EURUSD": (110_000, 110_012), "AUDUSD": (68_000, 68_012)})
    assert [position.symbol for position in desk.book.accounts["A2"].positions.values()] == ["EURUSD"]
