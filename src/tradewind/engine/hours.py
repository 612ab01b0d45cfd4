"""When an instrument is traded: spans of the week, in UTC. Nothing is traded outside them."""

import re
from typing import Final

import msgspec

from tradewind.engine.messages import Why

ALWAYS: Final = "always"
SPANS_MAX: Final = 28
"""Four a day."""

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_PER_DAY: Final = 24 * 60
MINUTES_PER_WEEK: Final = 7 * MINUTES_PER_DAY

_MINUTE_MS: Final = 60_000
_EPOCH_MINUTE: Final = DAYS.index("thu") * MINUTES_PER_DAY  # 1970 began on a Thursday
_SPAN: Final = re.compile(r"({0}) (\d\d):(\d\d)-(?:({0}) )?(\d\d):(\d\d)".format("|".join(DAYS)), re.ASCII)


class HoursRuling(msgspec.Struct, frozen=True, omit_defaults=True):
    """The hours of a symbol as they are kept: in words, why they were set, and when."""

    hours: str = ALWAYS
    why: Why = ""
    at_ms: int = 0


class Hours(msgspec.Struct, frozen=True):
    """`spans`: minutes of the week from Monday on, each from the first up to the last and without it.

    Without a span it is never open. `text` is for people.
    """

    text: str
    spans: tuple[tuple[int, int], ...]

    def is_open(self, now_ms: int) -> bool:
        minute = minute_of_week(now_ms)
        return any(opens <= minute < closes for opens, closes in self.spans)

    def words(self, now_ms: int) -> str:
        """For who comes outside the hours: them, the time, and when trading begins."""
        minute = minute_of_week(now_ms)
        waits = [(opens - minute) % MINUTES_PER_WEEK for opens, _ in self.spans]
        opening = f", and it opens {_clock(minute + min(waits))}" if waits else ""
        return f"{self.text} UTC; it is {_clock(minute)}{opening}"


NEVER: Final = Hours("at no time: the hours in the cluster cannot be read", ())


def minute_of_week(now_ms: int) -> int:
    """0 is Monday 00:00 UTC."""
    return (now_ms // _MINUTE_MS + _EPOCH_MINUTE) % MINUTES_PER_WEEK


def parse_hours(text: str) -> Hours | None:
    """`mon 00:00-fri 22:00`, several with commas; a span may run past the end of the week, and end without
    a day on the one that it begins. None: `always`.

    :raises ValueError: it is written otherwise
    """
    if text == ALWAYS:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > SPANS_MAX:
        raise ValueError(f"{len(parts)} spans are more than {SPANS_MAX}")
    spans = [span for part in parts for span in _spans(part)]
    return Hours(", ".join(parts), tuple(sorted(spans)))


def _spans(part: str) -> list[tuple[int, int]]:
    """One, or two where it runs past the end of the week."""
    found = _SPAN.fullmatch(part)
    if found is None:
        raise ValueError(f"{part!r}: write `mon 00:00-fri 22:00`, or `{ALWAYS}`")
    day, hour, minute, last_day, last_hour, last_minute = found.groups()
    opens, closes = _minute(day, hour, minute), _minute(last_day or day, last_hour, last_minute)
    if opens in (MINUTES_PER_WEEK, closes) or (last_day is None and closes < opens):
        raise ValueError(f"{part!r} ends before it begins, or as it begins: name the day of both")
    if opens < closes:
        return [(opens, closes)]
    return [(opens, MINUTES_PER_WEEK)] + ([(0, closes)] if closes else [])


def _minute(day: str, hour: str, minute: str) -> int:
    of_day = int(hour) * 60 + int(minute)
    if of_day > MINUTES_PER_DAY or int(minute) > 59:
        raise ValueError(f"{hour}:{minute} is no time: write 00:00 to 24:00")
    return DAYS.index(day) * MINUTES_PER_DAY + of_day


def _clock(minute: int) -> str:
    day, of_day = divmod(minute % MINUTES_PER_WEEK, MINUTES_PER_DAY)
    return f"{DAYS[day]} {of_day // 60:02d}:{of_day % 60:02d}"
