"""Sends quotes out in conflated frames, at a steady pace.

One task, the caller's own: sleep until the next frame is due, take what the source has, keep the last quote
of each symbol, publish those that moved. While a publish is under way nothing is taken, so a slow one makes
frames fewer and fuller; there is no queue.

Times. A published quote carries the wall clock of its frame, so that every reader can tell how old it is,
in a replay too. The source's own time (the file's) is not sent; `statistics().source_time_ms` shows how far
it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from tradewind.engine.instruments import Quote, QuoteFrame
from tradewind.feed.clock import Clock, SystemClock
from tradewind.feed.errors import FeedError, shortened
from tradewind.feed.source import QuoteSource

FRAMES_PER_S = 20
FRAMES_PER_S_MAX = 1_000

RESTAMP_MS_MAX = 1_000
"""An unchanged quote is sent again, newly stamped, within this time: quiet is not the same as stale."""

TICKS_PER_FRAME_MAX = 1_000
"""Most ticks taken for one frame; what is left is taken for the next, so a fast replay falls behind its speed
instead of holding up the event loop (1,000 lines are about 5 ms)."""

Publish = Callable[[QuoteFrame], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class PublisherStatistics:
    """Counts since the start: frames published, frames whose publish raised, quotes sent, ticks taken."""

    frames: int
    frames_failed: int
    quotes: int
    ticks: int
    behind: bool
    sequence: int
    source_time_ms: int
    last_error: str


class Publisher:
    """Publishes one source. Sequence numbers grow by one for each frame tried, also for one that failed."""

    def __init__(
        self,
        source: QuoteSource,
        publish: Publish,
        *,
        frames_per_s: int = FRAMES_PER_S,
        clock: Clock | None = None,
        first_sequence: int = 1,
    ) -> None:
        if not 1 <= frames_per_s <= FRAMES_PER_S_MAX:
            raise FeedError(f"{frames_per_s} frames a second asked, 1 to {FRAMES_PER_S_MAX} are possible")
        self._source = source
        self._publish = publish
        self._clock = clock or SystemClock()
        self._interval_s = 1 / frames_per_s
        self._restamp_ms = RESTAMP_MS_MAX - 1_000 // frames_per_s
        self._sequence = first_sequence - 1
        self._latest: dict[str, Quote] = {}  # as the source gave it
        self._sent: dict[str, Quote] = {}  # as published; emptied by a failure, so that all are sent again
        self._frames = self._frames_failed = self._quotes = self._ticks = self._source_time_ms = 0
        self._behind = False
        self._last_error = ""

    async def run(self) -> None:
        """Publish until cancelled, then close the source. Starts no task of its own.

        A publish that raises is counted and its quotes go out with the next frame, which is a full one.
        What the source raises (a tick file that changed under us) ends the run and is raised here.
        """
        started_s = next_s = self._clock.elapsed_s()
        try:
            while True:
                await self._frame(round((self._clock.elapsed_s() - started_s) * 1_000))
                # A frame that took too long moves the ones after it: they are never sent in a burst.
                next_s = max(next_s + self._interval_s, self._clock.elapsed_s())
                await self._clock.sleep(next_s - self._clock.elapsed_s())
        finally:
            self._source.close()

    def statistics(self) -> PublisherStatistics:
        return PublisherStatistics(
            frames=self._frames,
            frames_failed=self._frames_failed,
            quotes=self._quotes,
            ticks=self._ticks,
            behind=self._behind,
            sequence=self._sequence,
            source_time_ms=self._source_time_ms,
            last_error=self._last_error,
        )

    def __repr__(self) -> str:
        return (
            f"<Publisher sequence={self._sequence} frames={self._frames} frames_failed={self._frames_failed}"
            f" ticks={self._ticks} symbols={len(self._latest)} behind={self._behind}>"
        )

    async def _frame(self, elapsed_ms: int) -> None:
        self._take(elapsed_ms)
        frame = self._next_frame(self._clock.wall_ms())
        if frame is None:
            return
        try:
            await self._publish(frame)
        except Exception as error:  # the feed goes on: the next frame repairs what this one lost
            self._failed(error)
        else:
            self._published(frame)

    def _take(self, elapsed_ms: int) -> None:
        taken = self._source.take(elapsed_ms, TICKS_PER_FRAME_MAX)
        self._ticks += len(taken)
        self._behind = len(taken) >= TICKS_PER_FRAME_MAX
        for quote in taken:
            self._latest[quote.symbol] = quote
        if taken:
            self._source_time_ms = taken[-1].time_ms

    def _next_frame(self, now_ms: int) -> QuoteFrame | None:
        quotes = [
            msgspec.structs.replace(quote, time_ms=now_ms)
            for quote in self._latest.values()
            if self._is_due(quote, now_ms)
        ]
        if not quotes:
            return None
        self._sequence += 1
        return QuoteFrame(self._sequence, quotes)

    def _is_due(self, quote: Quote, now_ms: int) -> bool:
        sent = self._sent.get(quote.symbol)
        if sent is None or (quote.bid, quote.ask) != (sent.bid, sent.ask):
            return True
        # abs(): after the wall clock was set back the old stamp lies in the future and would never grow old.
        return abs(now_ms - sent.time_ms) >= self._restamp_ms

    def _published(self, frame: QuoteFrame) -> None:
        self._frames += 1
        self._quotes += len(frame.quotes)
        self._sent.update((quote.symbol, quote) for quote in frame.quotes)

    def _failed(self, error: Exception) -> None:
        self._frames_failed += 1
        self._last_error = shortened(f"{type(error).__name__}: {error}")
        self._sent.clear()
