"""What is sent for a connection's own sake: PING where nothing else is said, AUTH when credentials change,
READONLY where a replica is to answer reads, and, before the first reply is left out, whether it may be.

These commands stand in the lane among all others, in line. No caller waits for them: they share the fate of
their connection.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

from tradewind.client.command import Command, pack
from tradewind.client.lane import Lane

log = logging.getLogger(__name__)

PING_PACKED = pack(("PING",))
REPLY_ON_PACKED = pack(("CLIENT REPLY", "ON"))


class Upkeep:
    """Looks after the `lanes` of one node that are there at a moment.

    `send` puts a command on a lane. A lane that has been idle for `interval_s` gets a PING (0: never); if no
    answer comes for `answer_s`, the watchdog gives the lane up, as it does when a caller waits. `on_refused`
    hears of each AUTH that the server did not take: the connection goes on as the user that it was.
    """

    def __init__(
        self,
        lanes: Callable[[], Iterable[Lane]],
        *,
        send: Callable[[Lane, Command], None],
        interval_s: float,
        answer_s: float,
        on_refused: Callable[[Exception], None],
    ) -> None:
        self._lanes = lanes
        self._send = send
        self._interval_s = interval_s
        self._answer_s = answer_s
        self._on_refused = on_refused
        self._timer: asyncio.TimerHandle | None = None
        self._auth: bytes | None = None
        self._auth_s = 0.0  # when those credentials came
        self._read_only = False
        self.may_read = True  # no server has refused READONLY

    def opened(self, lane: Lane, begun_s: float) -> None:
        """A lane is there whose dial began at this time: perhaps with credentials that are outdated now."""
        if self._auth is not None and begun_s < self._auth_s:
            self._send_auth(lane, self._auth)
        if self._read_only:
            self._send_read_only(lane)
        self._check_later()

    def stop(self) -> None:
        """Send nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def reauthenticate(self, auth: bytes) -> None:
        """Every open lane takes the new credentials in line; what is on its way is not disturbed."""
        self._auth, self._auth_s = auth, time.monotonic()
        for lane in tuple(self._lanes()):
            self._send_auth(lane, auth)

    def ask_to_skip_replies(self, lane: Lane) -> None:
        """Have the server say whether this user may leave replies out: `lane.may_skip_replies`.

        No until it answers. Where an ACL forbids it, leaving one out unasked would be answered by an error
        that nobody waits for, and every reply behind it would go to the wrong caller.
        """
        lane.may_skip_replies = False
        self._send(lane, self._own_command("CLIENT REPLY", REPLY_ON_PACKED, _ignore, partial(_permit, lane)))

    def _send_auth(self, lane: Lane, auth: bytes) -> None:
        self._send(lane, self._own_command("AUTH", auth, partial(self._auth_refused, lane)))

    def _auth_refused(self, lane: Lane, error: BaseException) -> None:
        log.warning("%s: new credentials refused, going on with the former ones: %s", lane.name, error)
        if isinstance(error, Exception):
            self._on_refused(error)

    def set_read_only(self, on: bool) -> None:
        """Have the server answer reads while it is a replica, or (False) redirect them to its primary.

        A server that is a primary had better not have it: were it demoted, it would go on answering what is
        meant for the primary.
        """
        if on != self._read_only:
            self._read_only = on
            for lane in tuple(self._lanes()):
                self._send_read_only(lane)

    def _send_read_only(self, lane: Lane) -> None:
        name = "READONLY" if self._read_only else "READWRITE"
        self._send(lane, self._own_command(name, pack((name,)), self._read_only_refused))

    def _read_only_refused(self, error: BaseException) -> None:
        self.may_read = False
        if isinstance(error, Exception):
            self._on_refused(error)

    def _check_later(self) -> None:
        if self._interval_s and self._timer is None and any(self._lanes()):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._interval_s / 2, self._check)

    def _check(self) -> None:
        """Twice in an interval, so that none is idle for much longer than that."""
        self._timer = None
        now_s = time.monotonic()
        for lane in tuple(self._lanes()):
            if not lane.load and now_s - lane.last_heard_s >= self._interval_s / 2:
                self._send(lane, self._own_command("PING", PING_PACKED, _ignore))
        self._check_later()

    def _own_command(
        self,
        name: str,
        packed: bytes,
        on_refused: Callable[[BaseException], None],
        on_done: Callable[[], None] | None = None,
    ) -> Command:
        now_s = time.monotonic()
        future = cast("asyncio.Future[Any]", _NobodyWaits(on_refused, on_done))
        command = Command(name, packed, future, -1, False, now_s, now_s + self._answer_s)
        command.part_of = command  # of no caller's command: nobody is told, and nobody sends it again
        return command


class _NobodyWaits:
    """In the place of a future."""

    __slots__ = ("_on_done", "_on_refused")

    def __init__(
        self, on_refused: Callable[[BaseException], None], on_done: Callable[[], None] | None
    ) -> None:
        self._on_refused = on_refused
        self._on_done = on_done

    def done(self) -> bool:
        return False

    def set_result(self, _reply: object) -> None:
        if self._on_done is not None:
            self._on_done()

    def set_exception(self, error: BaseException) -> None:
        self._on_refused(error)


def _ignore(_error: BaseException) -> None:
    """Any answer shows that somebody is there."""


def _permit(lane: Lane) -> None:
    lane.may_skip_replies = True
