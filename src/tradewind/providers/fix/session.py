"""A FIX 4.4 session as the one who dials, without I/O: bytes and time in, bytes and messages out.

    idle -> logging_on -> active -> logging_out -> idle

A number that is too high: what is between is asked for again, and everything behind it waits for that. Too
low and not marked as possibly sent before: the sides disagree, the session ends. What the other side asks for
again is never repeated but filled: an order of a moment ago must not be traded now. The owner is told, and
asks what has become of its orders.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from tradewind.providers.fix.frames import Fields, Frames, Pairs, encoded
from tradewind.providers.fix.numbers import Numbers

LOGON_S_MAX = 10.0
LOGOUT_S_MAX = 5.0
HEARTBEAT_S = 30
SILENCE_FACTOR = 1.2  # of the heartbeat: then a test request; a whole one later the connection counts as lost
SESSION_KINDS = frozenset("012345A")


class State(enum.Enum):
    IDLE = "idle"
    LOGGING_ON = "logging_on"
    ACTIVE = "active"
    LOGGING_OUT = "logging_out"


@dataclass(frozen=True)
class SessionSettings:
    """Who we are to the provider, as agreed with it."""

    sender: str
    target: str
    username: str = ""
    password: str = field(default="", repr=False)
    heartbeat_s: int = HEARTBEAT_S
    is_reset: bool = False
    """Both sides begin at 1 with every logon."""


@dataclass
class Events:
    """What the owner must hear of."""

    received: list[Fields] = field(default_factory=list)
    has_logged_on: bool = False
    was_filled: bool = False
    """The other side asked for messages again, and got a gap instead: they have not reached it."""


class Session:
    """One session over any number of connections. `stamp` gives the time of the day as FIX writes it."""

    def __init__(self, settings: SessionSettings, numbers: Numbers, stamp: Callable[[], str]) -> None:
        self.state = State.IDLE
        self.over = ""
        """Why the connection is to be closed once all is written; empty: it is not."""
        self._settings = settings
        self._next_out, self._next_in = numbers.next_out, numbers.next_in
        self._stamp = stamp
        self._frames = Frames()
        self._data = b""
        self._events = Events()
        self._sent_s = self._heard_s = self._began_s = 0.0
        self._tested_s: float | None = None
        self._missing_until = 0
        self._asked_s = 0.0

    @property
    def numbers(self) -> Numbers:
        return Numbers(self._next_out, self._next_in)

    def take_data(self) -> bytes:
        """Bytes to be written now."""
        data, self._data = self._data, b""
        return data

    def take_events(self) -> Events:
        """What has happened since the last call, for the one who calls `receive`."""
        events, self._events = self._events, Events()
        return events

    # -- what the owner does -------------------------------------------------------------------------

    def connected(self, next_in: int, now_s: float) -> None:
        """A new connection is open: log on. All messages before `next_in` have been dealt with."""
        self._frames = Frames()
        self._data, self._events, self.over = b"", Events(), ""
        self._next_in = next_in
        self.state = State.LOGGING_ON
        self._heard_s = self._began_s = now_s
        self._tested_s, self._missing_until = None, 0
        own = self._settings
        pairs: list[tuple[int, str | int]] = [(98, 0), (108, own.heartbeat_s)]
        if own.is_reset:
            self._next_out = self._next_in = 1
            pairs.append((141, "Y"))
        if own.username:
            pairs += [(553, own.username), (554, own.password)]
        self._send("A", pairs, now_s)

    def disconnected(self) -> None:
        """The connection is gone. Numbers stay."""
        self.state = State.IDLE

    def send(self, kind: str, pairs: Pairs, now_s: float) -> int:
        """A message of the owner's; returns its number.

        :raises RuntimeError: the session is not active; nothing was sent
        """
        if self.state is not State.ACTIVE:
            raise RuntimeError(f"the session is {self.state.value}")
        return self._send(kind, pairs, now_s)

    def log_out(self, text: str, now_s: float) -> None:
        if self.state is State.ACTIVE:
            self._send("5", [(58, text)], now_s)
            self.state, self._began_s = State.LOGGING_OUT, now_s

    def tick(self, now_s: float) -> None:
        """To be called a few times a second."""
        heartbeat_s = self._settings.heartbeat_s
        if self.state is State.LOGGING_ON and now_s - self._began_s >= LOGON_S_MAX:
            self._end("no answer to the logon")
        elif self.state is State.LOGGING_OUT and now_s - self._began_s >= LOGOUT_S_MAX:
            self._end("no answer to the logout")
        elif self.state is State.ACTIVE:
            self._look_after(heartbeat_s, now_s)

    def _look_after(self, heartbeat_s: int, now_s: float) -> None:
        if self._tested_s is not None and now_s - self._tested_s >= heartbeat_s:
            self._end(f"nothing heard for {now_s - self._heard_s:.0f} s")
        elif self._tested_s is None and now_s - self._heard_s >= SILENCE_FACTOR * heartbeat_s:
            self._tested_s = now_s
            self._send("1", [(112, f"test-{self._next_out}")], now_s)
        elif self._missing_until and now_s - self._asked_s >= heartbeat_s:
            self._ask_again(now_s)
        elif now_s - self._sent_s >= heartbeat_s:
            self._send("0", [], now_s)

    def receive(self, data: bytes, now_s: float) -> None:
        for message in self._frames.feed(data):
            if self.state is State.IDLE or self.over:
                return
            self._heard_s, self._tested_s = now_s, None
            self._take(message, now_s)

    # -- what comes in -------------------------------------------------------------------------------

    def _take(self, message: Fields, now_s: float) -> None:
        kind, digits = message.get(35, ""), message.get(34, "")
        if (message.get(49), message.get(56)) != (self._settings.target, self._settings.sender):
            self._disagree(f"message from {message.get(49)} to {message.get(56)}", now_s)
        elif not digits.isdigit():
            self._disagree("message without a number", now_s)
        elif self.state is State.LOGGING_ON and kind not in ("A", "5"):
            self._end(f"message {kind} before the logon")
        else:
            self._take_numbered(kind, int(digits), message, now_s)

    def _take_numbered(self, kind: str, number: int, message: Fields, now_s: float) -> None:
        """1. a reset goes without order; 2. too low; 3. too high; 4. the next one."""
        if kind == "4" and message.get(123) != "Y":
            self._next_in = max(self._next_in, _number(message, 36))
        elif kind == "A" and message.get(141) == "Y":
            self._reset(number, now_s)
        elif number < self._next_in:
            if message.get(43) != "Y":
                self._disagree(f"number too low: expected {self._next_in}, got {number}", now_s)
        elif number > self._next_in:
            self._take_early(kind, number, message, now_s)
        else:
            self._next_in += 1
            self._handle(kind, message, now_s)
            if self._next_in > self._missing_until:
                self._missing_until = 0

    def _reset(self, number: int, now_s: float) -> None:
        """Beginning at 1 was our wish, or it is a disagreement: what is open would be lost sight of."""
        if self._settings.is_reset and self.state is State.LOGGING_ON and number == 1:
            self._next_in = 2
            self._logged_on(now_s)
        else:
            self._disagree("a reset that was not agreed", now_s)

    def _take_early(self, kind: str, number: int, message: Fields, now_s: float) -> None:
        """What cannot wait for the gap: a logon, a logout, and being asked for a gap of our own."""
        if kind in ("A", "5", "2"):
            self._handle(kind, message, now_s)
        if not self.over and not self._missing_until:
            self._missing_until = number
            self._ask_again(now_s)

    def _ask_again(self, now_s: float) -> None:
        self._asked_s = now_s
        self._send("2", [(7, self._next_in), (16, 0)], now_s)

    def _handle(self, kind: str, message: Fields, now_s: float) -> None:
        if kind == "A":
            self._logged_on(now_s)
        elif kind == "1":
            self._send("0", [(112, message.get(112, ""))], now_s)
        elif kind == "2":
            self._fill(_number(message, 7), _number(message, 16), now_s)
        elif kind == "4":
            self._next_in = max(self._next_in, _number(message, 36))
        elif kind == "5":
            self._logged_out(message, now_s)
        elif kind == "3" or kind not in SESSION_KINDS:
            self._events.received.append(message)

    def _logged_on(self, now_s: float) -> None:
        if self.state is State.LOGGING_ON:
            self.state = State.ACTIVE
            self._events.has_logged_on = True

    def _logged_out(self, message: Fields, now_s: float) -> None:
        text = message.get(58, "no reason given")
        if self.state is State.ACTIVE:
            self._send("5", [], now_s)
        self._end(f"logged out: {text}")

    def _fill(self, first: int, last: int, now_s: float) -> None:
        if not 1 <= first < self._next_out:
            self._disagree(f"message {first} was asked for, the last one was {self._next_out - 1}", now_s)
            return
        following = self._next_out if last == 0 else min(last + 1, self._next_out)
        stamp = self._stamp()
        header: list[tuple[int, str | int]] = [(35, "4"), (49, self._settings.sender)]
        header += [(56, self._settings.target), (34, first), (43, "Y"), (52, stamp), (122, stamp)]
        self._data += encoded([*header, (123, "Y"), (36, following)])
        self._sent_s = now_s
        self._events.was_filled = True

    # -- what goes out -------------------------------------------------------------------------------

    def _send(self, kind: str, pairs: Pairs, now_s: float) -> int:
        number = self._next_out
        header: list[tuple[int, str | int]] = [(35, kind), (49, self._settings.sender)]
        header += [(56, self._settings.target), (34, number), (52, self._stamp())]
        self._data += encoded([*header, *pairs])
        self._next_out += 1
        self._sent_s = now_s
        return number

    def _disagree(self, why: str, now_s: float) -> None:
        """The sides do not agree, and only people can mend that: say why, and end."""
        self._send("5", [(58, why)], now_s)
        self._end(why)

    def _end(self, why: str) -> None:
        self.state = State.IDLE
        self.over = why


def _number(message: Fields, tag: int) -> int:
    """The value of a field that must be a number; -1 if it is not there, or none."""
    digits = message.get(tag, "")
    return int(digits) if digits.isdigit() else -1
