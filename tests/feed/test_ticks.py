"""Whole tick files: the three forms, where the symbol comes from, every kind of bad line, the real data."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tradewind.engine.instruments import Quote
from tradewind.feed.errors import FeedError, TickFileError
from tradewind.feed.forms import TickForm
from tradewind.feed.ticks import known_symbol, read_ticks, validate_ticks

if TYPE_CHECKING:
    from conftest import WriteTicks

HISTDATA = [
    "20200101 170000065,1.121200,1.121720,0",
    "20200101 170010447,1.121200,1.121920,0",
    "20200101 170010447,1.121170,1.121610,0",
]
TRUEFX = [
    "EUR/USD,20130101 21:59:59.981,1.32023,1.32054",
    "EUR/USD,20130101 22:00:00.981,1.32023,1.32023",
]
HEADER = [
    "timestamp,bid,ask",
    "2013-01-01 22:00:00.295000+00:00,86.655,86.728",
    "2013-01-01 22:02:35.907000+00:00,86.657,86.728",
]
T2020 = round(datetime(2020, 1, 1, 22, tzinfo=UTC).timestamp() * 1_000)
T2013 = round(datetime(2013, 1, 1, 22, tzinfo=UTC).timestamp() * 1_000)


def error_of(path: Path, symbol: str | None = None) -> TickFileError:
    """The error of reading and of validating, which must be the same one printable line."""
    with pytest.raises(TickFileError) as reading:
        list(read_ticks(path, symbol))
    with pytest.raises(TickFileError) as validating:
        validate_ticks(path, symbol)
    assert str(reading.value) == str(validating.value)
    assert str(reading.value).isprintable()
    return reading.value


def test_histdata_file(write_ticks: WriteTicks) -> None:
    path = write_ticks("DAT_ASCII_EURUSD_T_202001.csv", HISTDATA)
    assert list(read_ticks(path)) == [
        Quote("EURUSD", 112120, 112172, T2020 + 65),
        Quote("EURUSD", 112120, 112192, T2020 + 10_447),
        Quote("EURUSD", 112117, 112161, T2020 + 10_447),
    ]


def test_truefx_file_tells_its_symbol_whatever_its_name(write_ticks: WriteTicks) -> None:
    path = write_ticks("usdjpy.csv", TRUEFX)
    assert list(read_ticks(path)) == [
        Quote("EURUSD", 132023, 132054, T2013 - 19),
        Quote("EURUSD", 132023, 132023, T2013 + 981),
    ]


def test_header_file(write_ticks: WriteTicks) -> None:
    path = write_ticks("any.csv", HEADER, compressed=True)
    assert list(read_ticks(path, "USD/JPY")) == [
        Quote("USDJPY", 86655, 86728, T2013 + 295),
        Quote("USDJPY", 86657, 86728, T2013 + 155_907),
    ]


def test_summary_of_a_whole_file(write_ticks: WriteTicks) -> None:
    summary = validate_ticks(write_ticks("usdjpy.csv", HEADER))
    assert (summary.symbol, summary.form, summary.lines) == ("USDJPY", TickForm.HEADER, 2)
    assert (summary.first_time_ms, summary.last_time_ms) == (T2013 + 295, T2013 + 155_907)
    assert list(read_ticks(summary.path, summary.symbol))


@pytest.mark.parametrize("written", ["EURUSD", "eurusd", "EUR/USD"])
def test_symbol_is_known_however_it_is_written(written: str) -> None:
    assert known_symbol(written) == "EURUSD"


@pytest.mark.parametrize("unknown", ["", "EURGBP", "EUR", "nonsense\n" * 50])
def test_unknown_symbol_is_refused_with_those_known(unknown: str) -> None:
    with pytest.raises(FeedError, match=r"unknown symbol .*known are EURUSD, GBPUSD") as caught:
        known_symbol(unknown)
    assert str(caught.value).isprintable()


def test_symbol_given_is_used_where_the_name_is_silent(write_ticks: WriteTicks) -> None:
    assert validate_ticks(write_ticks("ticks.csv", HISTDATA), "gbpusd").symbol == "GBPUSD"


@pytest.mark.parametrize(
    ("name", "symbol", "why"),
    [
        ("ticks.csv", None, "neither lines nor name tell the symbol: give it with --symbol"),
        ("eurusd-usdjpy.csv", None, "the name holds EURUSD and USDJPY: give it with --symbol"),
        ("usdjpy.csv", "EURUSD", "the file name says USDJPY, but the symbol given is EURUSD"),
        ("ticks.csv", "EURGBP", "unknown symbol 'EURGBP'"),
    ],
)
def test_file_without_one_clear_symbol_is_refused(
    write_ticks: WriteTicks, name: str, symbol: str | None, why: str
) -> None:
    error = error_of(write_ticks(name, HISTDATA), symbol)
    assert error.line is None
    assert why in error.why


def test_symbol_given_must_agree_with_truefx_lines(write_ticks: WriteTicks) -> None:
    path = write_ticks("ticks.csv", TRUEFX)
    assert validate_ticks(path, "EURUSD").symbol == "EURUSD"
    assert "is EURUSD, but the file is USDJPY" in error_of(path, "USDJPY").why


def test_empty_file_and_file_of_a_header_alone(write_ticks: WriteTicks) -> None:
    path = write_ticks("eurusd.csv", "")
    assert str(error_of(path)) == f"{path}: the file is empty"
    assert error_of(write_ticks("eurusd.csv.gz", "", compressed=True)).why == "the file is empty"
    assert error_of(write_ticks("usdjpy.csv", HEADER[:1])).why == "has a header and no ticks"


def test_unknown_form_names_the_known_ones(write_ticks: WriteTicks) -> None:
    path = write_ticks("eurusd.csv", "time;open;high\n1;2;3\n")
    expected = f"{path}:1: not a HistData or TrueFX line, nor the header timestamp,bid,ask: time;open;high"
    assert str(error_of(path)) == expected


BAD_LINES = [
    ("20200101 170010447,1.121200", "has 2 fields instead of 4"),
    ("20200101 170010447;1.121200;1.121920;0", "has 1 fields instead of 4"),
    ("20200101 179910447,1.121200,1.121920,0", "17:99:10 is not a time of day"),
    ("20200101 170010447,one,1.121920,0", "price 'one' is not a plain decimal number"),
    ("20200101 170010447,-1.121200,1.121920,0", "not a plain decimal number"),
    ("20200101 170010447,0.000000,1.121920,0", "the bid is not above zero"),
    ("20200101 170010447,0.000001,1.121920,0", "the bid is not above zero"),
    ("20200101 170010447,1.121930,1.121920,0", "the bid is above the ask"),
    ("20200101 170010447,1.121200,11.21920,0", "the ask is 2 times the bid or more"),
    ("20200101 170010447,11.21200,11.21920,0", "the bid is 2 times that of the tick before"),
    ("20200101 170010447,0.112120,0.112192,0", "the bid is 2 times that of the tick before"),
    ("20200101 165959000,1.121200,1.121920,0", "goes back in time by 1065 ms"),
    ("20200101 170000064,1.121200,1.121920,0", "goes back in time by 1 ms"),
    ("timestamp,bid,ask", "has 3 fields instead of 4"),
    ("EUR/USD,20130101 21:59:59.981,1.32023,1.32054", "the volume is not a whole number"),
]


@pytest.mark.parametrize(("line", "why"), BAD_LINES)
@pytest.mark.parametrize("compressed", [False, True])
def test_bad_line_in_the_middle_names_file_and_line(
    write_ticks: WriteTicks, line: str, why: str, compressed: bool
) -> None:
    path = write_ticks("eurusd.csv", [HISTDATA[0], line, *HISTDATA[1:]], compressed)
    error = error_of(path)
    assert why in error.why
    assert str(error) == f"{path}:2: {error.why}: {line}"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("GBP/USD,20130101 22:00:00.000,1.32023,1.32054", "is GBPUSD, but the file is EURUSD"),
        ("EUR/GBP,20130101 22:00:00.000,0.82023,0.82054", "unknown symbol 'EUR/GBP'"),
        ("EURUSD,20130101 22:00:00.000,1.32023,1.32054", "not written AAA/BBB"),
    ],
)
def test_bad_truefx_line(write_ticks: WriteTicks, line: str, why: str) -> None:
    error = error_of(write_ticks("ticks.csv", [TRUEFX[0], line, TRUEFX[1]]))
    assert error.line == 2
    assert why in error.why


def test_good_quotes_are_given_up_to_the_bad_line(write_ticks: WriteTicks) -> None:
    ticks = read_ticks(write_ticks("eurusd.csv", [HISTDATA[0], "broken"]))
    assert next(ticks).bid == 112120
    with pytest.raises(TickFileError, match=":2: has 1 fields"):
        next(ticks)


def test_last_line_without_an_end_is_read(write_ticks: WriteTicks) -> None:
    assert validate_ticks(write_ticks("eurusd.csv", "\r\n".join(HISTDATA))).lines == 3


def test_real_histdata_file_reads_whole(real_eurusd: Path) -> None:
    summary = validate_ticks(real_eurusd)
    assert (summary.symbol, summary.form, summary.lines) == ("EURUSD", TickForm.HISTDATA, 9_500)
    assert summary.first_time_ms == T2020 + 65
    assert summary.last_time_ms == T2020 + (6 * 3_600 + 52) * 1_000 + 125
    quotes = list(read_ticks(real_eurusd))
    assert quotes[-1] == Quote("EURUSD", 112130, 112132, summary.last_time_ms)
    assert all(112_000 < quote.bid < quote.ask < 112_300 for quote in quotes)


def test_real_truefx_file_reads_whole(real_usdjpy: Path) -> None:
    summary = validate_ticks(real_usdjpy)
    assert (summary.symbol, summary.form, summary.lines) == ("USDJPY", TickForm.HEADER, 1_000)
    assert summary.first_time_ms == T2013 + 295
    assert summary.last_time_ms == T2013 + (35 * 60 + 13) * 1_000 + 494
    quotes = list(read_ticks(real_usdjpy))
    assert quotes[-1] == Quote("USDJPY", 86836, 86854, summary.last_time_ms)
    assert any(quote.bid == quote.ask for quote in quotes)


@pytest.mark.parametrize("broken", [lambda line: line[:30], lambda line: line.replace(",1", ",x", 1)])
def test_real_file_with_a_line_broken_in_the_middle(
    real_eurusd: Path, write_ticks: WriteTicks, broken: Callable[[str], str]
) -> None:
    lines = gzip.decompress(real_eurusd.read_bytes()).decode().splitlines()
    lines[4_999] = broken(lines[4_999])
    path = write_ticks("eurusd.csv.gz", lines, compressed=True)
    error = error_of(path)
    assert str(error) == f"{path}:5000: {error.why}: {lines[4_999]}"
