"""How much one key may ask for, and one request: token buckets, and the bounds of the API."""

import time
from typing import Final

BODY_BYTES_MAX: Final = 1 << 20
BODY_BYTES_READ_MAX: Final = 4 << 20  # so much is read, to be able to say that it is too large
BULK_ORDERS_MAX: Final = 1_000
BODY_S_MAX: Final = 10.0
HEADER_S_MAX: Final = 10.0
ANSWER_S_MAX: Final = 10.0
READ_S_MAX: Final = 2.0
STATEMENT_S_MAX: Final = 10.0
STATEMENT_EVENTS_MAX: Final = 1_000_000  # of its partition, looked at
STATEMENT_LINES_MAX: Final = 10_000
PENDING_MAX: Final = 20_000
CONNECTIONS_MAX: Final = 4_096
BURST_S: Final = 2.0


class TokenBucket:
    """Allows `rate_per_s` a second, and what two seconds bring at once."""

    def __init__(self, rate_per_s: int, now_s: float | None = None) -> None:
        self.rate_per_s = rate_per_s
        self._level_max = rate_per_s * BURST_S
        self._level = self._level_max
        self._at_s = time.monotonic() if now_s is None else now_s

    def take(self, count: int, now_s: float | None = None) -> float:
        """Takes `count` and returns 0, or takes nothing and returns after how many seconds to ask again.

        More than the bucket ever holds is taken when it is full, and owed.
        """
        now_s = time.monotonic() if now_s is None else now_s
        self._level = min(self._level_max, self._level + (now_s - self._at_s) * self.rate_per_s)
        self._at_s = now_s
        needed = min(float(count), self._level_max)
        if self._level >= needed:
            self._level -= count
            return 0.0
        return (needed - self._level) / self.rate_per_s
