"""The table of metrics: what of `stats()` is worth a chart, by one name for Prometheus and OpenTelemetry."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from tradewind.client.histogram import Latencies
from tradewind.client.stats import ClientStats, NodeStats

Sample = tuple[Mapping[str, str], float]  # labels, value


class Kind(Enum):
    """What a value is."""

    GAUGE = "a state"
    COUNTER = "so far; never less"


@dataclass(frozen=True)
class Metric:
    """One name, and its samples at a moment. `unit` is of UCUM, as OpenTelemetry wants it."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[str, ...]
    read: Callable[[ClientStats], Iterable[Sample]]


@dataclass(frozen=True)
class Distribution:
    """What took how long at each node, in seconds."""

    name: str
    meaning: str
    read: Callable[[NodeStats], Latencies]


def _of_node(name: str, kind: Kind, unit: str, meaning: str, read: Callable[[NodeStats], float]) -> Metric:
    def samples(stats: ClientStats) -> Iterator[Sample]:
        for node in stats.nodes:
            yield {"node": node.name}, read(node)

    return Metric(name, kind, unit, meaning, ("node",), samples)


def _of_client(
    name: str, kind: Kind, unit: str, meaning: str, read: Callable[[ClientStats], float]
) -> Metric:
    return Metric(name, kind, unit, meaning, (), lambda stats: [({}, read(stats))])


def _connections(stats: ClientStats) -> Iterator[Sample]:
    for node in stats.nodes:
        yield {"node": node.name, "kind": "lane"}, node.lanes
        yield {"node": node.name, "kind": "dedicated"}, node.dedicated


def _waiting(stats: ClientStats) -> Iterator[Sample]:
    for node in stats.nodes:
        yield {"node": node.name, "kind": "room"}, node.waiting
        yield {"node": node.name, "kind": "dedicated"}, node.waiting_dedicated


def _errors(stats: ClientStats) -> Iterator[Sample]:
    for name, count in stats.errors.items():
        yield {"error": name}, count


# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("connections", Kind.GAUGE, "{connection}", "open connections", ("node", "kind"), _connections),
    _of_node("connections_max", Kind.GAUGE, "{connection}", "their cap", lambda n: n.connections_max),
    _of_node("in_flight", Kind.GAUGE, "{command}", "sent and not answered", lambda n: n.in_flight),
    _of_node("in_flight_bytes", Kind.GAUGE, "By", "their bytes", lambda n: n.in_flight_bytes),
    Metric("waiting", Kind.GAUGE, "{command}", "in line", ("node", "kind"), _waiting),
    _of_node("waiting_bytes", Kind.GAUGE, "By", "bytes in line for room", lambda n: n.waiting_bytes),
    _of_node("oldest_wait_seconds", Kind.GAUGE, "s", "the longest wait now", lambda n: n.oldest_wait_s),
    _of_node("waits", Kind.COUNTER, "{command}", "had to wait", lambda n: n.waits),
    _of_node("redirects", Kind.COUNTER, "{redirect}", "answered by the node", lambda n: n.redirects),
    _of_node("dials", Kind.COUNTER, "{connection}", "begun to be made", lambda n: n.dials),
    _of_node("dial_failures", Kind.COUNTER, "{connection}", "not made", lambda n: n.dial_failures),
    _of_node("connections_lost", Kind.COUNTER, "{connection}", "ended", lambda n: n.connections_lost),
    _of_node("reconnects", Kind.COUNTER, "{connection}", "in place of lost ones", lambda n: n.reconnects),
    _of_client("commands", Kind.COUNTER, "{command}", "called", lambda s: s.commands),
    _of_client("retries", Kind.COUNTER, "{command}", "tried again", lambda s: s.retries),
    _of_client("delayed", Kind.GAUGE, "{command}", "between two tries", lambda s: s.delayed),
    _of_client("parked", Kind.GAUGE, "{command}", "their slot has no owner", lambda s: s.parked),
    _of_client("refreshes", Kind.COUNTER, "{refresh}", "of the slot map", lambda s: s.refreshes),
    _of_client("replica_reads", Kind.COUNTER, "{command}", "sent to replicas", lambda s: s.replica_reads),
    _of_client("held_back_reads", Kind.COUNTER, "{command}", "by primaries", lambda s: s.held_back_reads),
    _of_client("cache_entries", Kind.GAUGE, "{reply}", "kept in memory", lambda s: s.cache.entries),
    _of_client("cache_bytes", Kind.GAUGE, "By", "their bytes", lambda s: s.cache.bytes),
    _of_client("cache_hits", Kind.COUNTER, "{command}", "answered from memory", lambda s: s.cache.hits),
    _of_client("cache_misses", Kind.COUNTER, "{command}", "asked of a server", lambda s: s.cache.misses),
    _of_client("cache_evictions", Kind.COUNTER, "{reply}", "dropped for room", lambda s: s.cache.evictions),
    _of_client("cache_invalidations", Kind.COUNTER, "{reply}", "outdated", lambda s: s.cache.invalidations),
    _of_client("slots_covered", Kind.GAUGE, "{slot}", "with an owner", lambda s: s.slots_covered),
    Metric("errors", Kind.COUNTER, "{error}", "by class", ("error",), _errors),
    _of_client("slow_commands", Kind.COUNTER, "{command}", "took too long", lambda s: s.slow),
    _of_client("loop_stalls", Kind.COUNTER, "{stall}", "of the event loop", lambda s: s.loop_stalls),
    _of_client("loop_stalled_seconds", Kind.COUNTER, "s", "in all", lambda s: s.loop_stalled_s),
)
DISTRIBUTIONS: tuple[Distribution, ...] = (
    Distribution("reply_seconds", "from writing a batch to its last reply", lambda n: n.replies),
    Distribution("line_seconds", "in line, the first of those let in together", lambda n: n.line),
    Distribution("durable_seconds", "from writing a durable batch to its barrier", lambda n: n.durable),
)
# fmt: on
