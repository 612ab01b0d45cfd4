"""The simulated market: the same for the same seed, plausible for every instrument, integers only."""

from __future__ import annotations

import pytest

from tradewind.engine.instruments import INSTRUMENTS, Quote
from tradewind.feed.errors import FeedError
from tradewind.feed.simulation import MARKETS, RANGE_DIVISOR, STEP_BITS, Simulation

HOUR_MS = 3_600_000
FIRST_QUOTES_OF_42 = [
    Quote("EURUSD", 112_122, 112_125, 1_000),
    Quote("EURUSD", 112_121, 112_125, 1_001),
    Quote("EURUSD", 112_120, 112_124, 1_187),
]


def test_every_instrument_has_a_market() -> None:
    assert set(MARKETS) == set(INSTRUMENTS)


def test_same_seed_gives_the_same_quotes_however_they_are_taken() -> None:
    at_once = Simulation(7).take(60_000, 1_000_000)
    simulation = Simulation(7)
    in_portions: list[Quote] = []
    for elapsed_ms in range(0, 60_001, 50):
        while portion := simulation.take(elapsed_ms, 3):
            in_portions += portion
    assert at_once == in_portions
    assert len(at_once) > 500


def test_another_seed_gives_other_quotes() -> None:
    assert Simulation(7).take(10_000, 1_000) != Simulation(8).take(10_000, 1_000)


def test_quotes_of_a_symbol_do_not_depend_on_the_other_symbols() -> None:
    alone = Simulation(7, ["USDJPY"]).take(60_000, 100_000)
    among = [quote for quote in Simulation(7).take(60_000, 100_000) if quote.symbol == "USDJPY"]
    assert alone == among


def test_these_quotes_are_the_same_on_every_machine_and_version() -> None:
    assert Simulation(42, ["EURUSD"], start_time_ms=1_000).take(1_000, 3) == FIRST_QUOTES_OF_42


def test_every_symbol_is_quoted_at_once_and_in_order_of_time() -> None:
    quotes = Simulation(1, start_time_ms=5_000).take(HOUR_MS // 60, 100_000)
    assert [quote.time_ms for quote in quotes] == sorted(quote.time_ms for quote in quotes)
    assert {quote.symbol for quote in quotes if quote.time_ms == 5_000} == set(INSTRUMENTS)


@pytest.mark.parametrize("symbol", INSTRUMENTS)
def test_an_hour_looks_like_a_market(symbol: str) -> None:
    market = MARKETS[symbol]
    quotes = Simulation(3, [symbol]).take(HOUR_MS, 1_000_000)
    assert all(type(quote.bid) is int and type(quote.ask) is int for quote in quotes)
    assert all(0 < quote.bid < quote.ask for quote in quotes)
    assert all(abs(quote.bid - market.start) < market.start // RANGE_DIVISOR + 100 for quote in quotes)
    spreads = sorted(quote.ask - quote.bid for quote in quotes)
    assert market.spread <= spreads[len(spreads) // 2] <= market.spread + 2
    assert 0.5 < len(quotes) * market.gap_ms * 1.5 / HOUR_MS < 1.5


def test_price_far_from_its_start_only_steps_back() -> None:
    simulation = Simulation(5, ["EURUSD"])
    walk = simulation._walks["EURUSD"]
    walk._mid = far = MARKETS["EURUSD"].start * (RANGE_DIVISOR + 1) // RANGE_DIVISOR + STEP_BITS
    for _ in range(50):
        walk.step()
    assert walk._mid < far


@pytest.mark.parametrize("symbols", [["EURGBP"], []])
def test_symbols_must_be_known_and_some(symbols: list[str]) -> None:
    with pytest.raises(FeedError):
        Simulation(1, symbols)
