"""What the client says about itself: one frozen object that metrics, tests and screens read."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class NodeStats:
    """One node as this client sees it. Counts since the client was made, unless they are states."""

    name: str
    role: str
    lanes: int
    dedicated: int
    connections_max: int
    in_flight: int
    in_flight_max: int
    in_flight_bytes: int
    waiting: int
    waiting_dedicated: int
    oldest_wait_s: float
    waits: int
    dials: int
    dial_failures: int
    connections_lost: int
    last_error: str

    @property
    def connections(self) -> int:
        """Open connections of every kind."""
        return self.lanes + self.dedicated


@dataclass(frozen=True)
class ClientStats:
    """The whole client at one moment."""

    nodes: tuple[NodeStats, ...]
    slots_covered: int
    commands: int
    redirects_moved: int
    redirects_ask: int
    retries: int
    refreshes: int
    delayed: int
    parked: int
    waits: int
    errors: Mapping[str, int] = field(default_factory=dict)

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
