"""A flash crash laid over any source: one symbol falls within a second, stays down, and recovers slowly."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tradewind.engine.instruments import Quote
from tradewind.feed.errors import FeedError
from tradewind.feed.source import QuoteSource
from tradewind.feed.ticks import known_symbol

PARTS = 1_000_000
"""The depth of a fall is a whole number of millionths of the price."""

FALL_PARTS = 30_000
FALL_MS = 1_000
HOLD_MS = 10_000
RECOVERY_MS = 30_000


@dataclass(frozen=True, slots=True)
class CrashShape:
    """When and how deep. `fall_parts` are millionths of the price; with recovery_ms None it stays down."""

    at_ms: int
    fall_parts: int = FALL_PARTS
    fall_ms: int = FALL_MS
    hold_ms: int = HOLD_MS
    recovery_ms: int | None = RECOVERY_MS

    def __post_init__(self) -> None:
        if min(self.at_ms, self.fall_ms, self.hold_ms, self.recovery_ms or 0) < 0:
            raise FeedError(f"a crash cannot have a negative time: {self}")
        if not 0 < self.fall_parts < PARTS:
            raise FeedError(
                f"a crash falls by 1 to {PARTS - 1} millionths of the price, not {self.fall_parts}"
            )

    def depth_parts(self, elapsed_ms: int) -> int:
        """How far below its undisturbed price the symbol is, in millionths: a ramp, a plateau, a ramp."""
        since_ms = elapsed_ms - self.at_ms
        if since_ms < 0:
            return 0
        if since_ms < self.fall_ms:
            return self.fall_parts * since_ms // self.fall_ms
        since_bottom_ms = since_ms - self.fall_ms - self.hold_ms
        if self.recovery_ms is None or since_bottom_ms <= 0:
            return self.fall_parts
        return self.fall_parts * max(self.recovery_ms - since_bottom_ms, 0) // max(self.recovery_ms, 1)


class FlashCrash:
    """A QuoteSource that passes another one through, with one symbol crashed.

    The time of the crash is real time since the start, whatever the speed of a replay below. While the
    price is on its way the symbol is quoted at every take, even if the source below is silent or at its
    end. The spread stays.
    """

    def __init__(self, source: QuoteSource, symbol: str, shape: CrashShape) -> None:
        """Raises FeedError where `source` does not quote `symbol`."""
        self.symbol = known_symbol(symbol)
        self.shape = shape
        self._source = source
        self._undisturbed: Quote | None = None
        self._quoted: Quote | None = None
        if self.symbol not in source.symbols:
            raise FeedError(f"cannot crash {self.symbol}: the feed quotes only {', '.join(source.symbols)}")

    @property
    def symbols(self) -> tuple[str, ...]:
        return self._source.symbols

    def take(self, elapsed_ms: int, limit: int) -> list[Quote]:
        """See QuoteSource. The falling symbol comes first, so that a busy source cannot crowd it out."""
        depth = self.shape.depth_parts(elapsed_ms)
        taken = self._moved(depth)
        taken += [
            self._disturbed(quote, depth) for quote in self._source.take(elapsed_ms, limit - len(taken))
        ]
        return taken

    def close(self) -> None:
        self._source.close()

    def _disturbed(self, quote: Quote, depth_parts: int) -> Quote:
        if quote.symbol != self.symbol:
            return quote
        self._undisturbed = quote
        self._quoted = lowered(quote, depth_parts)
        return self._quoted

    def _moved(self, depth_parts: int) -> list[Quote]:
        """The symbol's quote at this depth, if it differs from what was last given."""
        if self._undisturbed is None:
            return []
        quote = lowered(self._undisturbed, depth_parts)
        if quote == self._quoted:
            return []
        self._quoted = quote
        return [quote]


def lowered(quote: Quote, depth_parts: int) -> Quote:
    """`quote` lowered by `depth_parts` millionths of its bid, rounded down to a point; same spread."""
    fall = quote.bid * depth_parts // PARTS
    return quote if fall == 0 else msgspec.structs.replace(quote, bid=quote.bid - fall, ask=quote.ask - fall)
