"""The last quote of each symbol, and whether one may trade at it."""

from typing import Final

from tradewind.engine.checks import Refusal
from tradewind.engine.instruments import INSTRUMENTS, Quote
from tradewind.engine.messages import BUY, RejectReason, Side

STALE_QUOTE_MS_MAX: Final = 10_000
QUOTE_AHEAD_MS_MAX: Final = 5_000
"""A quote further ahead is ignored: it would not grow stale, and hide all quotes until its time."""


class QuoteBoard:
    """`last` holds one quote for each symbol, as many as instruments; `ignored` counts those not taken."""

    def __init__(self, stale_quote_ms_max: int = STALE_QUOTE_MS_MAX) -> None:
        self.last: dict[str, Quote] = {}
        self.ignored = 0
        self._stale_quote_ms_max = stale_quote_ms_max
        self._traded: dict[tuple[str, Side], int] = {}  # units at the last quote, where it has sizes

    def take(self, quote: Quote, now_ms: int) -> bool:
        """Takes a quote of a known symbol that is well formed, not overtaken and not far ahead."""
        last = self.last.get(quote.symbol)
        good = (
            quote.symbol in INSTRUMENTS
            and 0 < quote.bid <= quote.ask
            and quote.time_ms <= now_ms + QUOTE_AHEAD_MS_MAX
            and (last is None or last.time_ms <= quote.time_ms)
            and (quote.bid_size or 0) >= 0 <= (quote.ask_size or 0)
        )
        if good:
            self.last[quote.symbol] = quote
            if self._traded and quote != last:
                self._traded.pop((quote.symbol, "buy"), None)
                self._traded.pop((quote.symbol, "sell"), None)
        else:
            self.ignored += 1
        return good

    def fresh(self, symbol: str, now_ms: int) -> Quote:
        """The quote to trade at. Raises Refusal if there is none, or if it is too old."""
        quote = self.last.get(symbol)
        if quote is None:
            raise Refusal(RejectReason.NO_QUOTE, symbol)
        age_ms = now_ms - quote.time_ms
        if age_ms > self._stale_quote_ms_max:
            limit = f"the limit is {self._stale_quote_ms_max} ms"
            raise Refusal(RejectReason.STALE_QUOTE, f"{symbol}: {age_ms} ms old, {limit}")
        return quote

    def is_fresh(self, symbol: str, now_ms: int) -> bool:
        quote = self.last.get(symbol)
        return quote is not None and now_ms - quote.time_ms <= self._stale_quote_ms_max

    def available(self, symbol: str, side: Side) -> int | None:
        """Units that can still be bought or sold at the last quote. None: as many as are asked for."""
        quote = self.last[symbol]
        size = quote.ask_size if side == BUY else quote.bid_size
        return None if size is None else max(0, size - self._traded.get((symbol, side), 0))

    def note_traded(self, symbol: str, side: Side, volume: int) -> None:
        """An order took `volume` units of what the quote offers."""
        quote = self.last[symbol]
        if quote.bid_size is not None or quote.ask_size is not None:
            self._traded[symbol, side] = self._traded.get((symbol, side), 0) + volume
