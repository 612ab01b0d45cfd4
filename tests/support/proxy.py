"""A TCP proxy that does to a connection what networks do, in front of each server of a cluster.

One `FaultProxy` stands before one server. Its attributes may be changed at any time and hold from then on:

    delay_s          everything to the client comes so much later
    chunk_bytes      ... in pieces of this many bytes, one a turn of the loop
    gather_s         ... in few large pieces: what comes within this time is sent as one
    silent_down      nothing comes to the client any more; it is lost when the connection ends
    silent_up        nothing comes to the server any more
    lose_reply       called with each piece from the server; True loses it and resets the connection

`reset_all()` ends every connection with RST, `refuse` closes new ones at once.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import cast

HOST = "127.0.0.1"


class FaultProxy:
    """In front of one server; listens on `port` of its own."""

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.port = 0
        self.delay_s = 0.0
        self.chunk_bytes = 0
        self.gather_s = 0.0
        self.silent_down = False
        self.silent_up = False
        self.refuse = False
        self.lose_reply: Callable[[bytes], bool] = lambda _data: False
        self.connections_made = 0
        self.resets = 0
        self._links: set[_Link] = set()
        self._listener: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """Open ones."""
        return len(self._links)

    async def start(self) -> None:
        self._listener = await asyncio.get_running_loop().create_server(lambda: _Client(self), HOST, 0)
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
        """No more faults; connections that are silent go on with what comes from now."""
        self.delay_s = self.gather_s = 0.0
        self.chunk_bytes = 0
        self.silent_down = self.silent_up = self.refuse = False
        self.lose_reply = lambda _data: False

    def reset_all(self) -> None:
        for link in list(self._links):
            self.resets += 1
            link.reset()


class _Link:
    """One connection of a client, and the one to the server that it stands for."""

    def __init__(self, proxy: FaultProxy, client: asyncio.Transport) -> None:
        self.proxy = proxy
        self.client = client
        self.server: asyncio.Transport | None = None
        self.ended = asyncio.Event()
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

    def from_client(self, data: bytes) -> None:
        if self.proxy.silent_up:
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
        elif not proxy.silent_down:
            self._to_client += data
            self._send_later(max(proxy.delay_s, proxy.gather_s))

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
            self._send_later(0.0)

    def reset(self) -> None:
        """RST instead of FIN, and what was under way is gone."""
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
        self._link: _Link | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # of uvloop it is not an instance
        if self._proxy.refuse:
            transport.abort()
            return
        self._proxy.connections_made += 1
        self._link = _Link(self._proxy, transport)
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
    def __init__(self, link: _Link) -> None:
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

    def address_remap(self, address: tuple[str, int]) -> tuple[str, int]:
        proxy = self.proxies.get(address[1])
        return (HOST, proxy.port) if proxy is not None else address

    def heal(self) -> None:
        for proxy in self.proxies.values():
            proxy.heal()
