"""Prometheus: a collector that reads `stats()` whenever it is scraped. Needs `tradewind[prometheus]`."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from tradewind.client.histogram import SUMMARY_BOUNDS_S
from tradewind.client.metrics import DISTRIBUTIONS, METRICS, Distribution, Kind, Metric
from tradewind.client.stats import ClientStats

PREFIX = "tradewind_client_"


class HasStats(Protocol):
    """A client."""

    def stats(self) -> ClientStats:
        """See `ClientStats`."""


class PrometheusCollector(Collector):
    """`REGISTRY.register(PrometheusCollector(client))`; `name` tells several clients of one process apart.

    Costs nothing between scrapes. It may be scraped in another thread than the client's.
    """

    def __init__(self, client: HasStats, name: str = "default") -> None:
        self._client = client
        self._name = name

    def collect(self) -> Iterator[Family]:
        """All metrics of one moment."""
        stats = self._client.stats()
        for metric in METRICS:
            yield self._family(metric, stats)
        for distribution in DISTRIBUTIONS:
            yield self._histogram(distribution, stats)

    def describe(self) -> Iterator[Family]:
        """Names alone, so that registering asks no client."""
        for metric in METRICS:
            yield self._family(metric, ClientStats())
        for distribution in DISTRIBUTIONS:
            yield self._histogram(distribution, ClientStats())

    def _family(self, metric: Metric, stats: ClientStats) -> Family:
        make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
        labels = ("client", *metric.labels)
        family = make(PREFIX + metric.name, metric.meaning, labels=labels)
        for values, value in metric.read(stats):
            family.add_metric([self._name, *(values[label] for label in metric.labels)], value)
        return family

    def _histogram(self, distribution: Distribution, stats: ClientStats) -> Family:
        name = PREFIX + distribution.name
        family = HistogramMetricFamily(name, distribution.meaning, labels=("client", "node"))
        bounds = [*map(str, SUMMARY_BOUNDS_S), "+Inf"]
        for node in stats.nodes:
            latencies = distribution.read(node)
            buckets = list(zip(bounds, accumulate(latencies.buckets), strict=True))
            family.add_metric([self._name, node.name], buckets=buckets, sum_value=latencies.sum_s)
        return family
