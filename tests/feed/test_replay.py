"""Several files played together: order, speed, the clock they share, the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tradewind.feed.errors import FeedError, TickFileError
from tradewind.feed.replay import TICK_FILES_MAX, Replay
from tradewind.feed.ticks import validate_ticks

if TYPE_CHECKING:
    from conftest import WriteTicks


def eurusd(*times: str) -> list[str]:
    return [f"20200101 {time},1.12{i:02d}0,1.13000,0" for i, time in enumerate(times)]


def usdjpy(*times: str, date: str = "2020-01-01") -> list[str]:
    return ["timestamp,bid,ask", *(f"{date} {time}+00:00,86.6{i:02d},86.900" for i, time in enumerate(times))]


def symbols_taken(replay: Replay, elapsed_ms: int, limit: int = 100) -> list[str]:
    return [quote.symbol for quote in replay.take(elapsed_ms, limit)]


def test_files_that_overlap_are_merged_on_their_common_clock(write_ticks: WriteTicks) -> None:
    euro = write_ticks("eurusd.csv", eurusd("170000000", "170001000", "170003000"))
    yen = write_ticks("usdjpy.csv", usdjpy("22:00:00.500", "22:00:02.000", "22:00:09"))
    replay = Replay.open([yen, euro])
    assert replay.symbols == ("USDJPY", "EURUSD")
    assert symbols_taken(replay, 0) == ["EURUSD"]
    assert symbols_taken(replay, 499) == []
    assert symbols_taken(replay, 3_000) == ["USDJPY", "EURUSD", "USDJPY", "EURUSD"]
    assert not replay.finished
    assert symbols_taken(replay, 9_000) == ["USDJPY"]
    assert replay.finished
    assert symbols_taken(replay, 10**9) == []
    replay.close()


def test_symbols_of_other_years_start_together(write_ticks: WriteTicks) -> None:
    euro = write_ticks("eurusd.csv", eurusd("170000000", "170001000"))
    yen = write_ticks("usdjpy.csv", usdjpy("22:00:00.500", "22:00:02.000", date="2013-01-01"))
    replay = Replay.open([euro, yen])
    assert sorted(symbols_taken(replay, 0)) == ["EURUSD", "USDJPY"]
    assert symbols_taken(replay, 1_499) == ["EURUSD"]
    assert symbols_taken(replay, 1_500) == ["USDJPY"]


def test_files_of_one_symbol_follow_each_other_by_time(write_ticks: WriteTicks) -> None:
    early = write_ticks("eurusd-a.csv", eurusd("170000000", "170001000"))
    late = write_ticks("eurusd-b.csv", eurusd("170010000", "170011000"))
    replay = Replay.open([late, early])
    assert replay.symbols == ("EURUSD",)
    assert len(replay.take(9_999, 100)) == 2
    assert len(replay.take(10_000, 100)) == 1


@pytest.mark.parametrize(("speed", "due_ms"), [(1, 2_000), (2, 1_000), (0.5, 4_000), (1000.0, 2)])
def test_speed_scales_time(write_ticks: WriteTicks, speed: float, due_ms: int) -> None:
    replay = Replay.open([write_ticks("eurusd.csv", eurusd("170000000", "170002000"))], speed=speed)
    assert len(replay.take(due_ms - 1, 100)) == 1
    assert len(replay.take(due_ms, 100)) == 1


@pytest.mark.parametrize("speed", [0, -1, float("nan"), float("inf")])
def test_speed_must_be_above_zero_and_finite(write_ticks: WriteTicks, speed: float) -> None:
    with pytest.raises(FeedError, match="is not a finite number above 0"):
        Replay.open([write_ticks("eurusd.csv", eurusd("170000000"))], speed=speed)


def test_number_of_files_is_bounded(write_ticks: WriteTicks) -> None:
    file = validate_ticks(write_ticks("eurusd.csv", eurusd("170000000")))
    for files in [], [file] * (TICK_FILES_MAX + 1):
        with pytest.raises(FeedError, match=f"{len(files)} tick files given, 1 to {TICK_FILES_MAX}"):
            Replay(files)


def test_limit_leaves_the_rest_for_the_next_take(write_ticks: WriteTicks) -> None:
    replay = Replay.open([write_ticks("eurusd.csv", eurusd("170000000", "170000001", "170000002"))])
    taken = [*replay.take(1_000, 2), *replay.take(1_000, 2), *replay.take(1_000, 2)]
    assert [quote.bid for quote in taken] == [112000, 112010, 112020]


def test_one_bad_line_in_the_last_file_stops_everything_before_the_start(write_ticks: WriteTicks) -> None:
    good = write_ticks("eurusd.csv", eurusd("170000000"))
    bad = write_ticks("usdjpy.csv", [*usdjpy("22:00:00", "22:00:01"), "broken"])
    with pytest.raises(TickFileError, match=r"usdjpy\.csv:4: has 1 fields instead of 3"):
        Replay.open([good, bad])


def test_file_that_changed_after_validation_is_an_error_when_met(write_ticks: WriteTicks) -> None:
    path = write_ticks("eurusd.csv", eurusd("170000000", "170001000"))
    file = validate_ticks(path)
    write_ticks("eurusd.csv", [*eurusd("170000000"), "broken"])
    replay = Replay([file])
    with pytest.raises(TickFileError, match=r"eurusd\.csv:2: has 1 fields"):
        replay.take(1_000, 100)
    replay.close()


def test_closed_replay_gives_nothing_and_may_be_closed_again(write_ticks: WriteTicks) -> None:
    replay = Replay.open([write_ticks("eurusd.csv", eurusd("170000000", "170001000"))])
    replay.close()
    replay.close()
    assert replay.take(10_000, 100) == []


def test_both_real_files_replay_whole_and_together(real_eurusd: Path, real_usdjpy: Path) -> None:
    replay = Replay.open([real_eurusd, real_usdjpy], speed=1_000)
    first = replay.take(0, 100)
    assert {quote.symbol for quote in first} == {"EURUSD", "USDJPY"}
    rest = replay.take(22_000, 100_000)
    assert len(first) + len(rest) == 10_500
    assert replay.finished
