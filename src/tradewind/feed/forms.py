"""The three written forms of a tick, and the exact way from their text to integers.

| form      | example                                               | time zone                              |
|-----------|-------------------------------------------------------|----------------------------------------|
| histdata  | `20200101 170000065,1.121200,1.121720,0`              | EST without daylight saving, UTC-5     |
| truefx    | `EUR/USD,20130101 21:59:59.981,1.32023,1.32054`       | UTC                                    |
| header    | `2013-01-01 22:00:00.295000+00:00,86.655,86.728`      | written in each line                   |

The header form starts with the line `timestamp,bid,ask`.

HistData's zone is stated by its own specification, "Eastern Standard Time (EST) time-zone WITHOUT Day Light
Savings adjustments" (histdata.com, "Data Files - Detailed Specification"); the file we test with agrees, it
opens the year 2020 at 17:00:00.065, and the TrueFX one opens the year 2013 at 22:00:00.295 UTC, the same
hour.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

PRICE_DIGITS_MAX = 12
"""Most digits before, and most digits after, the decimal point of a price."""

HISTDATA_UTC_OFFSET_MS = -5 * 3_600_000
DAY_MS = 86_400_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_PRICE = re.compile(rf"([0-9]{{1,{PRICE_DIGITS_MAX}}})(?:\.([0-9]{{1,{PRICE_DIGITS_MAX}}}))?")
_HISTDATA_TIME = re.compile(r"([0-9]{8}) ([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{3})")
_TRUEFX_TIME = re.compile(r"([0-9]{8}) ([0-9]{2}):([0-9]{2}):([0-9]{2})\.([0-9]{3})")
_TRUEFX_SYMBOL = re.compile(r"[A-Za-z]{3}/[A-Za-z]{3}")


class TickForm(enum.Enum):
    """How the lines of a file are written; the value is the word that summaries show."""

    HISTDATA = "histdata"
    TRUEFX = "truefx"
    HEADER = "header"


class TickFields(NamedTuple):
    """One line taken apart; the prices are still text. `symbol` is None if the form has none."""

    symbol: str | None
    time_ms: int
    bid: str
    ask: str


def recognise(first_line: str) -> TickForm | None:
    """The form of the file that starts with this line, or None."""
    fields = first_line.split(",")
    if [field.strip().lower() for field in fields] == ["timestamp", "bid", "ask"]:
        return TickForm.HEADER
    if _TRUEFX_SYMBOL.fullmatch(fields[0]):
        return TickForm.TRUEFX
    if _HISTDATA_TIME.fullmatch(fields[0]):
        return TickForm.HISTDATA
    return None


def price_points(text: str, digits: int) -> int:
    """The price written as `text`, as an integer scaled by 10**digits: ("1.12120", 5) -> 112120. No float.

    Digits beyond the instrument's are rounded half to even. HistData writes six for a five-digit
    instrument; the sixth is a zero in what we have seen, but would be a true tenth of a point, and half a
    point must not always go the same way. Raises ValueError for anything but plain decimal notation (no
    sign, no exponent).
    """
    match = _PRICE.fullmatch(text)
    if match is None:
        raise ValueError(f"price {text[:24]!r} is not a plain decimal number")
    whole, fraction = match[1], match[2] or ""
    extra = len(fraction) - digits
    if extra <= 0:
        return int(whole + fraction + "0" * -extra)
    return _rounded_half_even(int(whole + fraction), 10**extra)


def _rounded_half_even(value: int, unit: int) -> int:
    quotient, rest = divmod(value, unit)
    doubled = 2 * rest
    return quotient + int(doubled > unit or (doubled == unit and quotient % 2 == 1))


def histdata_fields(line: str) -> TickFields:
    """`YYYYMMDD HHMMSSmmm,bid,ask,volume`; the volume is always 0 for currencies and is checked, not used."""
    time, bid, ask, volume = _split(line, 4, "time,bid,ask,volume")
    if not volume.isdigit():
        raise ValueError("the volume is not a whole number")
    match = _HISTDATA_TIME.fullmatch(time)
    if match is None:
        raise ValueError("the time is not YYYYMMDD HHMMSSmmm")
    return TickFields(None, _time_ms(match) - HISTDATA_UTC_OFFSET_MS, bid, ask)


def truefx_fields(line: str) -> TickFields:
    """`AAA/BBB,YYYYMMDD HH:MM:SS.mmm,bid,ask` in UTC."""
    symbol, time, bid, ask = _split(line, 4, "symbol,time,bid,ask")
    if _TRUEFX_SYMBOL.fullmatch(symbol) is None:
        raise ValueError("the symbol is not written AAA/BBB")
    match = _TRUEFX_TIME.fullmatch(time)
    if match is None:
        raise ValueError("the time is not YYYYMMDD HH:MM:SS.mmm")
    return TickFields(symbol, _time_ms(match), bid, ask)


def header_fields(line: str) -> TickFields:
    """`ISO 8601 time with zone,bid,ask`; what is finer than a millisecond is cut off."""
    time, bid, ask = _split(line, 3, "timestamp,bid,ask")
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        raise ValueError("the timestamp is not an ISO 8601 time") from None
    if moment.tzinfo is None:
        raise ValueError("the timestamp has no time zone (write +00:00 or Z for UTC)")
    return TickFields(None, (moment - EPOCH) // timedelta(milliseconds=1), bid, ask)


FIELDS_OF: dict[TickForm, Callable[[str], TickFields]] = {
    TickForm.HISTDATA: histdata_fields,
    TickForm.TRUEFX: truefx_fields,
    TickForm.HEADER: header_fields,
}
"""How a line of each form is taken apart; each raises ValueError with a reason."""


def _split(line: str, expected: int, names: str) -> list[str]:
    fields = line.split(",")
    if len(fields) != expected:
        raise ValueError(f"has {len(fields)} fields instead of {expected} ({names})")
    return fields


def _time_ms(match: re.Match[str]) -> int:
    date, hour, minute, second, millisecond = match.groups()
    hours, minutes, seconds = int(hour), int(minute), int(second)
    if hours > 23 or minutes > 59 or seconds > 59:
        raise ValueError(f"{hour}:{minute}:{second} is not a time of day")
    return _date_ms(date) + ((hours * 60 + minutes) * 60 + seconds) * 1000 + int(millisecond)


@lru_cache(maxsize=64)
def _date_ms(date: str) -> int:
    # Cached because a file has a million lines and a few dates.
    try:
        day = datetime(int(date[:4]), int(date[4:6]), int(date[6:]), tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{date} is not a date") from None
    return (day - EPOCH).days * DAY_MS
