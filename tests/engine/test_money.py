from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradewind.engine.instruments import INSTRUMENTS, Instrument, Quote
from tradewind.engine.messages import Side
from tradewind.engine.money import (
    PRICE_WITHOUT_LIMIT,
    closing_price,
    margin_cents,
    opening_price,
    profit_cents,
    worst_price,
)

EURUSD = INSTRUMENTS["EURUSD"]
USDJPY = INSTRUMENTS["USDJPY"]

instruments = st.sampled_from(list(INSTRUMENTS.values()))
sides: st.SearchStrategy[Side] = st.sampled_from(["buy", "sell"])
volumes = st.integers(1, 10_000_000)
prices = st.integers(1, 500_000)


def exact_profit(instrument: Instrument, side: Side, volume: int, open_price: int, price: int) -> Fraction:
    """The same in fractions of a cent, by way of the amount in the quote currency."""
    direction = 1 if side == "buy" else -1
    in_quote_currency = Fraction(direction * volume * (price - open_price), instrument.price_scale)
    dollars_per_unit = (
        Fraction(1) if instrument.quote == "USD" else 1 / Fraction(price, instrument.price_scale)
    )
    return in_quote_currency * dollars_per_unit * 100


def test_profit_where_the_dollar_is_the_quote() -> None:
    assert profit_cents(EURUSD, "buy", 100_000, 100_000 * 112_120, 112_220) == 10_000
    assert profit_cents(EURUSD, "sell", 100_000, 100_000 * 112_120, 112_220) == -10_000


def test_profit_where_the_dollar_is_the_base_converts_at_the_closing_price() -> None:
    # 100,000 dollars, 1 yen up: 100,000 yen at 109.650 are 911.99 dollars.
    assert profit_cents(USDJPY, "buy", 100_000, 100_000 * 108_650, 109_650) == 91_199
    assert profit_cents(USDJPY, "sell", 100_000, 100_000 * 108_650, 109_650) == -91_200


def test_profit_rounds_down_on_both_sides_of_zero() -> None:
    assert profit_cents(EURUSD, "buy", 1, 112_120, 112_121) == 0
    assert profit_cents(EURUSD, "sell", 1, 112_120, 112_121) == -1


def test_margin_is_the_dollar_value_over_the_leverage_rounded_up() -> None:
    assert margin_cents(EURUSD, 100_000, 112_120, 100) == 112_120
    assert margin_cents(EURUSD, 1_000, 112_121, 100) == 1_122
    assert margin_cents(USDJPY, 100_000, 108_650, 100) == 100_000
    assert margin_cents(USDJPY, 1_000, 108_650, 300) == 334


def test_buys_open_at_the_ask_and_close_at_the_bid() -> None:
    quote = Quote("EURUSD", 112_100, 112_112, 0)
    assert (opening_price(quote, "buy"), closing_price(quote, "buy")) == (112_112, 112_100)
    assert (opening_price(quote, "sell"), closing_price(quote, "sell")) == (112_100, 112_112)


@given(instruments, sides, volumes, prices, prices)
def test_profit_is_the_exact_amount_rounded_down(
    instrument: Instrument, side: Side, volume: int, open_price: int, price: int
) -> None:
    exact = exact_profit(instrument, side, volume, open_price, price)
    assert 0 <= exact - profit_cents(instrument, side, volume, volume * open_price, price) < 1


@given(instruments, volumes, prices, st.integers(1, 500))
def test_margin_is_the_exact_amount_rounded_up(
    instrument: Instrument, volume: int, price: int, leverage: int
) -> None:
    value = Fraction(volume * 100)
    if instrument.quote == "USD":
        value *= Fraction(price, instrument.price_scale)
    assert 0 <= margin_cents(instrument, volume, price, leverage) - value / leverage < 1


@given(instruments, sides, st.lists(volumes, min_size=1, max_size=8), prices, prices)
def test_closing_in_parts_costs_less_than_a_cent_a_part_and_never_gains(
    instrument: Instrument, side: Side, parts: list[int], open_price: int, price: int
) -> None:
    whole = profit_cents(instrument, side, sum(parts), sum(parts) * open_price, price)
    in_parts = sum(profit_cents(instrument, side, part, part * open_price, price) for part in parts)
    assert 0 <= whole - in_parts < len(parts)


@given(instruments, volumes, prices, st.integers(0, 100))
def test_a_round_trip_at_standing_quotes_costs_the_spread_and_at_most_a_cent(
    instrument: Instrument, volume: int, bid: int, spread: int
) -> None:
    quote = Quote(instrument.symbol, bid, bid + spread, 0)
    sides_of_a_quote: tuple[Side, Side] = ("buy", "sell")
    for side in sides_of_a_quote:
        opened, closed = opening_price(quote, side), closing_price(quote, side)
        profit = profit_cents(instrument, side, volume, volume * opened, closed)
        exact = exact_profit(instrument, side, volume, opened, closed)
        assert exact - 1 < profit <= exact <= 0


@given(instruments, sides, prices, prices, volumes, volumes)
def test_a_hedge_never_gains_from_rounding(
    instrument: Instrument, side: Side, open_price: int, price: int, volume: int, other: int
) -> None:
    both = profit_cents(instrument, side, volume, volume * open_price, price) + profit_cents(
        instrument, "sell" if side == "buy" else "buy", volume, volume * open_price, price
    )
    assert -1 <= both <= 0


@given(instruments, sides, volumes, prices, prices, st.integers(0, 10**9))
def test_the_worst_price_is_exact(
    instrument: Instrument, side: Side, volume: int, open_price: int, price: int, may_lose: int
) -> None:
    cost = volume * open_price
    profit_min = profit_cents(instrument, side, volume, cost, price) - may_lose
    worst = worst_price(instrument, side, volume, cost, profit_min)
    if worst == PRICE_WITHOUT_LIMIT:
        assert profit_cents(instrument, side, volume, cost, 10**15) >= profit_min
        return
    if worst > 0:
        assert profit_cents(instrument, side, volume, cost, worst) >= profit_min
    beyond = worst - 1 if side == "buy" else worst + 1
    if beyond > 0:
        assert profit_cents(instrument, side, volume, cost, beyond) < profit_min


@pytest.mark.parametrize("symbol", INSTRUMENTS)
def test_a_volume_of_one_step_has_margin(symbol: str) -> None:
    instrument = INSTRUMENTS[symbol]
    assert margin_cents(instrument, instrument.volume_min, 1, 500) >= 1
