"""A lane: one connection that any number of callers use at once.

Commands are collected for one turn of the event loop and written with one write; the n-th reply belongs to
the n-th command, always. A caller that gives up leaves its place in the queue, so its reply is read and
dropped: a cancellation costs no reconnect and can never hand a reply to somebody else.

`Lane` is plain code without I/O: bytes come in by `feed`, go out by the `write` it was opened with, and time
and scheduling are handed in, so that a seeded simulation can drive it. `LaneProtocol` puts it on an asyncio
transport.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any, Protocol, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoPermissionError, ResponseError

from tradewind.client.command import Command
from tradewind.client.meter import Meter

PUSH = hiredis.PushNotification
NOT_ENOUGH = object()
# What can be nothing but an answer where one is owed; on a connection that listens, nothing is that sure.
PLAIN_REPLIES = frozenset({str, bytes, int, float, bool, list, dict, set, type(None)})
NO_REPLIES: frozenset[type] = frozenset()
# Then the callers run, before the next replies: nobody waits for a whole burst, no reading holds up the loop,
# and what a reply allocates is freed before the garbage collector counts it as growth (at 5,000 callers its
# runs had cost a fifth of the process).
REPLIES_PER_TURN_MAX = 100
# What nobody waits for has no bound but the socket's: at so much it is written before the turn ends.
UNANSWERED_BYTES_MAX = 65_536


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
        """The server answered `command` with an error. Never about a part of another command."""

    def on_lost(self, lane: "Lane", sent: list[Command], unsent: list[Command], error: Exception) -> None:
        """The connection ended. `sent` may have run, `unsent` have not; parts of commands are among them."""

    def on_push(self, lane: "Lane", message: list[Any] | Exception) -> None:
        """A RESP3 push message or, on a listening lane, an error: what belongs to no command."""


def server_error(text: str) -> Exception:
    """redis-py's exception for an error reply; a malformed redirect is a plain ResponseError, no crash."""
    try:
        error: Exception = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]  # redis-py
    except (ValueError, IndexError, TypeError):
        return ResponseError(text)
    return error


