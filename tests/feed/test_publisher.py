"""Conflation, pace, re-stamping, failures and cancellation, on a clock that only moves by sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tradewind.engine.instruments import Quote, QuoteFrame
from tradewind.feed.crash import CrashShape, FlashCrash
from tradewind.feed.errors import FeedError
from tradewind.feed.publisher import (
    FRAMES_PER_S,
    FRAMES_PER_S_MAX,
    RESTAMP_MS_MAX,
    TICKS_PER_FRAME_MAX,
    Publisher,
)
from tradewind.feed.replay import Replay
from tradewind.feed.simulation import Simulation

if TYPE_CHECKING:
    from conftest import FakeClock

FRAME_MS = 1_000 // FRAMES_PER_S
EURO = Quote("EURUSD", 112_120, 112_123, 0)
YEN = Quote("USDJPY", 108_655, 108_660, 0)


def moved(quote: Quote, points: int, time_ms: int) -> Quote:
    return Quote(quote.symbol, quote.bid + points, quote.ask + points, time_ms)


async def publish_nothing(frame: QuoteFrame) -> None:
    """A publish for publishers that never run."""


class ListSource:
    """Gives the quotes of a list when their time has come."""

    symbols = ("EURUSD", "USDJPY")

    def __init__(self, *quotes: Quote) -> None:
        self.left = list(quotes)
        self.closed = False

    def take(self, elapsed_ms: int, limit: int) -> list[Quote]:
        due = [quote for quote in self.left if quote.time_ms <= elapsed_ms][:limit]
        self.left = self.left[len(due) :]
        return due

    def close(self) -> None:
        self.closed = True


class Receiver:
    """Keeps the frames; stops the publisher after `frames_max` by cancelling the task that runs it."""

    def __init__(self, clock: FakeClock, frames_max: int) -> None:
        self.clock = clock
        self.frames_max = frames_max
        self.frames: list[QuoteFrame] = []
        self.at_ms: list[int] = []
        self.failing: Callable[[QuoteFrame], bool] = lambda frame: False
        self.slow_s = 0.0

    async def publish(self, frame: QuoteFrame) -> None:
        await asyncio.sleep(0)
        self.clock.now_s += self.slow_s
        if self.failing(frame):
            raise ConnectionError("no primary for the slot")
        self.frames.append(frame)
        self.at_ms.append(self.clock.wall_ms() - self.clock.wall_start_ms)
        if len(self.frames) >= self.frames_max:
            raise asyncio.CancelledError

    @property
    def symbols(self) -> list[str]:
        return ["+".join(quote.symbol for quote in frame.quotes) for frame in self.frames]


async def run(publisher: Publisher) -> None:
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(publisher.run(), 5)


async def test_frame_holds_the_last_quote_of_each_symbol_that_moved(clock: FakeClock) -> None:
    ticks = [EURO, YEN, moved(EURO, 1, 10), moved(EURO, 2, 50), moved(YEN, 5, 60)]
    receiver = Receiver(clock, 3)
    publisher = Publisher(ListSource(*ticks), receiver.publish, clock=clock)
    await run(publisher)
    assert [[(quote.symbol, quote.bid) for quote in frame.quotes] for frame in receiver.frames] == [
        [("EURUSD", 112_120), ("USDJPY", 108_655)],
        [("EURUSD", 112_122)],
        [("USDJPY", 108_660)],
    ]
    assert publisher.statistics().ticks == 5


async def test_quotes_carry_the_wall_clock_of_their_frame(clock: FakeClock) -> None:
    receiver = Receiver(clock, 2)
    publisher = Publisher(ListSource(EURO, moved(EURO, 1, 120)), receiver.publish, clock=clock)
    await run(publisher)
    stamps = [frame.quotes[0].time_ms - clock.wall_start_ms for frame in receiver.frames]
    assert stamps == [0, 150]
    assert publisher.statistics().source_time_ms == 120


async def test_sequence_grows_by_one_for_each_frame(clock: FakeClock) -> None:
    receiver = Receiver(clock, 30)
    publisher = Publisher(Simulation(1), receiver.publish, clock=clock, first_sequence=7)
    await run(publisher)
    assert [frame.sequence for frame in receiver.frames] == list(range(7, 37))
    assert publisher.statistics().sequence == 36


@pytest.mark.parametrize("frames_per_s", [1, 5, FRAMES_PER_S, 100])
async def test_frames_keep_their_pace(clock: FakeClock, frames_per_s: int) -> None:
    receiver = Receiver(clock, 50)
    await run(Publisher(Simulation(1), receiver.publish, frames_per_s=frames_per_s, clock=clock))
    assert all(at_ms % (1_000 // frames_per_s) == 0 for at_ms in receiver.at_ms)


@pytest.mark.parametrize("frames_per_s", [0, -1, FRAMES_PER_S_MAX + 1])
def test_pace_is_bounded(frames_per_s: int) -> None:
    with pytest.raises(FeedError, match="frames a second asked"):
        Publisher(ListSource(), publish_nothing, frames_per_s=frames_per_s)


async def test_nothing_is_published_before_the_first_quote(clock: FakeClock) -> None:
    receiver = Receiver(clock, 1)
    await run(Publisher(ListSource(moved(EURO, 0, 400)), receiver.publish, clock=clock))
    assert receiver.at_ms == [400]
    assert receiver.frames[0].sequence == 1


async def test_quiet_quotes_are_stamped_again_within_a_second(clock: FakeClock) -> None:
    receiver = Receiver(clock, 10)
    await run(Publisher(ListSource(EURO, moved(YEN, 0, 500)), receiver.publish, clock=clock))
    for symbol in "EURUSD", "USDJPY":
        quotes = [quote for frame in receiver.frames for quote in frame.quotes if quote.symbol == symbol]
        gaps = [after.time_ms - before.time_ms for before, after in pairwise(quotes)]
        assert len(gaps) >= 3
        assert all(RESTAMP_MS_MAX - 2 * FRAME_MS <= gap <= RESTAMP_MS_MAX for gap in gaps)


async def test_tick_at_the_same_price_is_not_published_again(clock: FakeClock) -> None:
    receiver = Receiver(clock, 2)
    publisher = Publisher(ListSource(EURO, moved(EURO, 0, 100)), receiver.publish, clock=clock)
    await run(publisher)
    assert publisher.statistics().ticks == 2
    assert receiver.at_ms[1] >= RESTAMP_MS_MAX - 2 * FRAME_MS


async def test_quotes_go_on_when_the_wall_clock_is_set_back(clock: FakeClock) -> None:
    receiver = Receiver(clock, 3)

    async def publish(frame: QuoteFrame) -> None:
        clock.wall_start_ms -= 3_600_000
        await receiver.publish(frame)

    await run(Publisher(ListSource(EURO), publish, clock=clock))
    assert len(receiver.frames) == 3
    assert clock.now_s < 101


async def test_slow_publish_makes_fewer_and_fuller_frames(clock: FakeClock) -> None:
    ticks = [moved(EURO, i, 10 * i) for i in range(100)]
    receiver = Receiver(clock, 4)
    receiver.slow_s = 0.4
    publisher = Publisher(ListSource(*ticks), receiver.publish, clock=clock)
    await run(publisher)
    assert [frame.quotes[0].bid - EURO.bid for frame in receiver.frames] == [0, 40, 80, 99]
    assert all(len(frame.quotes) == 1 for frame in receiver.frames)
    assert set(clock.slept) == {0.0}


async def test_stall_is_not_followed_by_a_burst(clock: FakeClock) -> None:
    receiver = Receiver(clock, 20)

    async def publish(frame: QuoteFrame) -> None:
        clock.now_s += 10 if frame.sequence == 5 else 0
        await receiver.publish(frame)

    await run(Publisher(Simulation(1), publish, clock=clock))
    after_stall = [at_ms for at_ms in receiver.at_ms if at_ms > 10_000]
    assert len(after_stall) == 16
    assert all(late - early >= FRAME_MS for early, late in pairwise(after_stall[1:]))


async def test_failed_frame_is_counted_and_the_next_one_is_full(clock: FakeClock) -> None:
    ticks = [EURO, YEN, moved(EURO, 1, 50), moved(EURO, 2, 150)]
    receiver = Receiver(clock, 3)
    receiver.failing = lambda frame: frame.sequence == 2
    publisher = Publisher(ListSource(*ticks), receiver.publish, clock=clock)
    await run(publisher)
    assert receiver.symbols == ["EURUSD+USDJPY", "EURUSD+USDJPY", "EURUSD"]
    assert [frame.sequence for frame in receiver.frames] == [1, 3, 4]
    assert receiver.frames[1].quotes[0].bid == EURO.bid + 1
    statistics = publisher.statistics()
    assert (statistics.frames_failed, statistics.last_error) == (
        1,
        "ConnectionError: no primary for the slot",
    )


async def test_long_outage_ends_with_the_latest_quotes(clock: FakeClock) -> None:
    receiver = Receiver(clock, 1)
    receiver.failing = lambda frame: frame.sequence <= 100
    publisher = Publisher(Simulation(1), receiver.publish, clock=clock)
    await run(publisher)
    latest = {}
    for quote in Simulation(1).take(receiver.at_ms[0], 10_000):
        latest[quote.symbol] = (quote.bid, quote.ask)
    assert {quote.symbol: (quote.bid, quote.ask) for quote in receiver.frames[0].quotes} == latest
    assert publisher.statistics().frames_failed == 100


async def test_flood_is_taken_in_bounded_portions(clock: FakeClock) -> None:
    flood = [moved(EURO, i, 0) for i in range(TICKS_PER_FRAME_MAX * 2 + 1)]
    receiver = Receiver(clock, 3)
    publisher = Publisher(ListSource(*flood), receiver.publish, clock=clock)
    behind = []
    receiver.failing = lambda frame: behind.append(publisher.statistics().behind) is not None
    await run(publisher)
    assert behind == [True, True, False]
    assert [frame.quotes[0].bid for frame in receiver.frames] == [113_119, 114_119, 114_120]


async def test_source_that_fails_ends_the_run_and_is_closed(clock: FakeClock) -> None:
    class BrokenSource(ListSource):
        def take(self, elapsed_ms: int, limit: int) -> list[Quote]:
            raise FeedError("the file changed")

    source = BrokenSource()
    with pytest.raises(FeedError, match="the file changed"):
        await Publisher(source, Receiver(clock, 1).publish, clock=clock).run()
    assert source.closed


@pytest.mark.parametrize("turns", range(6))
async def test_cancellation_at_any_await_leaves_no_task_and_closes_the_source(turns: int) -> None:
    source = ListSource(EURO)
    before = asyncio.all_tasks()
    published: list[QuoteFrame] = []

    async def publish(frame: QuoteFrame) -> None:
        published.append(frame)
        await asyncio.sleep(0)
        await asyncio.sleep(60)

    task = asyncio.create_task(Publisher(source, publish).run())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before
    assert source.closed or turns == 0
    assert len(published) == (turns > 0)


async def test_system_clock_paces_real_frames() -> None:
    frames: list[QuoteFrame] = []
    enough = asyncio.Event()

    async def publish(frame: QuoteFrame) -> None:
        frames.append(frame)
        if len(frames) == 10:
            enough.set()

    publisher = Publisher(Simulation(1), publish, frames_per_s=100)
    task = asyncio.create_task(publisher.run())
    await enough.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert publisher.statistics().frames == len(frames) >= 10
    assert repr(publisher).startswith("<Publisher sequence=")


async def test_real_ticks_with_a_crash_reach_the_receiver(
    real_eurusd: Path, real_usdjpy: Path, clock: FakeClock
) -> None:
    replay = Replay.open([real_eurusd, real_usdjpy], speed=100)
    crash = FlashCrash(replay, "EURUSD", CrashShape(at_ms=10_000, recovery_ms=None))
    receiver = Receiver(clock, 1_000)
    publisher = Publisher(crash, receiver.publish, clock=clock)
    await run(publisher)
    quotes = [quote for frame in receiver.frames for quote in frame.quotes]
    bids = {symbol: [quote.bid for quote in quotes if quote.symbol == symbol] for symbol in crash.symbols}
    assert max(bids["EURUSD"]) > 112_000
    assert 108_600 < bids["EURUSD"][-1] < 109_000
    assert bids["USDJPY"][-1] == 86_836
    assert publisher.statistics().frames_failed == 0
