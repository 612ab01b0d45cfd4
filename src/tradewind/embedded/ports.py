"""Free loopback ports for cluster nodes: each needs its port and the bus port 10,000 above it."""

import random
import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack

from tradewind.embedded.errors import ClusterStartFailed

HOST = "127.0.0.1"
BUS_PORT_OFFSET = 10_000

# Both ports of a pair stay below 32768, where Linux begins to hand out ports to outgoing
# connections: one of those could take a port between our look and the server's bind.
PORT_FIRST = 11_000
PORT_LAST = 22_700


def free_ports(count: int, excluded: Collection[int] = ()) -> list[int]:
    """`count` ports that are free together with their bus ports, from a random place in the range.

    :raises ClusterStartFailed: the range has no `count` free pairs
    """
    with ExitStack() as held:
        ports = []
        for port in _candidates():
            if port not in excluded and _hold_pair(port, held):
                ports.append(port)
            if len(ports) == count:
                return ports
    raise ClusterStartFailed(
        f"only {len(ports)} of {count} ports free between {PORT_FIRST} and {PORT_LAST} "
        f"with their bus ports {BUS_PORT_OFFSET} above: stop what listens there"
    )


def is_free(port: int) -> bool:
    """Whether a server could now listen on `port` and its bus port."""
    with ExitStack() as held:
        return _hold_pair(port, held)


def _candidates() -> Iterator[int]:
    """Every port of the range once, from a random start: clusters started together seldom collide."""
    size = PORT_LAST - PORT_FIRST + 1
    start = random.SystemRandom().randrange(size)
    return (PORT_FIRST + (start + step) % size for step in range(size))


def _hold_pair(port: int, held: ExitStack) -> bool:
    """Bind both ports into `held`, so that one look never hands out the same port twice."""
    with ExitStack() as attempt:
        for number in (port, port + BUS_PORT_OFFSET):
            listener = attempt.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            # As the servers do: a port whose old connections are in TIME_WAIT is free.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, number))
                listener.listen(1)
            except OSError:
                return False
        held.push(attempt.pop_all())
    return True