class Lane:
    """One connection's queue of commands. Not thread safe; belongs to one event loop."""

    __slots__ = (
        "__weakref__",
        "_answered",
        "_batches",
        "_call_soon",
        "_close_transport",
        "_now",
        "_raw_count",
        "_reader",
        "_unanswered",
        "_unanswered_bytes",
        "_write",
        "_written",
        "bytes_written",
        "flush_scheduled",
        "has_more",
        "in_flight",
        "last_answered_s",
        "last_heard_s",
        "listening",
        "may_skip_replies",
        "meter",
        "name",
        "opened_s",
        "outbox",
        "owner",
        "skips_replies",
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
        self.outbox: list[Command] = []  # of this turn of the loop
        self._unanswered: list[tuple[int, bytes]] = []  # of this turn too, each behind so many of the outbox
        self._unanswered_bytes = 0
        self.has_more = False  # replies are here that will be handed out in the next turn
        self.last_heard_s = self.last_answered_s = self.opened_s = now()
        self.bytes_written = 0
        self.may_skip_replies: bool | None = None  # nobody has asked
        self.skips_replies = False  # it has been used
        self.write_paused = False  # the server takes nothing more at the moment
        self.listening = (
            False  # a subscription's connection: what no command asked for is a message, undecoded
        )
        self._call_soon = call_soon
        self._now = now
        self.flush_scheduled = False
        self._raw_count = 0  # commands in the lane whose replies stay undecoded
        self.meter: Meter | None = None  # of the node, for a lane that is shared
        self._batches: deque[tuple[int, float]] = (
            deque()
        )  # with replies to come: their last command, when sent
        self._written = self._answered = 0  # commands, since there is a meter
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

    # -- what is in it ---------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Commands in the lane, sent or about to be."""
        return len(self.in_flight) + len(self.outbox)

    def silent_for_s(self, now_s: float) -> float:
        """How long the lane has owed a reply without hearing anything; 0 when it owes none."""
        return now_s - self.last_heard_s if self.in_flight else 0.0

    def behind_for_s(self, now_s: float) -> float:
        """How long the reply that is owed next has been owed, also while it comes in piece by piece."""
        return now_s - self.last_answered_s if self.in_flight else 0.0

    def excuse_silence(self, seconds: float) -> None:
        """This process itself stood still for so long: the server could not be heard."""
        now_s = self._now()
        self.last_heard_s = min(now_s, self.last_heard_s + seconds)
        self.last_answered_s = min(now_s, self.last_answered_s + seconds)

    def oldest_sent_s(self, now_s: float) -> float:
        """When the oldest command that is not answered was written."""
        return self._batches[0][1] if self._batches else now_s

    # -- going out -------------------------------------------------------------------------------------------

    def opened(self, write: Callable[[bytes], None], close: Callable[[], None]) -> None:
        """The connection is there: what was collected goes out. One that comes too late is closed at once."""
        if self.state is LaneState.CLOSED:
            close()
            return
        self._write, self._close_transport = write, close
        self.state = LaneState.OPEN
        self.last_heard_s = self.last_answered_s = self.opened_s = self._now()
        if self.outbox:
            self.schedule_flush()

    def submit(self, command: Command) -> None:
        """Queue a command behind all others; it is written at the end of this turn of the loop."""
        self.submit_row([command])

    def submit_row(self, row: list[Command]) -> None:
        """Queue a command and its parts (see `Command.row`): written together, or not at all."""
        if self.state is LaneState.CLOSED:
            self.owner.on_lost(self, [], row, RedisConnectionError(f"{self.name} is closed"))
            return
        self._raw_count += row[-1].raw
        self.outbox += row
        if not self.flush_scheduled and self.state is LaneState.OPEN:
            self.schedule_flush()

    def write_unanswered(self, data: bytes) -> None:
        """Queue something that has no reply of its own behind all commands: SSUBSCRIBE is answered by push
        messages. Dropped by a lane that is not open.
        """
        if not data or self.state is not LaneState.OPEN:
            return
        self._unanswered.append((len(self.outbox), data))
        self._unanswered_bytes += len(data)
        if self._unanswered_bytes >= UNANSWERED_BYTES_MAX:
            self._flush()
        elif not self.flush_scheduled:
            self.schedule_flush()

    def schedule_flush(self) -> None:
        """Have what is in the outbox written at the end of this turn of the loop."""
        self.flush_scheduled = True
        self._call_soon(self._flush)

    def _flush(self) -> None:
        self.flush_scheduled = False
        if self.state is not LaneState.OPEN:
            return
        batch, self.outbox = self.outbox, []
        unanswered = self._take_unanswered(batch) if self._unanswered else None
        packed = [command.packed for command in batch if not command.future.done()]
        if len(packed) != len(batch):  # a part goes with its command: their callers are one
            gone = [command for command in batch if command.future.done()]
            batch = [command for command in batch if not command.future.done()]
            self._raw_count -= sum(command.raw for command in gone)
            self.owner.on_answered(self, len(gone), sum(len(command.packed) for command in gone))
        if batch:
            self._owe(batch)
        data = b"".join(packed if unanswered is None else unanswered)
        if data:
            self.bytes_written += len(data)
            assert self._write is not None
            self._write(data)

    def _owe(self, batch: list[Command]) -> None:
        """These are being written: the next replies are theirs."""
        now_s = self._now()
        if not self.in_flight:
            self.last_heard_s = self.last_answered_s = now_s
        self.in_flight.extend(batch)
        if self.meter is not None:
            self._written += len(batch)
            self._batches.append((self._written, now_s))

    def _take_unanswered(self, batch: list[Command]) -> list[bytes]:
        """The bytes of a batch with what has no reply where it was queued: never within a row."""
        pieces: list[bytes] = []
        begin = 0
        for end, data in self._unanswered:
            pieces += [command.packed for command in batch[begin:end] if not command.future.done()]
            pieces.append(data)
            begin = end
        pieces += [command.packed for command in batch[begin:] if not command.future.done()]
        self._drop_unanswered()
        return pieces

    def _drop_unanswered(self) -> None:
        self._unanswered = []
        self._unanswered_bytes = 0

    # -- coming in -------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes from the server: each complete reply goes to the command that has waited longest.

        Bytes that cannot be read as replies end the connection: nothing behind them can be trusted.
        """
        if self.state is not LaneState.CLOSED:
            self._take_in(data)

    def _go_on(self) -> None:
        """The next turn of the loop: what is left of the replies that are here."""
        if self.has_more:
            self.has_more = False
            self._take_in(b"")

    def _take_in(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            if not self.has_more:
                self._hand_out(REPLIES_PER_TURN_MAX)
        except InvalidResponse as error:
            self._break_off(f"unreadable reply: {error}")
        except Exception as error:  # a defect: asyncio reports it, and nobody here waits for ever
            self._break_off(f"defect while a reply was handed out: {error!r}")
            raise

    def _break_off(self, why: str) -> None:
        self.has_more = False
        self.close(RedisConnectionError(f"{self.name}: {why}"))

    def _hand_out(self, count_max: int) -> None:
        """Give replies to their commands, at most so many; for more, come back in the next turn."""
        now_s = self.last_heard_s = self._now()
        in_flight, popleft = self.in_flight, self.in_flight.popleft
        oldest = in_flight[0] if in_flight else None
        gets = self._gets_raw if self._raw_count or self.listening else self._reader.gets
        plain = PLAIN_REPLIES if not self.listening else NO_REPLIES
        answered = size_bytes = 0
        try:
            for _ in range(count_max):
                try:
                    reply = gets()
                except UnicodeDecodeError as error:  # read whole, so the next one is in its place
                    reply = error
                except (RecursionError, MemoryError, TypeError) as error:
                    # nesting, length, unhashable map key
                    raise InvalidResponse(str(error) or type(error).__name__) from error
                if type(reply) in plain and in_flight:
                    command = popleft()
                    answered += 1
                    size_bytes += len(command.packed)
                    try:  # noqa: SIM105  # suppress() would cost more than all else here
                        command.future.set_result(reply)
                    except asyncio.InvalidStateError:
                        pass  # the caller has gone, or was told that its time is over
                elif reply is NOT_ENOUGH:
                    return
                elif self._is_message(reply):
                    self._hear(reply)
                else:
                    command = popleft()
                    answered += 1
                    size_bytes += len(command.packed)
                    self._answer_oddly(command, reply)
            self.has_more = True
            self._call_soon(self._go_on)
        finally:
            if answered:
                self.last_answered_s = now_s
                self.owner.on_answered(self, answered, size_bytes)
                if self.meter is not None and oldest is not None:
                    self._measure(self.meter, oldest, answered, now_s)

    def _measure(self, meter: Meter, oldest: Command, answered: int, now_s: float) -> None:
        """So many commands have been answered, the first of which was `oldest`."""
        self._answered += answered
        batches = self._batches
        sent_s = batches[0][1]
        while batches and batches[0][0] <= self._answered:
            meter.replies.record(now_s - batches.popleft()[1])
        if now_s - oldest.created_s > meter.slow_s:
            meter.note(oldest, sent_s, now_s)

    def _answer_oddly(self, command: Command, reply: Any) -> None:
        if not isinstance(reply, Exception):
            with suppress(asyncio.InvalidStateError):
                command.future.set_result(reply)
        else:
            self._refused(command, reply)

    def _refused(self, command: Command, error: Exception) -> None:
        if command.part_of is not None:
            command.future.set_exception(error)
        else:
            self.owner.on_error_reply(self, command, command.cause(error))

    def _is_message(self, reply: Any) -> bool:
        """Whether this belongs to no command. Raises InvalidResponse if it may not be there at all."""
        if type(reply) is PUSH or (self.listening and not self.in_flight):
            return True
        if not self.in_flight:
            raise InvalidResponse(f"a reply that nobody asked for: {str(reply)[:80]}")
        if self.skips_replies and isinstance(reply, NoPermissionError) and "client|reply" in str(reply):
            raise InvalidResponse(f"replies may not be left out any more: {reply}")
        return False

    def _gets_raw(self) -> Any:
        """As reader.gets, leaving messages and the replies of raw commands undecoded."""
        raw = self.in_flight[0].raw if self.in_flight else self.listening
        reply = self._reader.gets(False) if raw else self._reader.gets()
        if raw and self.in_flight and reply is not NOT_ENOUGH and type(reply) is not PUSH:
            self._raw_count -= 1
        return reply

    def _hear(self, message: Any) -> None:
        """What no command asked for. RESP2 has no push type: there a message is an array like any other."""
        if not isinstance(message, list | Exception):
            raise InvalidResponse(f"not a message: {str(message)[:80]}")
        self.owner.on_push(self, message)

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self, error: Exception) -> None:
        """Close the connection and hand everything in the lane back to the owner. Safe to call again.

        Replies that are here are handed out before.
        """
        if self.state is LaneState.CLOSED:
            return
        try:
            if self.has_more:
                self.has_more = False
                with suppress(InvalidResponse):
                    self._hand_out(sys.maxsize)
        finally:
            self._end(error)

    def _end(self, error: Exception) -> None:
        self.state = LaneState.CLOSED
        sent, unsent = list(self.in_flight), self.outbox
        self.in_flight.clear()
        self.outbox = []
        self._drop_unanswered()
        self._raw_count = 0
        if self._close_transport is not None:
            self._close_transport()
        self.owner.on_lost(self, sent, unsent, error)

    def let_go(self) -> object:
        """In a forked child: the connection is the parent's, nothing here closes it or writes to it."""
        mine = self._write, self._close_transport, self.in_flight, self.outbox
        self.state = LaneState.CLOSED
        self.has_more = False
        self.in_flight, self.outbox = deque(), []
        self._drop_unanswered()
        self._write = self._close_transport = None
        return mine

    def __repr__(self) -> str:
        return (
            f"<Lane {self.name} {self.state.name.lower()} in_flight={len(self.in_flight)} "
            f"queued={len(self.outbox)}>"
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
