"""A cluster whose servers announce fault proxies: whoever asks it for a way is sent through them.

Clients and replicas come through the proxies in `network`, and with `bus=True` the nodes' gossip through
those in `buses`, so that a node can be cut off from the others as by a broken switch.
"""

import re
from types import TracebackType

from tests.conftest import EmbeddedCluster
from tests.support.proxy import FaultProxy, Link, ProxiedCluster
from tests.support.waiting import eventually
from tradewind.embedded.ports import BUS_PORT_OFFSET
from tradewind.embedded.survey import Admin

GOSSIP_S_MAX = 20.0  # until every node has heard the new ports; half a node timeout as a rule
ANNOUNCED = re.compile(r":(\d+)@(\d+)")
# A message of the bus names its sender: signature, length, version, port, type, count and two epochs before.
SENDER = slice(40, 80)


class AnnouncedCluster:
    """`async with` it; the servers' own ports come back at the end.

    Inside it the cluster is ready: who heard of a new port has connected anew, for replication as well.
    """

    def __init__(self, cluster: EmbeddedCluster, *, bus: bool = False) -> None:
        self.cluster = cluster
        ports = [node.port for node in cluster.nodes]
        self.network = ProxiedCluster(ports)
        self.buses = {port: FaultProxy(port + BUS_PORT_OFFSET) for port in ports} if bus else {}
        self._ids: dict[int, bytes] = {}

    @property
    def port(self) -> int:
        """For a client: that of the first proxy."""
        return self.network.port

    def proxy_of(self, port: int) -> FaultProxy:
        """The proxy that listens on `port`, as the client names its node."""
        return self.network.on_port(port)

    def real_port(self, port: int) -> int:
        """The server's own, behind the proxy on `port`."""
        return self.proxy_of(port).server_port

    async def __aenter__(self) -> "AnnouncedCluster":
        await self.network.__aenter__()
        for bus in self.buses.values():
            await bus.start()
        for port, proxy in self.network.proxies.items():
            async with Admin(port) as admin:
                self._ids[port] = (await admin.ask("CLUSTER", "MYID")).encode()
            await self._announce(port, proxy.port, self.buses[port].port if self.buses else 0)
        await eventually(self._is_announced, GOSSIP_S_MAX)
        await self.cluster.wait_until_ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.network.heal()
        for bus in self.buses.values():
            bus.heal()
        for port in self.network.proxies:
            await self._announce(port, 0, 0)
        await eventually(self._is_plain, GOSSIP_S_MAX)
        await self.cluster.wait_until_ready()
        for bus in self.buses.values():
            await bus.stop()
        await self.network.__aexit__(kind, error, trace)

    async def _announce(self, port: int, client_port: int, bus_port: int) -> None:
        async with Admin(port) as admin:
            await admin.ask("CONFIG", "SET", "cluster-announce-port", client_port)
            await admin.ask("CONFIG", "SET", "cluster-announce-bus-port", bus_port)

    async def _is_announced(self) -> bool:
        return await self._all_see(
            {
                (proxy.port, self.buses[port].port if self.buses else port + BUS_PORT_OFFSET)
                for port, proxy in self.network.proxies.items()
            }
        )

    async def _is_plain(self) -> bool:
        return await self._all_see({(port, port + BUS_PORT_OFFSET) for port in self.network.proxies})

    async def _all_see(self, wanted: set[tuple[int, int]]) -> bool:
        for port in self.network.proxies:
            async with Admin(port) as admin:
                seen = ANNOUNCED.findall(await admin.ask("CLUSTER", "NODES"))
            if {(int(client), int(bus)) for client, bus in seen} != wanted:
                return False
        return True

    def cut_off(self, port: int) -> None:
        """No gossip and no replication between the server on this (real) port and all others, either way.

        Clients still reach it.
        """
        alone = self._ids[port]
        for target, bus in self.buses.items():
            bus.is_mute = lambda link, target=target: (link.opening[SENDER] == alone) != (target == port)
        for target, proxy in self.network.proxies.items():
            proxy.is_mute = _is_replication if target == port else _is_nobody

    def silence_all_but(self, port: int) -> None:
        """Clients reach no other server than the one on this (real) port: they are on its side."""
        for target, proxy in self.network.proxies.items():
            proxy.silent_down = proxy.silent_up = target != port

    def mend(self) -> None:
        """Everybody hears everybody again; what was lost on a connection ended it."""
        for proxy in (*self.buses.values(), *self.network.proxies.values()):
            proxy.heal()
            proxy.reset_all()


def _is_replication(link: Link) -> bool:
    return link.is_replication


def _is_nobody(_link: Link) -> bool:
    return False
