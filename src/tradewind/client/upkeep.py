"""What is done for a connection's own sake: PING where nothing else is said, AUTH when credentials change,
READONLY where a replica is to answer reads, CLIENT TRACKING where replies are cached, and, before the first
reply is left out, whether it may be; and another connection in its place when it is old.

These commands stand in the lane among all others, in line. No caller waits for them: they share the fate of
their connection.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from tradewind.client.command import Command, pack
from tradewind.client.connect import ConnectionSettings
from tradewind.client.dedicated import DedicatedConnections
from tradewind.client.lane import Lane

log = logging.getLogger(__name__)

PING_PACKED = pack(("PING",))
AGE_JITTER = 0.2
TRACKING_PACKED = pack(("CLIENT TRACKING", "ON", "OPTIN"))
REPLY_ON_PACKED = pack(("CLIENT REPLY", "ON"))


class Upkeep:
    """Looks after one node's connections: those in `shared`, and among the `dedicated` the subscriptions'.

    `send` puts a command on a shared lane. A lane that has been idle for `settings.health_check_s` gets a
    PING (0: never); if no answer comes for `answer_s`, the watchdog gives the lane up, as it does when a
    caller waits. `on_refused` hears of each AUTH that the server did not take: the connection goes on as the
    user that it was. `renew` is called when lanes are as old as `settings.age_s_max`, with some jitter.
    """

    def __init__(
        self,
        shared: list[Lane],
        dedicated: DedicatedConnections,
        *,
        settings: ConnectionSettings,
        answer_s: float,
        send: Callable[[Lane, Command], None],
        renew: Callable[[], None],
        on_refused: Callable[[Exception], None],
        rng: random.Random,
    ) -> None:
        self._shared = shared
        self._dedicated = dedicated
        self._settings = settings
        self._answer_s = answer_s
        self._send_shared = send
        self._renew = renew
        self._on_refused = on_refused
        self._rng = rng
        self._timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._auth: bytes | None = None
        self._auth_s = 0.0  # when those credentials came
        self._read_only = self._tracks = False
        self.may_read = True  # the server has not refused READONLY, the last time that it was asked

    def _lanes(self) -> list[Lane]:
        """Those that are kept open. With RESP2 a subscription's connection takes no other commands."""
        return self._shared + (self._dedicated.listening() if self._settings.protocol == 3 else [])

    def _send(self, lane: Lane, command: Command) -> None:
        if lane in self._shared:
            self._send_shared(lane, command)
        else:
            command.raw = True  # a message that comes before its answer must stay undecoded
            lane.submit(command)

    def opened(self, lane: Lane, begun_s: float) -> None:
        """A lane is there whose dial began at this time: perhaps with credentials that are outdated now."""
        if self._auth is not None and begun_s < self._auth_s:
            self._send_auth(lane, self._auth)
        if self._read_only:
            self._send_read_only(lane)
        if self._tracks:
            self._send_tracking(lane)
        self._check_later()
        if self._renewal is None and self._settings.age_s_max < float("inf"):
            # So that neither the nodes nor the processes of a fleet make theirs anew all at once.
            age_s = self._settings.age_s_max * self._rng.uniform(1 - AGE_JITTER, 1)
            self._renewal = asyncio.get_running_loop().call_later(age_s, self._renew_old)

    def _renew_old(self) -> None:
        """The next one that is opened starts the time anew."""
        self._renewal = None
        self._renew()

    def stop(self) -> None:
        """Send nothing more."""
        for timer in (self._timer, self._renewal):
            if timer is not None:
                timer.cancel()
        self._timer = self._renewal = None

    def reauthenticate(self, auth: bytes) -> None:
        """Every open lane takes the new credentials in line; `auth` is the packed AUTH. What is on its way is
        not disturbed, and who has a connection for itself may finish.
        """
        self._auth, self._auth_s = auth, time.monotonic()
        for lane in self._lanes():
            self._send_auth(lane, auth)
        self._dedicated.renew(self._auth_s)

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
        if on != self._read_only or (on and not self.may_read):  # its user may have the right by now
            self._read_only = on
            for lane in self._shared:
                self._send_read_only(lane)

    def _send_read_only(self, lane: Lane) -> None:
        name = "READONLY" if self._read_only else "READWRITE"
        command = self._own_command(name, pack((name,)), self._read_only_refused, self._read_only_taken)
        self._send(lane, command)

    def _read_only_taken(self) -> None:
        self.may_read = True

    def _read_only_refused(self, error: BaseException) -> None:
        self.may_read = False
        if isinstance(error, Exception):
            self._on_refused(error)

    def track(self) -> None:
        """Have the server tell when a key changes that was read right after CLIENT CACHING YES."""
        if not self._tracks:
            self._tracks = True
            for lane in self._shared:
                self._send_tracking(lane)

    def _send_tracking(self, lane: Lane) -> None:
        self._send(lane, self._own_command("CLIENT TRACKING", TRACKING_PACKED, self._tracking_refused))

    def _tracking_refused(self, error: BaseException) -> None:
        """Then each CLIENT CACHING is refused too, and nothing is kept."""
        if isinstance(error, Exception):
            self._on_refused(error)

    def _check_later(self) -> None:
        interval_s = self._settings.health_check_s
        if interval_s and self._timer is None and self._lanes():
            self._timer = asyncio.get_running_loop().call_later(interval_s / 2, self._check)

    def _check(self) -> None:
        """Twice in an interval, so that none is idle for much longer than that."""
        self._timer = None
        now_s = time.monotonic()
        for lane in self._lanes():
            if not lane.load and now_s - lane.last_heard_s >= self._settings.health_check_s / 2:
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
