"""What the client says about itself: one frozen object that metrics, tests and screens read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tradewind.client.cache import CacheStats
from tradewind.client.histogram import Latencies
from tradewind.client.meter import SlowCommand


@dataclass(frozen=True)
class NodeStats:
    """One node as this client sees it. Counts since the client was opened, unless they are states.

    What is timed is timed for a batch of commands, not for each: see `Meter`.
    """

    name: str
    role: str
    lanes: int
    dedicated: int
    dedicated_idle: int
    connections_max: int
    in_flight: int
    in_flight_max: int
    in_flight_bytes: int
    waiting: int
    waiting_bytes: int
    waiting_dedicated: int
    oldest_wait_s: float
    waits: int
    redirects: int
    dials: int
    dial_failures: int
    connections_lost: int
    reconnects: int
    last_error: str
    replies: Latencies
    line: Latencies
    durable: Latencies

    @property
    def connections(self) -> int:
        """Open connections of every kind."""
        return self.lanes + self.dedicated


@dataclass(frozen=True)
class ClientStats:
    """The whole client at one moment."""

    nodes: tuple[NodeStats, ...] = ()
    slots_covered: int = 0
    commands: int = 0
    redirects_moved: int = 0
    redirects_ask: int = 0
    retries: int = 0
    refreshes: int = 0
    delayed: int = 0
    parked: int = 0
    waits: int = 0
    replica_reads: int = 0
    held_back_reads: int = 0
    cache: CacheStats = field(default_factory=CacheStats)
    errors: Mapping[str, int] = field(default_factory=dict)
    loop_stalls: int = 0
    loop_stalled_s: float = 0.0
    slow: int = 0
    slow_commands: tuple[SlowCommand, ...] = ()

    @property
    def in_flight(self) -> int:
        """Commands sent, or about to be, over all nodes."""
        return sum(node.in_flight for node in self.nodes)

    @property
    def waiting(self) -> int:
        """Commands waiting for room, a connection, or a slot's owner."""
        return sum(node.waiting + node.waiting_dedicated for node in self.nodes) + self.delayed + self.parked

    @property
    def connections(self) -> Mapping[str, int]:
        """Open connections by node."""
        return {node.name: node.connections for node in self.nodes}
