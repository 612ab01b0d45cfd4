"""A small FIX 4.4 acceptor of our own: a provider that can misbehave in every way that the tests need.

It knows nothing of the session under test: its own numbers, its own store of sent messages, its own reading
of the bytes. Dials: `lose` swallows messages it should send (their numbers are used), `twice` sends them
again, `deaf` swallows what it gets, `cut_inside` ends the connection in the middle of the next message.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import simplefix

SENDER, TARGET = "DEALER", "TRADEWIND"
HEADER = ((43, "Y"),)

Message = dict[int, str]


@dataclass
class Book:
    """What it has been asked to do, over all connections: each order once, or somebody traded twice."""

    orders: dict[str, Message] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)
    filled: dict[str, int] = field(default_factory=dict)
    canceled: set[str] = field(default_factory=set)
    executions: int = 0


class Acceptor:
    """`async with Acceptor() as acceptor:`. Orders are filled whole at 1.12130 unless `hold` is set."""

    def __init__(self) -> None:
        self.book = Book()
        self.received: list[Message] = []
        self.sent: dict[int, list[tuple[int, str]]] = {}
        self.next_out, self.next_in = 1, 1
        self.hold = False
        self.deaf: Callable[[Message], bool] = lambda _message: False
        self.lose: Callable[[list[tuple[int, str]]], bool] = lambda _pairs: False
        self.twice = False
        self.cut_inside: Callable[[list[tuple[int, str]]], bool] = lambda _pairs: False
        self.port = 0
        self.connections = 0
        self.writer: asyncio.StreamWriter | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Acceptor":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def cut(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()

    def kinds(self) -> list[str]:
        return [message[35] for message in self.received]

    # -- the connection ------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.writer = writer
        parser = simplefix.FixParser()
        try:
            while data := await reader.read(4096):
                parser.append_buffer(data)
                while (message := parser.get_message()) is not None:
                    self._take({int(tag): value.decode() for tag, value in message.pairs})
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def _take(self, message: Message) -> None:
        kind, number = message[35], int(message[34])
        self.received.append(message)
        if self.deaf(message):
            return
        if kind == "A" and message.get(141) == "Y":
            self.next_out, self.next_in, self.sent = 1, 2, {}
            self.send("A", [(98, "0"), (108, message[108]), (141, "Y")])
        elif number > self.next_in:
            if kind == "A":
                self.send("A", [(98, "0"), (108, message[108])])
            self.send("2", [(7, str(self.next_in)), (16, "0")])
        elif number == self.next_in:
            self.next_in += 1
            self._act(kind, message)

    def _act(self, kind: str, message: Message) -> None:
        if kind == "A":
            self.send("A", [(98, "0"), (108, message[108])])
        elif kind == "1":
            self.send("0", [(112, message[112])])
        elif kind == "2":
            self._resend(int(message[7]))
        elif kind == "4":
            self.next_in = int(message[36])
        elif kind == "5":
            self.send("5", [])
        elif kind == "D":
            self._order(message)
        elif kind == "F":
            self._cancel(message)
        elif kind == "H":
            self._status(message[11])

    def send(self, kind: str, pairs: list[tuple[int, str]]) -> None:
        """The next message; kept for a resend unless it is one of the session's own."""
        number = self.next_out
        self.next_out += 1
        whole = [(35, kind), *pairs]
        if kind in ("8", "9", "j"):
            self.sent[number] = whole
        if self.lose(whole):
            return
        for _ in range(2 if self.twice and kind == "8" else 1):
            self._write(number, whole, ())

    def _resend(self, first: int) -> None:
        """Reports again, gaps for the rest."""
        number, until = first, self.next_out
        while number < until:
            if number in self.sent:
                self._write(number, self.sent[number], HEADER)
                number += 1
            else:
                following = min((kept for kept in self.sent if kept > number), default=until)
                self._write(number, [(35, "4"), (123, "Y"), (36, str(following))], HEADER)
                number = following

    def _write(self, number: int, pairs: list[tuple[int, str]], extra: tuple[tuple[int, str], ...]) -> None:
        message = simplefix.FixMessage()
        message.append_pair(8, "FIX.4.4")
        head = [pairs[0], (49, SENDER), (56, TARGET), (34, number), *extra, (52, "20261125-10:00:00.000")]
        for tag, value in [*head, *pairs[1:]]:
            message.append_pair(tag, value)
        data = message.encode()
        if self.writer is None or self.writer.is_closing():
            return
        if self.cut_inside(pairs):
            self.cut_inside = lambda _pairs: False
            self.writer.write(data[: len(data) // 2])
            self.writer.close()
            return
        self.writer.write(data)

    # -- the market ----------------------------------------------------------------------------------

    def _order(self, message: Message) -> None:
        name = message[11]
        if name in self.book.orders:
            self.book.doubled.append(name)
        self.book.orders[name] = message
        self.report(name, "0", "0")
        if not self.hold:
            self.fill(name, int(message[38]))

    def fill(self, name: str, volume: int, price: str = "1.12130") -> None:
        filled = self.book.filled[name] = self.book.filled.get(name, 0) + volume
        state = "2" if filled == int(self.book.orders[name][38]) else "1"
        self.report(name, "F", state, [(32, str(volume)), (31, price)])

    def report(self, name: str, kind: str, state: str, more: list[tuple[int, str]] | None = None) -> None:
        order = self.book.orders[name]
        self.book.executions += 1
        execution = "0" if kind == "I" else f"x{self.book.executions}"
        filled = self.book.filled.get(name, 0)
        pairs = [(37, f"o-{name}"), (11, name), (17, execution), (150, kind), (39, state), (55, order[55])]
        pairs += [(54, order[54]), (14, str(filled)), (151, str(int(order[38]) - filled)), (6, "0")]
        self.send("8", [*pairs, *(more or [])])

    def _cancel(self, message: Message) -> None:
        name = message[41]
        order = self.book.orders.get(name)
        if order is None or self.book.filled.get(name, 0) == int(order[38]):
            self.send("9", [(37, "o"), (11, message[11]), (41, name), (39, "2"), (434, "1"), (102, "0")])
            return
        self.book.canceled.add(name)
        self.report(name, "4", "4")

    def _status(self, name: str) -> None:
        if name not in self.book.orders:
            pairs = [(37, "NONE"), (11, name), (17, "0"), (150, "I"), (39, "8"), (103, "5"), (14, "0")]
            self.send("8", [*pairs, (151, "0"), (6, "0"), (54, "1"), (55, "EURUSD")])
            return
        filled = self.book.filled.get(name, 0)
        whole = filled == int(self.book.orders[name][38])
        state = "4" if name in self.book.canceled else "2" if whole else "1" if filled else "0"
        self.report(name, "I", state)
