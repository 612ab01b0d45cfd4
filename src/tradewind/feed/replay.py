"""Tick files played back together, at any speed.

Which clock the files share: files of one symbol are one track, in their own time order. Tracks that overlap
in time keep their common clock, so that what happened together is replayed together. Tracks that do not
overlap (EURUSD of 2020 beside USDJPY of 2013) start together, because nobody wants to wait seven years for
the second.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from os import PathLike
from typing import NamedTuple

from tradewind.engine.instruments import Quote
from tradewind.feed.errors import FeedError
from tradewind.feed.ticks import TickFileSummary, read_ticks, validate_ticks

TICK_FILES_MAX = 64
"""Files of one replay; each is open while it plays."""


class _Due(NamedTuple):
    """A quote and when it is due: milliseconds of the files' clock since the start."""

    position_ms: int
    quote: Quote


class Replay:
    """A QuoteSource over validated tick files. After the last line it gives nothing more: it has no loop."""

    def __init__(self, files: Sequence[TickFileSummary], speed: float = 1.0) -> None:
        """`files` come from validate_ticks, so that nothing starts before every line is known to be good.

        `speed` 2 plays twice as fast. Raises FeedError for a speed that is not above 0 and finite, no file,
        or too many. A file that changed since it was validated raises TickFileError from take().
        """
        if not (speed > 0 and math.isfinite(speed)):
            raise FeedError(f"speed {speed} is not a finite number above 0")
        if not 1 <= len(files) <= TICK_FILES_MAX:
            raise FeedError(f"{len(files)} tick files given, 1 to {TICK_FILES_MAX} can be replayed together")
        self.files = tuple(files)
        self.speed = speed
        origins = _origins_ms(files)
        self._tracks = [_track(file, origins[file.symbol]) for file in files]
        self._merged = heapq.merge(*self._tracks, key=_position)
        self._next = next(self._merged, None)

    @classmethod
    def open(
        cls, paths: Iterable[str | PathLike[str]], symbol: str | None = None, speed: float = 1.0
    ) -> Replay:
        """Validate every file, whole, then replay them. `symbol` is that of every file, as in read_ticks."""
        return cls([validate_ticks(path, symbol) for path in paths], speed)

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(file.symbol for file in self.files))

    @property
    def finished(self) -> bool:
        """Every line was taken."""
        return self._next is None

    def take(self, elapsed_ms: int, limit: int) -> list[Quote]:
        """See QuoteSource: what is due by `elapsed_ms` times speed, with the files' own times."""
        position_ms = elapsed_ms * self.speed
        taken: list[Quote] = []
        while len(taken) < limit and self._next is not None and self._next.position_ms <= position_ms:
            taken.append(self._next.quote)
            self._next = next(self._merged, None)
        return taken

    def close(self) -> None:
        self._next = None
        for track in self._tracks:
            track.close()


def _track(file: TickFileSummary, origin_ms: int) -> Generator[_Due, None, None]:
    with closing(read_ticks(file.path, file.symbol)) as quotes:
        for quote in quotes:
            yield _Due(quote.time_ms - origin_ms, quote)


def _position(due: _Due) -> int:
    return due.position_ms


def _origins_ms(files: Sequence[TickFileSummary]) -> dict[str, int]:
    """For each symbol, the time in its files that is the start of the replay (see the module's text)."""
    origins: dict[str, int] = {}
    origin_ms, end_ms = 0, -1
    for symbol, first_ms, last_ms in sorted(_spans(files), key=lambda span: span[1]):
        if not origins or first_ms > end_ms:
            origin_ms, end_ms = first_ms, last_ms
        end_ms = max(end_ms, last_ms)
        origins[symbol] = origin_ms
    return origins


def _spans(files: Sequence[TickFileSummary]) -> Iterator[tuple[str, int, int]]:
    for symbol in dict.fromkeys(file.symbol for file in files):
        own = [file for file in files if file.symbol == symbol]
        yield symbol, min(file.first_time_ms for file in own), max(file.last_time_ms for file in own)
