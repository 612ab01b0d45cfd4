"""Connections in memory, that do what connections do: delay, split, merge, hold back, reset, say nothing.

A `Link` is one connection. Its client end is an asyncio transport; its server end is whoever `accept` gives.
Bytes go through two `Pipe`s, in order, at the pace of the server's `Weather`.
"""

import asyncio
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

from tests.simulation.clock_loop import ClockLoop, Outside

NEVER_S = float("inf")
REFUSED = "refused"
EOF = b""


@dataclass
class Weather:
    """How the network to one server behaves. Faults change it; it holds for what is sent from then on."""

    latency_s_min: float = 0.0001
    latency_s_max: float = 0.001
    chunk_bytes_max: int = 65536  # what travels together
    read_bytes_max: int = 262144  # what the process reads at once
    window_bytes: int = 65536  # what a server that does not read lets on its way
    silent_until_s: float = 0.0  # nothing arrives, in either direction


class ServerEnd(Protocol):
    """The server's side of a connection."""

    def receive(self, data: bytes) -> None:
        """Bytes have arrived; `Link.consumed` tells the client's side that they have been read."""

    def closed(self) -> None:
        """The client has closed the connection, or it was cut."""


class Pipe:
    """One direction of a connection: chunks arrive in order, each after its latency."""

    def __init__(
        self, outside: Outside, dice: random.Random, weather: Weather, deliver: Callable[[bytes], None]
    ) -> None:
        self._outside, self._dice, self._weather, self._deliver = outside, dice, weather, deliver
        self.last_arrival_s = 0.0
        self._is_cut = False
        self._held: list[bytes] = []

    def send(self, data: bytes) -> None:
        """`EOF` arrives behind everything else."""
        position = 0
        while position < len(data) or data == EOF:
            size = self._dice.randint(1, self._weather.chunk_bytes_max)
            latency_s = self._dice.uniform(self._weather.latency_s_min, self._weather.latency_s_max)
            self.last_arrival_s = max(self.last_arrival_s, self._outside.now_s + latency_s)
            self._outside.at(self.last_arrival_s, self._arrive, data[position : position + size])
            position += size
            if data == EOF:
                return

    def cut(self) -> None:
        """What is on its way does not arrive."""
        self._is_cut = True

    def _arrive(self, chunk: bytes) -> None:
        self._held.append(chunk)
        if len(self._held) == 1:
            self._release()

    def _release(self) -> None:
        """Deliver what has come, or hold it back until the silence is over."""
        silent_until_s = self._weather.silent_until_s
        if silent_until_s == NEVER_S:
            self._is_cut = True  # a network that never comes back has dropped it
        elif silent_until_s > self._outside.now_s:
            self._outside.at(silent_until_s, self._release)
            return
        chunks, self._held = self._held, []
        for chunk in chunks:
            if not self._is_cut:
                self._deliver(chunk)


class ClientTransport(asyncio.Transport):
    """The client's end, as asyncio's socket transport: what it cannot send at once it keeps."""

    HIGH_WATER_BYTES = 65536

    def __init__(self, loop: ClockLoop, protocol: Any, link: "Link") -> None:
        super().__init__({"socket": SimpleNamespace(family=socket.AF_UNIX)})
        self._loop, self._protocol, self._link = loop, protocol, link
        self._kept = bytearray()
        self._received = bytearray()
        self._end: Exception | None = None
        self._at_end = False
        self._closing = False
        self._paused = False
        self._read_arranged = False

    def get_protocol(self) -> Any:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return len(self._kept)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        self._kept += data
        self._push()
        if len(self._kept) > self.HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def abort(self) -> None:
        self._close(None)

    def close(self) -> None:
        self._close(None)

    def _close(self, error: Exception | None) -> None:
        if self._closing:
            return
        self._closing = True
        self._kept.clear()
        self._link.client_closed()
        self._loop.call_soon(self._protocol.connection_lost, error)

    # -- called from outside ---------------------------------------------------------------------------------

    def room(self) -> None:
        """The server has read something."""
        self._loop.outside.wake(self._loop, self._writable)

    def arrived(self, data: bytes) -> None:
        self._received += data
        if data == EOF:
            self._at_end = True
        self._arrange_read()

    def reset(self, error: Exception) -> None:
        """The end, behind what has arrived."""
        self._end, self._at_end = error, True
        self._arrange_read()

    # -- in turns of the loop --------------------------------------------------------------------------------

    def _push(self) -> None:
        size = min(len(self._kept), self._link.window_left)
        if size > 0:
            self._link.to_server(bytes(self._kept[:size]))
            del self._kept[:size]

    def _writable(self) -> None:
        if self._closing:
            return
        self._push()
        if self._paused and len(self._kept) <= self.HIGH_WATER_BYTES // 4:
            self._paused = False
            self._protocol.resume_writing()

    def _arrange_read(self) -> None:
        if not self._read_arranged and not self._closing:
            self._read_arranged = True
            self._loop.outside.wake(self._loop, self._read)

    def _read(self) -> None:
        self._read_arranged = False
        if self._closing:
            return
        if self._received:
            size = self._link.read_bytes()
            data = bytes(self._received[:size])
            del self._received[:size]
            self._link.around_reading()
            self._protocol.data_received(data)
            self._link.around_reading()
            if self._received or self._at_end:
                self._arrange_read()
        elif self._at_end:
            self._close(self._end)


