"""Latencies in bounded memory: counts in buckets whose width is at most 1/32 of their value.

Log-linear, as HdrHistogram: each power of two of microseconds is cut into 32 equal buckets. Recording is a
few integer operations, because it happens for each order, and for each batch of replies.
"""

from dataclasses import dataclass
from typing import Final

_STEP_BITS: Final = 5
_EXACT: Final = 1 << (_STEP_BITS + 1)  # below this many microseconds a bucket is one microsecond
_BUCKETS: Final = 1024
LATENCY_US_MAX: Final = (1 << 36) - 1  # 19 hours: the last bucket holds all beyond
# What a summary counts in: a bucket for each power of two of microseconds, up to a minute and for all beyond.
SUMMARY_BOUNDS_S: Final = tuple((1 << _STEP_BITS << power) / 1_000_000 for power in range(22))


@dataclass(frozen=True)
class Latencies:
    """What was recorded up to a moment. `buckets` counts what lies below each of `SUMMARY_BOUNDS_S`, and not
    below the one before; the last is for all beyond them.
    """

    count: int = 0
    sum_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    buckets: tuple[int, ...] = (0,) * (len(SUMMARY_BOUNDS_S) + 1)


class LatencyHistogram:
    """Counts of latencies. Percentiles are upper edges of buckets: at most 3 % too high, never too low."""

    def __init__(self) -> None:
        self.count = 0
        self.max_us = 0
        self.sum_s = 0.0
        self._counts = [0] * _BUCKETS

    def record(self, latency_s: float) -> None:
        """Count one latency; a negative one counts as 0."""
        us = int(latency_s * 1_000_000)
        if us > self.max_us:
            self.max_us = us
        self.count += 1
        self.sum_s += latency_s
        self._counts[_bucket(us)] += 1

    def percentile_ms(self, percent: float) -> float:
        """The latency that `percent` of all did not exceed; 0 when there are none."""
        rank = max(1, -(-self.count * percent // 100))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= rank:
                return min(_upper_edge_us(bucket), self.max_us) / 1_000
        return 0.0

    @property
    def max_ms(self) -> float:
        return self.max_us / 1_000

    def summary(self) -> Latencies:
        """As of now. May be called from another thread."""
        if not self.count:
            return Latencies()
        counts, size = list(self._counts), 1 << _STEP_BITS
        powers = [sum(counts[start : start + size]) for start in range(0, _BUCKETS, size)]
        last = len(SUMMARY_BOUNDS_S)
        return Latencies(
            count=sum(powers),
            sum_s=self.sum_s,
            p50_ms=self.percentile_ms(50),
            p99_ms=self.percentile_ms(99),
            max_ms=self.max_ms,
            buckets=(*powers[:last], sum(powers[last:])),
        )

    def add(self, other: "LatencyHistogram") -> None:
        """Count all that `other` has counted."""
        self.count += other.count
        self.sum_s += other.sum_s
        self.max_us = max(self.max_us, other.max_us)
        self._counts = [mine + theirs for mine, theirs in zip(self._counts, other._counts, strict=True)]


def _bucket(us: int) -> int:
    if us < _EXACT:
        return max(us, 0)
    us = min(us, LATENCY_US_MAX)
    shift = us.bit_length() - _STEP_BITS - 1
    return (shift << _STEP_BITS) + (us >> shift)


def _upper_edge_us(bucket: int) -> int:
    if bucket < _EXACT:
        return bucket
    shift = (bucket >> _STEP_BITS) - 1
    return ((bucket - (shift << _STEP_BITS) + 1) << shift) - 1
