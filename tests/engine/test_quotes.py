import pytest

from tradewind.engine.checks import Refusal
from tradewind.engine.instruments import Quote
from tradewind.engine.quotes import QuoteBoard

NOW_MS = 1_000_000


@pytest.mark.parametrize(
    "quote",
    [
        Quote("EURGBP", 85_000, 85_010, NOW_MS),
        Quote("EURUSD", 112_112, 112_100, NOW_MS),
        Quote("EURUSD", 0, 112_100, NOW_MS),
        Quote("EURUSD", -1, 112_100, NOW_MS),
        Quote("EURUSD", 112_100, 112_112, NOW_MS - 1),
        Quote("EURUSD", 112_100, 112_112, NOW_MS + 5_001),
    ],
    ids=["unknown symbol", "crossed", "zero", "negative", "overtaken", "far ahead of the clock"],
)
def test_quotes_that_cannot_be_traded_at_are_counted_and_ignored(quote: Quote) -> None:
    board = QuoteBoard()
    good = Quote("EURUSD", 112_000, 112_000, NOW_MS)
    assert board.take(good, NOW_MS)
    assert not board.take(quote, NOW_MS)
    assert (board.last, board.ignored) == ({"EURUSD": good}, 1)


def test_a_quote_of_the_same_millisecond_replaces_the_one_before() -> None:
    board = QuoteBoard()
    assert board.take(Quote("EURUSD", 1, 2, NOW_MS), NOW_MS)
    assert board.take(Quote("EURUSD", 3, 4, NOW_MS), NOW_MS)
    assert board.fresh("EURUSD", NOW_MS).bid == 3


def test_a_quote_is_fresh_up_to_the_limit_and_stale_beyond() -> None:
    board = QuoteBoard(stale_quote_ms_max=500)
    board.take(Quote("EURUSD", 1, 2, NOW_MS), NOW_MS)
    assert board.is_fresh("EURUSD", NOW_MS + 500)
    assert board.fresh("EURUSD", NOW_MS + 500).ask == 2
    assert not board.is_fresh("EURUSD", NOW_MS + 501)
    with pytest.raises(Refusal, match="EURUSD: 501 ms old, the limit is 500 ms") as caught:
        board.fresh("EURUSD", NOW_MS + 501)
    assert caught.value.reason == "stale_quote"


def test_without_a_quote_nothing_is_fresh() -> None:
    assert not QuoteBoard().is_fresh("EURUSD", NOW_MS)
    with pytest.raises(Refusal, match="EURUSD") as caught:
        QuoteBoard().fresh("EURUSD", NOW_MS)
    assert caught.value.reason == "no_quote"
