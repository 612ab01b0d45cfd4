"""A server that says what a test wants: for answers that a real one gives rarely or never."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, cast

import hiredis

HOST = "127.0.0.1"
Answer = Callable[[list[bytes]], bytes | None]
SILENCE = b""
HANG_UP = b"hang up"


def bulk(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return b"$%d\r\n%s\r\n" % (len(data), data)


def array(*items: bytes) -> bytes:
    return b"*%d\r\n%s" % (len(items), b"".join(items))


def integer(value: int) -> bytes:
    return b":%d\r\n" % value


def _flags(*names: str) -> bytes:
    return array(*(b"+" + name.encode() + b"\r\n" for name in names))


def _command(name: str, flag: str) -> bytes:
    """An entry of COMMAND for one key in the first place."""
    spec = array(
        bulk("flags"), _flags("RO" if flag == "readonly" else "RW"),
        bulk("begin_search"), array(bulk("type"), bulk("index"), bulk("spec"),
            array(bulk("index"), integer(1))),
        bulk("find_keys"), array(bulk("type"), bulk("range"), bulk("spec"),
            array(bulk("lastkey"), integer(0), bulk("keystep"), integer(1), bulk("limit"), integer(0))),
    )  # fmt: skip
    nothing = array()
    return array(
        bulk(name),
        integer(2),
        _flags(flag),
        integer(1),
        integer(1),
        integer(1),
        nothing,
        nothing,
        array(spec),
        nothing,
    )


COMMANDS = array(
    _command("get", "readonly"),
    _command("set", "write"),
    _command("incrby", "write"),
    _command("blpop", "blocking"),
    _command("watch", "readonly"),
)


class FakeServer:
    """Answers the handshake, COMMAND and CLUSTER SLOTS (all slots are its own) unless `answer` knows better.

    `answer(request)` returns the bytes of a reply, or None for the default, or SILENCE: no reply to this
    request nor to any behind it, or HANG_UP: the end of the connection. Replies come `think_s` late.
    """

    def __init__(self, answer: Answer = lambda _request: None) -> None:
        self.answer = answer
        self.think_s = 0.0
        self.port = 0
        self.requests: list[list[bytes]] = []
        self.connections_made = 0
        self._transports: set[asyncio.Transport] = set()
        self._listener: asyncio.Server | None = None

    async def __aenter__(self) -> "FakeServer":
        self._listener = await asyncio.get_running_loop().create_server(lambda: _Connection(self), HOST, 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        for _ in range(3):  # a connection that was being accepted is there by then
            await asyncio.sleep(0)
        self.drop_all()
        await self._listener.wait_closed()
        await asyncio.sleep(0)

    def drop_all(self) -> None:
        for transport in list(self._transports):
            transport.abort()

    def slots(self, *ranges: tuple[int, int, Any, int]) -> bytes:
        """A CLUSTER SLOTS reply of (first, last, host, port); host None is a null."""
        rows = ranges or ((0, 16383, HOST, self.port),)
        return array(
            *(
                array(
                    integer(first),
                    integer(last),
                    array(b"$-1\r\n" if host is None else bulk(host), integer(port), bulk("id"), array()),
                )
                for first, last, host, port in rows
            )
        )

    def reply(self, request: list[bytes]) -> bytes:
        self.requests.append(request)
        answer = self.answer(request)
        if answer is not None:
            return answer
        name = request[0].upper()
        if name == b"HELLO":
            return array(bulk("server"), bulk("fake"))
        if name == b"CLUSTER":
            return self.slots()
        return COMMANDS if name == b"COMMAND" else b"+OK\r\n"

    def count(self, name: bytes) -> int:
        return sum(request[0].upper() == name for request in self.requests)


class _Connection(asyncio.Protocol):
    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._silent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # of uvloop it is not an instance
        self._transport = transport
        self._server.connections_made += 1
        self._server._transports.add(transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._reader.feed(data)
        while (request := self._reader.gets()) is not False and not self._transport.is_closing():
            reply = self._server.reply(request)
            self._silent = self._silent or reply == SILENCE
            if reply == HANG_UP:
                self._transport.close()  # what was answered before still goes out
            elif self._silent:
                continue
            elif self._server.think_s:
                asyncio.get_running_loop().call_later(self._server.think_s, self._transport.write, reply)
            else:
                self._transport.write(reply)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._transport is not None:
            self._server._transports.discard(self._transport)
