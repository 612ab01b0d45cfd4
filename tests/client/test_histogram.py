import random

import pytest

from tradewind.client.histogram import LATENCY_US_MAX, LatencyHistogram


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 99.9, 100])
def test_percentiles_are_within_three_percent_and_never_too_low(percent):
    rng = random.Random(7)
    latencies = sorted(rng.lognormvariate(-4, 2) for _ in range(20_000))
    histogram = LatencyHistogram()
    for latency in latencies:
        histogram.record(latency)
    exact_ms = latencies[max(0, int(-(-len(latencies) * percent // 100)) - 1)] * 1_000
    assert exact_ms - 0.001 <= histogram.percentile_ms(percent) <= exact_ms * 1.032 + 0.002


def test_every_microsecond_up_to_the_largest_has_a_bucket():
    histogram = LatencyHistogram()
    for bits in range(40):
        for us in (2**bits - 1, 2**bits, 2**bits + 1):
            histogram.record(us / 1_000_000)
    histogram.record(-1)
    assert histogram.count == 121
    assert histogram.percentile_ms(100) <= LATENCY_US_MAX / 1_000 * 16


def test_empty():
    assert LatencyHistogram().percentile_ms(50) == 0
    assert LatencyHistogram().max_ms == 0


def test_add_is_as_if_recorded_in_one():
    one, two, both = LatencyHistogram(), LatencyHistogram(), LatencyHistogram()
    for n in range(1_000):
        (one if n % 3 else two).record(n / 1_000)
        both.record(n / 1_000)
    one.add(two)
    assert one.count == both.count
    assert one.max_ms == both.max_ms == 999
    assert one.percentile_ms(50) == both.percentile_ms(50)
