"""A lane: one connection that any number of callers use at once.

Commands are collected for one turn of the event loop and written with one write; the n-th reply belongs to the
n-th command, always. A caller that gives up leaves its place in the queue, so its reply is read and dropped: a
cancellation costs no reconnect and can never hand a reply to somebody else.

`Lane` is plain code without I/O: bytes come in by `feed`, go out by the `write` it was opened with, and time and
scheduling are handed in, so that a seeded simulation can drive it. `LaneProtocol` puts it on an asyncio transport.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

from tradewind.client.command import Command, asking_command

PUSH = hiredis.PushNotification
NOT_ENOUGH = object()


class LaneState(Enum):
    """NEW -> OPEN -> CLOSED, or NEW -> CLOSED."""

    NEW = "not connected yet; commands are collected"
    OPEN = "commands are written at the end of the loop turn"
    CLOSED = "everything in it has been handed back to the owner"


class LaneOwner(Protocol):
    """Who is told what happens on a lane."""

    def on_answered(self, lane: "Lane", count: int, size_bytes: int) -> None:
        """`count` commands left the lane: answered, or dropped unsent because their callers had gone."""

    def on_error_reply(self, lane: "Lane", command: Command, error: Exception) -> None:
        """The server answered `command` with an error."""

    def on_lost(self, lane: "Lane", sent: list[Command], unsent: list[Command], error: Exception) -> None:
        """The connection is gone. `sent` may have run; `unsent` have not."""

    def on_push(self, lane: "Lane", message: list[Any]) -> None:
        """A RESP3 push message, which belongs to no command."""


def server_error(text: str) -> Exception:
    """redis-py's exception for an error reply; a malformed redirect is a plain ResponseError, never a crash."""
    try:
        error = BaseParser.parse_error(text)
    except (ValueError, IndexError, TypeError):
        return ResponseError(text)
    if type(error) is ResponseError and text.startswith(("MOVED", "ASK")):
        return ResponseError(text)
    return error  # type: ignore[no-any-return]  # redis-py's parser is untyped


