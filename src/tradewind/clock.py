"""The one place that reads the wall clock; everything else is handed the time, or measures with monotonic."""

import time


def now_ms() -> int:
    """Milliseconds since the Unix epoch. May step backwards: never measure a duration with it."""
    return time.time_ns() // 1_000_000
