"""Tick files: one currency pair a file, in one of three forms, every line checked.

`validate_ticks` reads a whole file and says what is in it; `read_ticks` yields its quotes. Both stream. The
rules are the same for both, so a file that was validated can be replayed without a surprise:

- the prices are positive and plain decimals; a bid never exceeds its ask (equal is fine: it is seen in real
  data);
- times never go back (many ticks in one millisecond are fine);
- a price neither doubles nor halves from one tick to the next: that is a slipped decimal point, not a
  market, and would stop out every account.

The real files we test with (HistData EURUSD January 2020, TrueFX USDJPY January 2013) have no crossed quote
and no step back in time, so both are errors.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import PurePath

from tradewind.engine.instruments import INSTRUMENTS, Instrument, Quote
from tradewind.feed.errors import FeedError, TickFileError, shortened
from tradewind.feed.forms import FIELDS_OF, TickFields, TickForm, price_points, recognise
from tradewind.feed.lines import read_lines

PRICE_STEP_FACTOR_MAX = 2
"""A price at least this many times the one before (or the other way round) is an error."""


@dataclass(frozen=True, slots=True)
class TickFileSummary:
    """What a validated file holds. `lines` counts ticks (a header is none); times are UTC milliseconds."""

    path: str
    symbol: str
    form: TickForm
    lines: int
    first_time_ms: int
    last_time_ms: int


def read_ticks(path: str | PathLike[str], symbol: str | None = None) -> Generator[Quote, None, None]:
    """Yield the quotes of a tick file in file order, with their original UTC times.

    The symbol comes from the lines (TrueFX), from `symbol`, or from the file name, in this order; a
    `symbol` that contradicts the lines is an error. Raises TickFileError at the first line that is wrong,
    never skips one.
    """
    for _, quote in _read(path, symbol):
        yield quote


def validate_ticks(path: str | PathLike[str], symbol: str | None = None) -> TickFileSummary:
    """Read the whole file and return what it holds; raises TickFileError for the first thing wrong with it.

    Takes about 5 seconds per million lines: call it in a thread where an event loop runs.
    """
    form, first, last, lines = None, None, None, 0
    for form, quote in _read(path, symbol):  # noqa: B007 - the last ones are the result
        first = first or quote
        last = quote
        lines += 1
    assert form is not None and first is not None and last is not None  # _read yields or raises
    return TickFileSummary(fspath(path), first.symbol, form, lines, first.time_ms, last.time_ms)


def known_symbol(text: str) -> str:
    """The instrument's symbol for `EURUSD`, `eurusd` or `EUR/USD`; FeedError for one we do not trade."""
    symbol = text.replace("/", "").upper()
    if symbol not in INSTRUMENTS:
        raise FeedError(f"unknown symbol {shortened(text)!r}: known are {', '.join(INSTRUMENTS)}")
    return symbol


def symbols_in_name(path: str | PathLike[str]) -> list[str]:
    """The known symbols that the file's own name holds: EURUSD for `data/eurusd-ticks-2020-01.csv.gz`."""
    name = PurePath(path).name.upper()
    return [symbol for symbol in INSTRUMENTS if symbol in name]


def file_symbol(path: str | PathLike[str], symbol: str | None) -> str:
    """The symbol of a file whose lines do not tell it: `symbol` if given, or else the one in its name.

    Raises FeedError if nothing tells it, if the name holds several, or if the name contradicts `symbol`: with
    several files and one symbol for all, that is how USDJPY prices would be taken for EURUSD ones.
    """
    named = symbols_in_name(path)
    if symbol is None:
        if len(named) == 1:
            return named[0]
        told = f"the name holds {' and '.join(named)}" if named else "neither lines nor name tell the symbol"
        raise FeedError(f"{told}: give it with --symbol (known are {', '.join(INSTRUMENTS)})")
    given = known_symbol(symbol)
    if named and given not in named:
        raise FeedError(f"the file name says {named[0]}, but the symbol given is {given}: rename one")
    return given


def _read(path: str | PathLike[str], symbol: str | None) -> Iterator[tuple[TickForm, Quote]]:
    with closing(read_lines(path)) as lines:
        first = next(lines, None)
        if first is None:
            raise TickFileError(path, None, "the file is empty")
        reader = _Reader(path, symbol, first[1])
        if reader.form is not TickForm.HEADER:
            yield reader.form, reader.quote(*first)
        for number, line in lines:
            yield reader.form, reader.quote(number, line)
    if reader.previous is None:
        raise TickFileError(path, None, "has a header and no ticks")


class _Reader:
    """Turns lines into quotes and holds what one line must agree with: the symbol and the quote before."""

    def __init__(self, path: str | PathLike[str], symbol: str | None, first_line: str) -> None:
        self.path = path
        self.form = self._recognised(first_line)
        self.instrument = self._instrument(symbol)
        self.previous: Quote | None = None
        self._fields_of = FIELDS_OF[self.form]

    def quote(self, number: int, line: str) -> Quote:
        """The quote of one line, checked by itself and against the line before."""
        try:
            quote = self._decoded(self._fields_of(line))
            _check_prices(quote)
            if self.previous is not None:
                _check_step(self.previous, quote)
        except ValueError as error:
            raise TickFileError(self.path, number, str(error), line) from None
        self.previous = quote
        return quote

    def _decoded(self, fields: TickFields) -> Quote:
        if fields.symbol is not None:
            self._agree(known_symbol(fields.symbol))
        instrument = self.instrument
        assert instrument is not None  # a form without a symbol in its lines got one before the first line
        digits = instrument.price_digits
        bid, ask = price_points(fields.bid, digits), price_points(fields.ask, digits)
        return Quote(instrument.symbol, bid, ask, fields.time_ms)

    def _agree(self, symbol: str) -> None:
        if self.instrument is None:
            self.instrument = INSTRUMENTS[symbol]
        elif self.instrument.symbol != symbol:
            raise ValueError(f"is {symbol}, but the file is {self.instrument.symbol}: one symbol a file")

    def _recognised(self, first_line: str) -> TickForm:
        form = recognise(first_line)
        if form is None:
            why = "not a HistData or TrueFX line, nor the header timestamp,bid,ask"
            raise TickFileError(self.path, 1, why, first_line)
        return form

    def _instrument(self, symbol: str | None) -> Instrument | None:
        """The file's instrument; None where the first TrueFX line will tell it."""
        try:
            if self.form is not TickForm.TRUEFX:
                return INSTRUMENTS[file_symbol(self.path, symbol)]
            return None if symbol is None else INSTRUMENTS[known_symbol(symbol)]
        except FeedError as error:
            raise TickFileError(self.path, None, str(error)) from None


def _check_prices(quote: Quote) -> None:
    if quote.bid <= 0:
        raise ValueError("the bid is not above zero")
    if quote.bid > quote.ask:
        raise ValueError("the bid is above the ask")
    if quote.ask >= quote.bid * PRICE_STEP_FACTOR_MAX:
        raise ValueError(f"the ask is {PRICE_STEP_FACTOR_MAX} times the bid or more")


def _check_step(before: Quote, after: Quote) -> None:
    if after.time_ms < before.time_ms:
        raise ValueError(f"goes back in time by {before.time_ms - after.time_ms} ms")
    low, high = sorted((before.bid, after.bid))
    if high >= low * PRICE_STEP_FACTOR_MAX:
        raise ValueError(
            f"the bid is {PRICE_STEP_FACTOR_MAX} times that of the tick before, or its half, or beyond"
        )
