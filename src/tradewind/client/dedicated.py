"""Connections that one caller has for itself: for blocking commands, durable batches and subscriptions.

A bounded set: at most `count_max` are open or being opened. At the limit callers wait in arrival order until their
deadline. A connection (or the right to open one) is handed over at release, so nobody can take it on the way.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from tradewind.client.errors import ClientClosed, Overloaded
from tradewind.client.lane import Lane, LaneState


class DedicatedConnections:
    """The dedicated connections to one node. Not thread safe; belongs to one event loop."""

    def __init__(
        self, name: str, *, count_max: int, idle_s_max: float, open_connection: Callable[[], Awaitable[Lane]]
    ) -> None:
        self.count = 0  # open, being opened, or promised to a waiter
        self._name = name
        self._count_max = count_max
        self._idle_s_max = idle_s_max
        self._open_connection = open_connection
        self._idle: deque[tuple[Lane, float]] = deque()
        self._taken: set[Lane] = set()
        self._waiters: deque[asyncio.Future[Lane | None]] = deque()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Callers in line."""
        return len(self._waiters)

    @property
    def idle(self) -> int:
        """Open connections that nobody uses."""
        return len(self._idle)

    async def acquire(self, deadline_s: float) -> Lane:
        """A connection of one's own until `release`. `deadline_s` is of the monotonic clock.

        Raises Overloaded when none became free in time (this client's other callers hold them), ClientClosed, and
        whatever opening a connection raises.
        """
        lane = self._take_idle()
        if lane is None:
            if self._closed:
                raise ClientClosed(f"{self._name}: the client is closed")
            if self.count < self._count_max:
                self.count += 1
            else:
                lane = await self._wait(deadline_s)
        if lane is None:
            try:
                lane = await self._open_connection()
            except BaseException:
                self._give(None)
                raise
        self._taken.add(lane)
        return lane

    def release(self, lane: Lane) -> None:
        """Give it back. A connection that still owes a reply is closed, since its state is not known."""
        self._taken.discard(lane)
        if lane.state is LaneState.OPEN and lane.load == 0 and not self._closed:
            self._give(lane)
        else:
            lane.close(ClientClosed(f"{self._name}: dedicated connection given back in use"))
            self._give(None)

    def close_idle(self, now_s: float) -> None:
        """Close what has not been used for long."""
        while self._idle and now_s - self._idle[0][1] > self._idle_s_max:
            self._idle.popleft()[0].close(ClientClosed(f"{self._name}: idle"))
            self.count -= 1

    def close(self) -> None:
        """Close all, also those in use, and fail everyone in line."""
        self._closed = True
        for lane, _ in self._idle:
            lane.close(ClientClosed(f"{self._name}: the client is closed"))
        self.count -= len(self._idle)
        self._idle.clear()
        for lane in list(self._taken):
            lane.close(ClientClosed(f"{self._name}: the client is closed"))
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(ClientClosed(f"{self._name}: the client is closed"))

    def _take_idle(self) -> Lane | None:
        while self._idle:
            lane, _ = self._idle.pop()
            if lane.state is LaneState.OPEN:
                return lane
            self.count -= 1
        return None

    async def _wait(self, deadline_s: float) -> Lane | None:
        waiter: asyncio.Future[Lane | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                return await asyncio.shield(waiter)
        except BaseException as error:
            self._withdraw(waiter)
            if isinstance(error, TimeoutError):
                raise self._overloaded() from None
            raise

    def _withdraw(self, waiter: "asyncio.Future[Lane | None]") -> None:
        """The caller has gone. What was handed to it in the same moment goes to the next."""
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._give(waiter.result())
        else:
            waiter.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"{self._name}: all {self._count_max} dedicated connections are taken and none became free before the "
            f"deadline, {len(self._waiters)} more callers wait; raise max_connections or block with fewer callers"
        )

    def _give(self, lane: Lane | None) -> None:
        """A connection, or (None) the right to open one, to who has waited longest; else keep it."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(lane)
                return
        if lane is None:
            self.count -= 1
        else:
            self._idle.append((lane, time.monotonic()))
