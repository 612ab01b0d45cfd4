"""The one watchdog of a client: deadlines and silence, looked at a few times a second, for all together."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

TICK_S = 0.1  # so a caller is told that its time is over up to this much late
STALL_S = 0.25  # a tick so late means that the event loop, not a server, was slow
DRAIN_S = 0.001  # a round of the loop in which the sockets are read
DRAIN_ROUNDS_MAX = 50  # after a stall there may be more to read than one round takes


class Watched(Protocol):
    """Something that holds commands whose callers wait."""

    @property
    def active(self) -> bool:
        """There is something to look after."""

    def has_expired(self, now_s: float) -> bool:
        """Somebody's deadline has passed and nobody has told them yet."""

    def heard_since(self, time_s: float) -> bool:
        """A server has said something since then."""

    def excuse_silence(self, seconds: float) -> None:
        """This process stood still for so long: no server is to blame."""

    def expire(self, now_s: float, stalled_s: float) -> None:
        """Tell those whose time is over."""

    def tick(self, now_s: float) -> None:
        """Look after the rest."""


class Watchdog:
    """Runs only while something is active.

    Before a caller is told that its time is over, the sockets are drained once more, so that a reply that is
    already here wins: the verdict is put off by one round of the loop, and after a stall of the loop by as
    many as bring something new.
    """

    def __init__(self, watched: Callable[[], Iterable[Watched]]) -> None:
        self.timer: asyncio.TimerHandle | None = None
        self._watched = watched
        self._due_s = 0.0
        self._rounds_left = 0  # of draining; 0 when no verdict is due
        self._round_s = 0.0
        self._stalled_s = 0.0
        self._stopped = False
        self.stalls = 0
        self.stalled_s = 0.0  # in all
        self._last_stall = (0.0, 0.0)  # when it ended, how long it was

    def stalled_since(self, begun_s: float, now_s: float) -> float:
        """How long the event loop stood still at a stretch, if it did so between then and now."""
        late_s = now_s - self._due_s
        if self.timer is not None and late_s > STALL_S:
            return late_s  # it has just ended, and the tick that was due is not here yet
        ended_s, seconds = self._last_stall
        return seconds if ended_s > begun_s else 0.0

    def start(self) -> None:
        """Look again in a moment; to be called whenever something becomes active. Harmless if it runs."""
        if self.timer is None and not self._stopped:
            self._due_s = time.monotonic() + TICK_S
            self.timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def stop(self) -> None:
        """Look no more, ever."""
        self._stopped = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _tick(self) -> None:
        self.timer = None
        now_s = time.monotonic()
        watched = list(self._watched())
        if self._must_drain(watched, now_s):
            self._round_s = now_s
            self.timer = asyncio.get_running_loop().call_later(DRAIN_S, self._tick)
            return
        stalled_s, self._stalled_s = self._stalled_s, 0.0
        for item in watched:
            self._look_after(item, now_s, stalled_s)
        if any(item.active for item in watched):
            self.start()

    def _look_after(self, item: Watched, now_s: float, stalled_s: float) -> None:
        """A defect in looking after one must not leave the callers of all others waiting for ever."""
        try:
            item.expire(now_s, stalled_s)
            item.tick(now_s)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"the watchdog could not look after {item!r}", "exception": error}
            )

    def _must_drain(self, watched: list[Watched], now_s: float) -> bool:
        if self._rounds_left:
            self._rounds_left -= 1
            more = any(item.heard_since(self._round_s) and item.has_expired(now_s) for item in watched)
            if not more:
                self._rounds_left = 0
            return self._rounds_left > 0
        late_s = now_s - self._due_s
        if late_s > STALL_S:
            self._stalled_s = late_s
            self.stalls += 1
            self.stalled_s += late_s
            self._last_stall = now_s, late_s
            self._rounds_left = DRAIN_ROUNDS_MAX
            for item in watched:
                item.excuse_silence(late_s)
        elif any(item.has_expired(now_s) for item in watched):
            self._rounds_left = 1
        return self._rounds_left > 0
