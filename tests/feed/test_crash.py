"""The flash crash: its shape, over a source that ticks and over one that is silent."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradewind.engine.instruments import Quote
from tradewind.feed.crash import PARTS, CrashShape, FlashCrash, lowered
from tradewind.feed.errors import FeedError
from tradewind.feed.replay import Replay
from tradewind.feed.simulation import Simulation

if TYPE_CHECKING:
    from conftest import WriteTicks

FRAME_MS = 50


class StillSource:
    """Quotes every symbol once, and then nothing."""

    symbols = ("EURUSD", "USDJPY")

    def __init__(self) -> None:
        self.left = [Quote("EURUSD", 112_120, 112_123, 0), Quote("USDJPY", 108_655, 108_660, 0)]
        self.closed = False

    def take(self, elapsed_ms: int, limit: int) -> list[Quote]:
        taken, self.left = self.left[:limit], self.left[limit:]
        return taken

    def close(self) -> None:
        self.closed = True


class BusySource(StillSource):
    """Always has as many quotes of one symbol as may be taken."""

    def take(self, elapsed_ms: int, limit: int) -> list[Quote]:
        return super().take(elapsed_ms, limit) or [Quote("USDJPY", 108_655, 108_660, elapsed_ms)] * limit


def test_shape_is_a_ramp_a_plateau_and_a_ramp() -> None:
    shape = CrashShape(at_ms=10_000)
    depths = {
        at_ms: shape.depth_parts(at_ms) for at_ms in (0, 10_000, 10_500, 11_000, 21_000, 36_000, 51_000)
    }
    assert list(depths.values()) == [0, 0, 15_000, 30_000, 30_000, 15_000, 0]
    assert shape.depth_parts(10**9) == 0


def test_without_recovery_it_stays_down() -> None:
    assert CrashShape(at_ms=0, recovery_ms=None).depth_parts(10**9) == 30_000


def test_fall_and_recovery_may_be_immediate() -> None:
    shape = CrashShape(at_ms=100, fall_ms=0, hold_ms=50, recovery_ms=0)
    assert [shape.depth_parts(at_ms) for at_ms in (99, 100, 150, 151)] == [0, 30_000, 30_000, 0]


@pytest.mark.parametrize(
    "wrong", [{"at_ms": -1}, {"fall_ms": -1}, {"recovery_ms": -1}, {"fall_parts": 0}, {"fall_parts": PARTS}]
)
def test_impossible_shape_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(FeedError, match="a crash"):
        CrashShape(**{"at_ms": 0, **wrong})


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**4), st.integers(0, 10**5))
def test_depth_never_leaves_its_bounds(elapsed_ms: int, at_ms: int, fall_ms: int, recovery_ms: int) -> None:
    shape = CrashShape(at_ms=at_ms, fall_ms=fall_ms, recovery_ms=recovery_ms)
    assert 0 <= shape.depth_parts(elapsed_ms) <= shape.fall_parts


@given(st.integers(1, 10**9), st.integers(0, 1_000), st.integers(0, PARTS - 1))
def test_lowered_quote_is_still_a_quote(bid: int, spread: int, depth_parts: int) -> None:
    quote = lowered(Quote("EURUSD", bid, bid + spread, 5), depth_parts)
    assert 0 < quote.bid <= bid
    assert quote.ask - quote.bid == spread


def test_silent_symbol_falls_by_three_percent_within_a_second_and_recovers() -> None:
    crash = FlashCrash(StillSource(), "EURUSD", CrashShape(at_ms=1_000, hold_ms=500, recovery_ms=2_000))
    bids = {}
    for elapsed_ms in range(0, 5_000, FRAME_MS):
        for quote in crash.take(elapsed_ms, 100):
            if quote.symbol == "EURUSD":
                bids[elapsed_ms] = quote.bid
                assert quote.ask - quote.bid == 3
    falling = [bid for at_ms, bid in bids.items() if 1_000 <= at_ms <= 2_000]
    rising = [bid for at_ms, bid in bids.items() if at_ms > 2_000]
    assert len(falling) == 20
    assert all(before > after for before, after in pairwise(falling))
    assert bids[2_000] == 112_120 - 112_120 * 3 // 100
    assert min(bids) == 0
    assert not [at_ms for at_ms in bids if 2_000 < at_ms <= 2_500]
    assert all(before < after for before, after in pairwise(rising))
    assert rising[-1] == 112_120
    assert max(bids) == 4_500


def test_other_symbols_are_passed_through() -> None:
    plain = Simulation(3).take(20_000, 100_000)
    crash = FlashCrash(Simulation(3), "EURUSD", CrashShape(at_ms=0, recovery_ms=None))
    crashed = [quote for at_ms in range(0, 20_001, FRAME_MS) for quote in crash.take(at_ms, 1_000)]
    assert [q for q in crashed if q.symbol != "EURUSD"] == [q for q in plain if q.symbol != "EURUSD"]


def test_crashed_symbol_goes_on_moving_at_the_bottom() -> None:
    crash = FlashCrash(Simulation(3), "EURUSD", CrashShape(at_ms=0, hold_ms=60_000))
    crash.take(1_000, 1_000)
    bids = {quote.bid for quote in crash.take(20_000, 1_000) if quote.symbol == "EURUSD"}
    assert len(bids) > 5
    assert max(bids) < 110_000


def test_crash_shows_even_over_a_source_that_uses_the_whole_limit() -> None:
    crash = FlashCrash(BusySource(), "EURUSD", CrashShape(at_ms=100))
    crash.take(0, 10)
    taken = crash.take(1_100, 10)
    assert len(taken) == 10
    assert taken[0] == Quote("EURUSD", 112_120 - 3_363, 112_123 - 3_363, 0)


def test_crash_over_a_replay_goes_on_after_its_end(write_ticks: WriteTicks) -> None:
    path = write_ticks("eurusd.csv", ["20200101 170000000,1.12120,1.12123,0"])
    crash = FlashCrash(Replay.open([path], speed=10), "EURUSD", CrashShape(at_ms=1_000))
    assert [quote.bid for quote in crash.take(0, 10)] == [112_120]
    assert [quote.bid for quote in crash.take(2_000, 10)] == [112_120 - 3_363]
    crash.close()


def test_symbol_must_be_in_the_feed_and_closing_reaches_the_source() -> None:
    source = StillSource()
    with pytest.raises(FeedError, match="cannot crash GBPUSD: the feed quotes only EURUSD, USDJPY"):
        FlashCrash(source, "GBPUSD", CrashShape(at_ms=0))
    FlashCrash(source, "eur/usd", CrashShape(at_ms=0)).close()
    assert source.closed
