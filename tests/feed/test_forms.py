"""From text to integers: prices, times, and what tells the three forms apart."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradewind.feed.forms import (
    FIELDS_OF,
    TickForm,
    header_fields,
    histdata_fields,
    price_points,
    recognise,
    truefx_fields,
)

HISTDATA = "20200101 170000065,1.121200,1.121720,0"
TRUEFX = "EUR/USD,20130101 21:59:59.981,1.32023,1.32054"
HEADER_LINE = "2013-01-01 22:00:00.295000+00:00,86.655,86.728"


def utc_ms(*when: int) -> int:
    return round(datetime(*when, tzinfo=UTC).timestamp() * 1_000)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("line", "form"),
    [
        (HISTDATA, TickForm.HISTDATA),
        (TRUEFX, TickForm.TRUEFX),
        ("timestamp,bid,ask", TickForm.HEADER),
        ("Timestamp, Bid, Ask", TickForm.HEADER),
        (HEADER_LINE, None),
        ("timestamp,ask,bid", None),
        ("timestamp,bid,ask,volume", None),
        ("20200101 170000;1.1;1.1;1.1;1.1;0", None),
        ("", None),
        ("hello", None),
    ],
)
def test_form_is_recognised_by_the_first_line(line: str, form: TickForm | None) -> None:
    assert recognise(line) is form


@pytest.mark.parametrize(
    ("text", "digits", "points"),
    [
        ("1.12120", 5, 112120),
        ("1.121200", 5, 112120),
        ("86.655", 3, 86655),
        ("86.7", 3, 86700),
        ("86", 3, 86000),
        ("000086.655", 3, 86655),
        ("1.121204", 5, 112120),
        ("1.121205", 5, 112120),
        ("1.121215", 5, 112122),
        ("1.1212050000001", 5, None),
        ("1.12120500001", 5, 112121),
        ("1.121206", 5, 112121),
        ("1.999995", 5, 200000),
        ("0.000004", 5, 0),
        ("7.5", 0, 8),
        ("6.5", 0, 6),
    ],
)
def test_price_text_becomes_exact_points(text: str, digits: int, points: int | None) -> None:
    if points is None:
        with pytest.raises(ValueError, match="not a plain decimal number"):
            price_points(text, digits)
    else:
        assert price_points(text, digits) == points


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ".5", "1.", "-1.1", "+1.1", "1e5", "1_0.5", "0x1F", "nan", "inf", "1,1", " 1.1", "1.1 ",
        "1.1.1", "\u0661.\u0661", "1" * 13, "1." + "1" * 13, "1" * 10_000,
    ],
)  # fmt: skip
def test_price_that_is_not_plain_decimal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a plain decimal number") as caught:
        price_points(text, 5)
    assert len(str(caught.value)) < 100


@given(st.integers(0, 10**11), st.integers(0, 12), st.integers(0, 8))
def test_price_agrees_with_decimal_arithmetic(value: int, text_digits: int, digits: int) -> None:
    text = f"{Decimal(value).scaleb(-text_digits):f}"
    expected = (Decimal(text).scaleb(digits)).quantize(Decimal(1), rounding=ROUND_HALF_EVEN)
    assert price_points(text, digits) == int(expected)


@given(st.integers(1, 10**9), st.integers(0, 3))
def test_price_survives_the_way_to_text_and_back(points: int, zeros: int) -> None:
    text = f"{points // 100_000}.{points % 100_000:05d}" + "0" * zeros
    assert price_points(text, 5) == points


@given(st.text(max_size=40))
def test_any_text_is_a_price_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert price_points(text, 5) >= 0


@given(st.sampled_from(list(TickForm)), st.text(max_size=80))
def test_any_line_is_taken_apart_or_a_value_error(form: TickForm, line: str) -> None:
    try:
        FIELDS_OF[form](line)
    except ValueError as error:
        assert str(error)


def test_histdata_time_is_eastern_standard_time_all_year() -> None:
    assert histdata_fields(HISTDATA).time_ms == utc_ms(2020, 1, 1, 22, 0, 0, 65_000)
    assert histdata_fields("20200701 170000065,1.1,1.1,0").time_ms == utc_ms(2020, 7, 1, 22, 0, 0, 65_000)
    assert histdata_fields("20200131 235959999,1.1,1.1,0").time_ms == utc_ms(2020, 2, 1, 4, 59, 59, 999_000)


def test_histdata_prices_stay_text() -> None:
    fields = histdata_fields(HISTDATA)
    assert (fields.symbol, fields.bid, fields.ask) == (None, "1.121200", "1.121720")


def test_truefx_time_is_utc() -> None:
    fields = truefx_fields(TRUEFX)
    assert fields == ("EUR/USD", utc_ms(2013, 1, 1, 21, 59, 59, 981_000), "1.32023", "1.32054")


@pytest.mark.parametrize(
    "time",
    ["2013-01-01 22:00:00.295000+00:00", "2013-01-01T22:00:00.295Z", "2013-01-02T00:00:00.295999+02:00"],
)
def test_header_time_keeps_its_zone_and_cuts_to_milliseconds(time: str) -> None:
    assert header_fields(f"{time},86.655,86.728").time_ms == utc_ms(2013, 1, 1, 22, 0, 0, 295_000)


@pytest.mark.parametrize(
    ("form", "line", "why"),
    [
        (TickForm.HISTDATA, "20200101 170000065,1.1,1.1", "has 3 fields instead of 4"),
        (TickForm.HISTDATA, "20200101 170000065,1.1,1.1,0,0", "has 5 fields instead of 4"),
        (TickForm.HISTDATA, "20200101 170000065,1.1,1.1,x", "volume"),
        (TickForm.HISTDATA, "20200101 170000065,1.1,1.1,", "volume"),
        (TickForm.HISTDATA, "20200101 17000006,1.1,1.1,0", "not YYYYMMDD HHMMSSmmm"),
        (TickForm.HISTDATA, "20200101T170000065,1.1,1.1,0", "not YYYYMMDD HHMMSSmmm"),
        (TickForm.HISTDATA, "20200230 170000065,1.1,1.1,0", "20200230 is not a date"),
        (TickForm.HISTDATA, "20201301 170000065,1.1,1.1,0", "20201301 is not a date"),
        (TickForm.HISTDATA, "00000101 170000065,1.1,1.1,0", "00000101 is not a date"),
        (TickForm.HISTDATA, "20200101 240000065,1.1,1.1,0", "24:00:00 is not a time of day"),
        (TickForm.HISTDATA, "20200101 176000065,1.1,1.1,0", "17:60:00 is not a time of day"),
        (TickForm.HISTDATA, "20200101 170060065,1.1,1.1,0", "17:00:60 is not a time of day"),
        (TickForm.TRUEFX, "EUR/USD,20130101 21:59:59.981,1.32023", "has 3 fields instead of 4"),
        (TickForm.TRUEFX, "EURUSD,20130101 21:59:59.981,1.32023,1.32054", "not written AAA/BBB"),
        (TickForm.TRUEFX, "EUR/USD,20130101 21:59:59,1.32023,1.32054", "not YYYYMMDD HH:MM:SS.mmm"),
        (TickForm.TRUEFX, "EUR/USD,20130101 25:59:59.981,1.32023,1.32054", "not a time of day"),
        (TickForm.HEADER, "2013-01-01 22:00:00,86.655", "has 2 fields instead of 3"),
        (TickForm.HEADER, "2013-01-01 22:00:00,86.655,86.728", "no time zone"),
        (TickForm.HEADER, "2013-01-01,86.655,86.728", "no time zone"),
        (TickForm.HEADER, "yesterday,86.655,86.728", "not an ISO 8601 time"),
        (TickForm.HEADER, "2013-02-30 22:00:00+00:00,86.655,86.728", "not an ISO 8601 time"),
        (TickForm.HEADER, ",86.655,86.728", "not an ISO 8601 time"),
    ],
)
def test_broken_line_says_what_is_wrong(form: TickForm, line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        FIELDS_OF[form](line)
