"""The quotes of a run: replayed or simulated, perhaps with a crash, sent to every partition."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from tradewind import clock
from tradewind.feed.crash import FALL_MS, HOLD_MS, CrashShape, FlashCrash
from tradewind.feed.publisher import Publisher
from tradewind.feed.replay import Replay
from tradewind.feed.simulation import Simulation
from tradewind.feed.source import QuoteSource
from tradewind.ops.audit import StopOutWindow
from tradewind.ops.errors import StartFailed
from tradewind.ops.quote_sender import QuoteSender
from tradewind.ops.system import System, UpOptions

FRAMES_PER_S = 5
FIRST_QUOTE_S_MAX = 10.0
LOOK_S = 0.01

FALL_SETTLED_MS = 1_000
"""At a busy partition the last quote of a fall may be merged with later ones: up to so much later."""


@dataclass(frozen=True)
class Quotes:
    """`started_ms`: when they began to flow, by the wall clock."""

    source: QuoteSource
    publisher: Publisher
    sender: QuoteSender
    started_ms: int
    crash_at_s: float | None

    @property
    def crash_ms(self) -> int | None:
        """When the crash begins, by the wall clock."""
        return None if self.crash_at_s is None else self.started_ms + round(self.crash_at_s * 1_000)

    @property
    def stop_out_window(self) -> StopOutWindow:
        """The quotes of the fall; without a crash, all of this run."""
        crash_ms = self.crash_ms
        if crash_ms is None:
            return StopOutWindow(self.started_ms)
        return StopOutWindow(crash_ms, crash_ms + min(FALL_MS + FALL_SETTLED_MS, HOLD_MS))


@asynccontextmanager
async def quotes_flowing(system: System, on_end: Callable[[], None]) -> AsyncIterator[Quotes]:
    """Quotes flow while inside, from the first one on. `on_end` is called if the feed ends by itself.

    Raises what ended it, for example TickFileError for a file that changed since it was validated.
    """
    source = _source(system.options)
    sender = QuoteSender(system.client, system.shards)
    # Sequences go on across runs on the same data.
    publisher = Publisher(source, sender.publish, frames_per_s=FRAMES_PER_S, first_sequence=clock.now_ms())
    started_ms = clock.now_ms()
    feed = asyncio.create_task(publisher.run(), name="feed")
    feed.add_done_callback(lambda _task: on_end())
    try:
        await _first_frame(publisher, feed)
        yield Quotes(source, publisher, sender, started_ms, system.options.crash_at_s)
    finally:
        feed.cancel()
        await asyncio.wait([feed])
        await sender.aclose()
    with suppress(asyncio.CancelledError):
        await feed


async def _first_frame(publisher: Publisher, feed: "asyncio.Task[None]") -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_QUOTE_S_MAX):
            while not publisher.statistics().frames and not feed.done():  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
    if not publisher.statistics().frames:
        reason = f": {feed.exception()}" if feed.done() and not feed.cancelled() else ""
        raise StartFailed(f"no quote within {FIRST_QUOTE_S_MAX:g} s{reason}")


def _source(options: UpOptions) -> QuoteSource:
    files = options.tick_files
    source: QuoteSource = Replay(files, options.speed) if files else Simulation(options.seed)
    if options.crash_at_s is None:
        return source
    return FlashCrash(source, source.symbols[0], CrashShape(round(options.crash_at_s * 1_000)))
