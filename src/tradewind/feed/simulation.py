"""A simulated market: a seeded random walk for each instrument, in integers only.

Each symbol has a generator of its own, seeded by the seed and its name. So the quotes of a symbol depend on
the seed alone: not on the other symbols, nor on how often or in which portions they are taken.

The shape follows the files we test with: spreads of a few points that now and then widen, gaps between
ticks of a fraction of a second with a long tail.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tradewind.engine.instruments import INSTRUMENTS, Quote
from tradewind.feed.errors import FeedError
from tradewind.feed.ticks import known_symbol

STEP_BITS = 8
"""A step is the number of ones in this many random bits, less half of them: mean 0, deviation 1.4 points."""

RANGE_DIVISOR = 20
"""A price more than a twentieth away from its start only steps back towards it: it never wanders off."""

WIDE_SPREAD_ONE_IN = 64
WIDE_SPREAD_FACTOR = 4
LONG_GAP_ONE_IN = 8
LONG_GAP_FACTOR = 5


@dataclass(frozen=True, slots=True)
class Market:
    """How one symbol is simulated, in points of its instrument: first price, spread, time between ticks."""

    start: int
    spread: int
    gap_ms: int


MARKETS = {
    "EURUSD": Market(start=112_120, spread=2, gap_ms=150),
    "GBPUSD": Market(start=131_250, spread=4, gap_ms=200),
    "AUDUSD": Market(start=70_180, spread=4, gap_ms=250),
    "USDJPY": Market(start=108_655, spread=4, gap_ms=200),
    "USDCHF": Market(start=96_680, spread=5, gap_ms=250),
    "USDCAD": Market(start=129_850, spread=5, gap_ms=250),
}
"""Levels of January 2020. Every instrument must have an entry: a test checks it."""


class Simulation:
    """A QuoteSource that never ends. Deterministic: same seed, symbols and start time, same quotes."""

    def __init__(self, seed: int, symbols: Sequence[str] | None = None, start_time_ms: int = 0) -> None:
        """All instruments unless `symbols` names some. Quotes carry start_time_ms plus their elapsed time.

        Raises FeedError for an unknown symbol, or none.
        """
        chosen = dict.fromkeys(
            known_symbol(symbol) for symbol in (INSTRUMENTS if symbols is None else symbols)
        )
        if not chosen:
            raise FeedError("a simulation needs at least one symbol")
        self.seed = seed
        self.start_time_ms = start_time_ms
        self._walks = {symbol: _Walk(seed, symbol, MARKETS[symbol]) for symbol in chosen}
        self._due = [(0, symbol) for symbol in chosen]
        heapq.heapify(self._due)

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(self._walks)

    def take(self, elapsed_ms: int, limit: int) -> list[Quote]:
        """See QuoteSource. Every symbol has its first quote at 0 ms."""
        taken: list[Quote] = []
        while len(taken) < limit and self._due[0][0] <= elapsed_ms:
            at_ms, symbol = self._due[0]
            walk = self._walks[symbol]
            taken.append(Quote(symbol, *walk.step(), self.start_time_ms + at_ms))
            heapq.heapreplace(self._due, (at_ms + walk.gap_ms(), symbol))
        return taken

    def close(self) -> None:
        """Nothing to release."""


class _Walk:
    """One symbol's price. All state is whole points and milliseconds."""

    def __init__(self, seed: int, symbol: str, market: Market) -> None:
        self._random = random.Random(f"{seed}:{symbol}")
        self._market = market
        self._mid = market.start

    def step(self) -> tuple[int, int]:
        """Move once and return (bid, ask)."""
        market = self._market
        step = self._random.getrandbits(STEP_BITS).bit_count() - STEP_BITS // 2
        away = self._mid - market.start
        if abs(away) * RANGE_DIVISOR > market.start and away * step > 0:
            step = -step
        self._mid += step
        spread = self._spread()
        bid = self._mid - spread // 2
        return bid, bid + spread

    def gap_ms(self) -> int:
        """Milliseconds to the next tick, at least 1."""
        gap_ms = 1 + self._random.randrange(2 * self._market.gap_ms - 1)
        return gap_ms * LONG_GAP_FACTOR if self._random.randrange(LONG_GAP_ONE_IN) == 0 else gap_ms

    def _spread(self) -> int:
        spread = self._market.spread + self._random.getrandbits(2).bit_count()
        return spread * WIDE_SPREAD_FACTOR if self._random.randrange(WIDE_SPREAD_ONE_IN) == 0 else spread
