"""A TCP proxy that does to a connection what networks do, in front of each server of a cluster.

One `FaultProxy` stands before one server. Its attributes may be changed at any time and hold from then on:

    delay_s          everything to the client comes so much later
    chunk_bytes      ... in pieces of this many bytes, one a turn of the loop
    chunk_pause_s    ... or one in this time
    gather_s         ... in few large pieces: what comes within this time is sent as one
    silent_down      nothing comes to the client any more; a connection that lost something stays mute
    silent_up        nothing comes to the server any more; likewise
    lose_reply       called with each piece from the server; True loses it and resets the connection
    cut_reply_bytes  the next longer piece for a client is cut to so many bytes, then RST; happens once
    is_mute          called with each `Link`; True: nothing passes on it in either direction

`reset_all()` ends every connection with RST (`resets` counts those of clients), `refuse` closes new ones at
once, `inject()` says something that no server said, `mute_open_ones()` leaves the connections of now half
open for ever.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import cast

HOST = "127.0.0.1"
OPENING_BYTES = 256  # enough to know who speaks: a client, a replica, or another node's bus
RST_DELAY_S = 0.05  # after the last bytes, so that they arrive


class FaultProxy:
    """In front of one server; listens on `port` of its own, on `host`."""

    def __init__(self, server_port: int, host: str = HOST) -> None:
        self.server_port = server_port
        self.host = host
        self.port = 0
        self.delay_s = 0.0
        self.chunk_bytes = 0
        self.chunk_pause_s = 0.0
        self.gather_s = 0.0
        self.silent_down = False
        self.silent_up = False
        self.refuse = False
        self.lose_reply: Callable[[bytes], bool] = lambda _data: False
        self.cut_reply_bytes = 0
        self.is_mute: Callable[[Link], bool] = lambda _link: False
        self.connections_made = 0
        self.resets = 0
        self._links: set[Link] = set()
        self._listener: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """Open ones."""
        return len(self._links)

    async def start(self, port: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Client(self), self.host, port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for link in list(self._links):
            link.close()
            with contextlib.suppress(asyncio.CancelledError):
                await link.ended.wait()
        if self._listener is not None:
            await self._listener.wait_closed()
        await asyncio.sleep(0)

    def heal(self) -> None:
        """No more faults. Connections that lost something stay mute: none can go on without those bytes."""
        self.delay_s = self.gather_s = self.chunk_pause_s = 0.0
        self.chunk_bytes = 0
        self.silent_down = self.silent_up = self.refuse = False
        self.cut_reply_bytes = 0
        self.lose_reply = lambda _data: False
        self.is_mute = lambda _link: False

    def reset_all(self) -> None:
        for link in list(self._links):
            self.resets += not link.is_replication
            link.reset()

    def mute_open_ones(self) -> None:
        """They stay open and carry nothing any more; new ones work."""
        for link in self._links:
            link.mute = True

    def inject(self, data: bytes) -> None:
        """Say this to every client, between two pieces from the server."""
        for link in self._links:
            if not link.is_replication:
                link.client.write(data)


class Link:
    """One connection of a client, and the one to the server that it stands for."""

    def __init__(self, proxy: FaultProxy, client: asyncio.Transport) -> None:
        self.proxy = proxy
        self.client = client
        self.server: asyncio.Transport | None = None
        self.ended = asyncio.Event()
        self.opening = b""  # the first OPENING_BYTES from the client
        self.mute = False
        self._to_server = bytearray()
        self._to_client = bytearray()
        self._sending: asyncio.Handle | None = None
        self._dial = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: _Server(self), HOST, self.proxy.server_port
            )
        except OSError:
            self.close()
            return
        self.server = transport
        if self.client.is_closing():
            transport.abort()
        elif self._to_server:
            transport.write(bytes(self._to_server))
            self._to_server.clear()

    @property
    def is_replication(self) -> bool:
        """A replica's, whose primary announces the proxy."""
        return b"REPLCONF" in self.opening

    @property
    def is_dead(self) -> bool:
        return self.mute or self.proxy.is_mute(self)

    def from_client(self, data: bytes) -> None:
        if len(self.opening) < OPENING_BYTES:
            self.opening += data[:OPENING_BYTES]
        if self.proxy.silent_up or self.is_dead:
            self.mute = True
            return
        if self.server is None:
            self._to_server += data
        else:
            self.server.write(data)

    def from_server(self, data: bytes) -> None:
        proxy = self.proxy
        if proxy.lose_reply(data):
            proxy.resets += 1
            self.reset()
        elif 0 < proxy.cut_reply_bytes < len(data) and not self.is_replication:
            self._cut(data)
        elif proxy.silent_down or self.is_dead:
            self.mute = True
        else:
            self._to_client += data
            self._send_later(max(proxy.delay_s, proxy.gather_s))

    def _cut(self, data: bytes) -> None:
        proxy = self.proxy
        self.client.write(data[: proxy.cut_reply_bytes])
        proxy.cut_reply_bytes = 0
        proxy.resets += 1
        self.mute = True
        asyncio.get_running_loop().call_later(RST_DELAY_S, self.reset)

    def _send_later(self, delay_s: float) -> None:
        if self._sending is None:
            self._sending = asyncio.get_running_loop().call_later(delay_s, self._send)

    def _send(self) -> None:
        self._sending = None
        size = self.proxy.chunk_bytes or len(self._to_client)
        data = bytes(self._to_client[:size])
        del self._to_client[:size]
        if not self.client.is_closing():
            self.client.write(data)
        if self._to_client:
            self._send_later(self.proxy.chunk_pause_s)

    def reset(self) -> None:
        """RST instead of FIN, and what was under way is gone."""
        if self.client.is_closing():
            return
        sock = self.client.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._dial.cancel()
        if self._sending is not None:
            self._sending.cancel()
        self.client.abort()
        if self.server is not None:
            self.server.abort()


