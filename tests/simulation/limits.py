"""Watches the client's limits in every turn of its loop, by the network's own count and by the client's."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.world import World

DEDICATED_DIALS_MAX = 4  # docs/limits.md
TURNS_BETWEEN_LOOKS = 25  # at the stats, which take long to make
ROW_MAX = 5  # what goes together goes when there is room for one: ASKING, MULTI, two commands, EXEC


class LimitsWatch:
    """Called when a turn of the loop has ended, and when a connection is begun."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.turns = 0
        self._broken = ""  # told when the turn has ended: the client may catch what is raised within
        self.connections_most = self.in_flight_most = self.waiting_most = 0

    def turn_ended(self) -> None:
        self.turns += 1
        if self._broken or self._world.ledger.breaches:
            self._world.fail(self._broken or self._world.ledger.breaches[0])
        if self.turns % TURNS_BETWEEN_LOOKS == 0:
            self.check_stats()

    def dialing(self, name: str) -> None:
        """The client has begun to open a connection."""
        world = self._world
        count = len(world.network.open_connections(name))
        self.connections_most = max(self.connections_most, count)
        if count > world.options["max_connections"]:
            self._broken = f"{count} connections to {name}, of at most {world.options['max_connections']}"
        if world.network.dialing[name] > DEDICATED_DIALS_MAX + world.options["lanes"]:
            self._broken = f"{world.network.dialing[name]} connections to {name} are being opened at once"

    def check_stats(self) -> None:
        """What the client says of itself stays within its limits."""
        world = self._world
        options = world.options
        stats = world.client.stats()
        for node in stats.nodes:
            if not 0 <= node.in_flight < options["in_flight_max"] + ROW_MAX:
                world.fail(
                    f"{node.in_flight} in flight at {node.name}, of at most {options['in_flight_max']}"
                )
            if not 0 <= node.in_flight_bytes <= options["in_flight_bytes_max"] + world.command_bytes_max:
                world.fail(f"{node.in_flight_bytes} bytes in flight at {node.name}")
            if node.lanes > options["lanes"] or node.connections > options["max_connections"]:
                world.fail(f"{node.lanes} lanes and {node.dedicated} dedicated connections at {node.name}")
            self.in_flight_most = max(self.in_flight_most, node.in_flight)
        self.waiting_most = max(self.waiting_most, stats.waiting)