class Lane:
    """One connection's queue of commands. Not thread safe; belongs to one event loop."""

    __slots__ = (
        "_call_soon",
        "_close_transport",
        "_flush_scheduled",
        "_now",
        "_outbox",
        "_raw_in_flight",
        "_reader",
        "_write",
        "bytes_written",
        "in_flight",
        "last_heard_s",
        "listening",
        "name",
        "owner",
        "state",
        "write_paused",
    )

    def __init__(
        self,
        owner: LaneOwner,
        *,
        name: str,
        call_soon: Callable[[Callable[[], None]], object],
        now: Callable[[], float],
        encoding: str | None = None,
        encoding_errors: str = "strict",
    ) -> None:
        self.owner = owner
        self.name = name
        self.state = LaneState.NEW
        self.in_flight: deque[Command] = deque()
        self.last_heard_s = now()
        self.bytes_written = 0
        self.write_paused = False
        self.listening = False  # a subscription's connection: arrays that no command asked for are messages
        self._call_soon = call_soon
        self._now = now
        self._outbox: list[Command] = []
        self._flush_scheduled = False
        self._raw_in_flight = 0
        self._write: Callable[[bytes], None] | None = None
        self._close_transport: Callable[[], None] | None = None
        options: dict[str, Any] = {"encoding": encoding} if encoding else {}
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=server_error,
            notEnoughData=NOT_ENOUGH,
            errors=encoding_errors,
            **options,
        )

    # -- what is in it -------------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Commands in the lane, sent or about to be."""
        return len(self.in_flight) + len(self._outbox)

    def silent_for_s(self, now_s: float) -> float:
        """How long the lane has owed a reply without hearing anything; 0 when it owes none."""
        return now_s - self.last_heard_s if self.in_flight else 0.0

    # -- going out -----------------------------------------------------------------------------------------------

    def opened(self, write: Callable[[bytes], None], close: Callable[[], None]) -> None:
        """The connection is there: what was collected goes out."""
        self._write, self._close_transport = write, close
        self.state = LaneState.OPEN
        self.last_heard_s = self._now()
        if self._outbox:
            self._schedule_flush()

    def submit(self, command: Command) -> None:
        """Queue a command behind all others; it is written at the end of this turn of the loop."""
        if self.state is LaneState.CLOSED:
            unsent = [asking_command(), command] if command.asking else [command]
            self.owner.on_lost(self, [], unsent, RedisConnectionError(f"{self.name} is closed"))
            return
        if command.asking:
            self._outbox.append(asking_command())
        self._outbox.append(command)
        if not self._flush_scheduled and self.state is LaneState.OPEN:
            self._schedule_flush()

    def write_unanswered(self, data: bytes) -> None:
        """Write at once something that has no reply of its own: SSUBSCRIBE is answered by push messages."""
        if data and self.state is LaneState.OPEN:
            assert self._write is not None
            self._write(data)

    def _schedule_flush(self) -> None:
        self._flush_scheduled = True
        self._call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self.state is not LaneState.OPEN:
            return
        outbox, self._outbox = self._outbox, []
        batch = [command for command in outbox if not command.future.done()]
        if len(batch) != len(outbox):
            gone = [command for command in outbox if command.future.done()]
            self.owner.on_answered(self, len(gone), sum(len(command.packed) for command in gone))
        if not batch:
            return
        if not self.in_flight:
            self.last_heard_s = self._now()
        self.in_flight.extend(batch)
        self._raw_in_flight += sum([command.raw for command in batch])
        data = b"".join([command.packed for command in batch])
        self.bytes_written += len(data)
        assert self._write is not None
        self._write(data)

    # -- coming in -----------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes from the server: each complete reply goes to the command that has waited longest."""
        self.last_heard_s = self._now()
        count = size_bytes = 0
        in_flight, reader = self.in_flight, self._reader
        try:
            reader.feed(data)
            gets = self._gets_raw if self._raw_in_flight else reader.gets
            while True:
                try:
                    reply = gets()
                except (
                    UnicodeDecodeError
                ) as error:  # the reply has been read whole; it is one caller's problem
                    reply = error
                if reply is NOT_ENOUGH:
                    break
                if type(reply) is PUSH or (self.listening and not in_flight and type(reply) is list):
                    self.owner.on_push(self, reply)
                    continue
                if not in_flight:
                    raise InvalidResponse(f"a reply that nobody asked for: {str(reply)[:80]}")
                command = in_flight.popleft()
                count += 1
                size_bytes += len(command.packed)
                if isinstance(reply, Exception):
                    self.owner.on_error_reply(self, command, reply)
                elif not command.future.done():
                    command.future.set_result(reply)
        except (InvalidResponse, RecursionError) as error:
            self.owner.on_answered(self, count, size_bytes)
            self.close(RedisConnectionError(f"{self.name}: unreadable reply: {error}"))
            return
        if count:
            self.owner.on_answered(self, count, size_bytes)

    def _gets_raw(self) -> Any:
        """As reader.gets, leaving replies of raw commands undecoded."""
        raw = bool(self.in_flight) and self.in_flight[0].raw
        reply = self._reader.gets(False) if raw else self._reader.gets()
        if raw and reply is not NOT_ENOUGH and type(reply) is not PUSH:
            self._raw_in_flight -= 1
        return reply

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self, error: Exception) -> None:
        """Close the connection and hand everything in the lane back to the owner. Safe to call again."""
        if self.state is LaneState.CLOSED:
            return
        self.state = LaneState.CLOSED
        sent, unsent = list(self.in_flight), self._outbox
        self.in_flight.clear()
        self._outbox = []
        if self._close_transport is not None:
            self._close_transport()
        self.owner.on_lost(self, sent, unsent, error)

    def __repr__(self) -> str:
        return (
            f"<Lane {self.name} {self.state.name.lower()} in_flight={len(self.in_flight)} "
            f"queued={len(self._outbox)}>"
        )


class LaneProtocol(asyncio.Protocol):
    """Carries a lane's bytes over an asyncio transport."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def data_received(self, data: bytes) -> None:
        self._lane.feed(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writable = cast(asyncio.WriteTransport, transport)  # uvloop's transports are not registered as such
        self._lane.opened(writable.write, writable.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        reason = str(exc) if exc else "closed by the server"
        self._lane.close(RedisConnectionError(f"{self._lane.name}: connection lost: {reason}"))

    def pause_writing(self) -> None:
        self._lane.write_paused = True

    def resume_writing(self) -> None:
        self._lane.write_paused = False