class Link:
    """One connection, from the dial to its end."""

    def __init__(self, network: "Network", name: str, weather: Weather) -> None:
        self.name = name
        self.transport: ClientTransport | None = None
        self.server_end: ServerEnd | None = None
        self.was_accepted = False
        self._network = network
        self._weather = weather
        self._unread_bytes = 0
        self._dice = network.dice
        self._up = Pipe(network.outside, network.dice, weather, self._at_server)
        self._down = Pipe(network.outside, network.dice, weather, self._at_client)
        self._client_open = True

    @property
    def window_left(self) -> int:
        return self._weather.window_bytes - self._unread_bytes

    def take(self, accept: "Callable[[Link], ServerEnd | None]", answered_s: float) -> None:
        """The server's kernel accepts or refuses; what the server says at once arrives behind that."""
        self._down.last_arrival_s = answered_s
        self.server_end = accept(self)
        self.was_accepted = self.server_end is not None

    def latency_s(self) -> float:
        return self._dice.uniform(self._weather.latency_s_min, self._weather.latency_s_max)

    def read_bytes(self) -> int:
        return self._dice.randint(1, self._weather.read_bytes_max)

    def around_reading(self) -> None:
        """The process reads from the connection in this turn of its loop."""
        self._network.on_reading()

    def to_server(self, data: bytes) -> None:
        self._unread_bytes += len(data)
        self._up.send(data)

    def to_client(self, data: bytes) -> None:
        self._down.send(data)

    def consumed(self, size: int) -> None:
        self._unread_bytes -= size
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.transport.room()

    def client_closed(self) -> None:
        """What was sent before still arrives."""
        if self._client_open:
            self._client_open = False
            self._network.open_links.pop(self, None)
            self._down.cut()
            self._up.send(EOF)

    def server_closed(self) -> None:
        """In order: what was sent before still arrives."""
        self.server_end = None
        self._down.send(EOF)

    def reset(self) -> None:
        """What is on its way is lost, in both directions."""
        self._up.cut()
        self._down.cut()
        end, self.server_end = self.server_end, None
        if end is not None:
            end.closed()
        if self.transport is not None and self._client_open:
            self.transport.reset(ConnectionResetError(104, "Connection reset by peer"))

    def _at_server(self, chunk: bytes) -> None:
        end = self.server_end
        if end is None:
            self.reset()  # as TCP answers bytes for a connection that it does not know
        elif chunk == EOF:
            self.server_end = None
            end.closed()
        else:
            end.receive(chunk)

    def _at_client(self, chunk: bytes) -> None:
        if self.transport is not None and self._client_open:
            self.transport.arrived(chunk)


class Network:
    """Makes connections. `listeners` says who is at an address: its weather, and who takes the connection.

    The latter returns the server's end, or None to refuse.
    """

    def __init__(self, loop: ClockLoop, dice: random.Random) -> None:
        self.loop, self.outside, self.dice = loop, loop.outside, dice
        self.listeners: dict[str, tuple[Weather, Callable[[Link], ServerEnd | None]]] = {}
        self.open_links: dict[Link, None] = {}  # also those being opened
        self.dialing: dict[str, int] = {}
        self.on_reading: Callable[[], None] = lambda: None
        self.on_dial: Callable[[str], None] = lambda _name: None

    def open_connections(self, name: str) -> list[Link]:
        """The client's connections to one server, also those being opened."""
        return [link for link in self.open_links if link.name == name]

    async def connect(self, protocol_factory: Callable[[], Any], host: str, port: int) -> Any:
        """`loop.create_connection`."""
        name = f"{host}:{port}"
        if name not in self.listeners:
            raise ConnectionRefusedError(111, f"Connect call failed {name}: nobody was ever there")
        link = Link(self, name, self.listeners[name][0])
        opened: asyncio.Future[None] = self.loop.create_future()
        self.open_links[link] = None
        self.dialing[name] = self.dialing.get(name, 0) + 1
        self.on_dial(name)
        self.outside.after(link.latency_s(), self._dialed, link, protocol_factory, opened)
        try:
            await opened
        except BaseException:
            link.client_closed()
            raise
        finally:
            self.dialing[name] -= 1
        assert link.transport is not None
        return link.transport, link.transport.get_protocol()

    def _dialed(
        self, link: Link, protocol_factory: Callable[[], Any], opened: "asyncio.Future[None]"
    ) -> None:
        """The first packet reaches the server, or comes again when the network is back."""
        weather, accept = self.listeners[link.name]
        if weather.silent_until_s > self.outside.now_s:
            if weather.silent_until_s < NEVER_S:
                self.outside.at(weather.silent_until_s, self._dialed, link, protocol_factory, opened)
            return
        if opened.done():
            return
        answered_s = self.outside.now_s + link.latency_s()
        self.outside.at(answered_s, self._answered, link, protocol_factory, opened)
        link.take(accept, answered_s)

    def _answered(
        self, link: Link, protocol_factory: Callable[[], Any], opened: "asyncio.Future[None]"
    ) -> None:
        if opened.done():
            return
        if not link.was_accepted:
            self.outside.wake(self.loop, lambda: _refuse(opened))
            return
        link.transport = ClientTransport(self.loop, protocol_factory(), link)
        self.outside.wake(self.loop, lambda: _establish(link, opened))


def _refuse(opened: "asyncio.Future[None]") -> None:
    if not opened.done():
        opened.set_exception(ConnectionRefusedError(111, "Connection refused"))


def _establish(link: Link, opened: "asyncio.Future[None]") -> None:
    if not opened.done():
        assert link.transport is not None
        link.transport.get_protocol().connection_made(link.transport)
        opened.set_result(None)