class _Client(asyncio.Protocol):
    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._link: Link | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # of uvloop it is not an instance
        if self._proxy.refuse:
            transport.abort()
            return
        self._proxy.connections_made += 1
        self._link = Link(self._proxy, transport)
        self._proxy._links.add(self._link)

    def data_received(self, data: bytes) -> None:
        if self._link is not None:
            self._link.from_client(data)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._link is not None:
            self._proxy._links.discard(self._link)
            self._link.close()
            self._link.ended.set()


class _Server(asyncio.Protocol):
    def __init__(self, link: Link) -> None:
        self._link = link

    def data_received(self, data: bytes) -> None:
        self._link.from_server(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self._link.client.close()


class ProxiedCluster:
    """A proxy before each server; `address_remap` sends a client through them."""

    def __init__(self, server_ports: Iterable[int]) -> None:
        self.proxies = {port: FaultProxy(port) for port in server_ports}

    async def __aenter__(self) -> "ProxiedCluster":
        for proxy in self.proxies.values():
            await proxy.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self.proxies.values():
            await proxy.stop()

    def __iter__(self) -> "Iterable[FaultProxy]":  # type: ignore[override]
        return iter(self.proxies.values())

    @property
    def port(self) -> int:
        """Of the first proxy: a client finds the others through it."""
        return next(iter(self.proxies.values())).port

    @property
    def resets(self) -> int:
        return sum(proxy.resets for proxy in self.proxies.values())

    @property
    def connections_made(self) -> int:
        return sum(proxy.connections_made for proxy in self.proxies.values())

    def on_port(self, port: int) -> FaultProxy:
        """The proxy that listens there."""
        return next(proxy for proxy in self.proxies.values() if proxy.port == port)

    def address_remap(self, address: tuple[str, int]) -> tuple[str, int]:
        proxy = self.proxies.get(address[1])
        return (HOST, proxy.port) if proxy is not None else address

    def heal(self) -> None:
        for proxy in self.proxies.values():
            proxy.heal()
