"""Connections that one caller has for itself: for blocking commands, durable batches and subscriptions.

A bounded set: at most `count_max` are open or being opened. At the limit callers wait in arrival order until
their deadline. A connection (or the right to open one) is handed over at release, so nobody can take it on
the way.
"""

import asyncio
import contextlib
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from tradewind.client.errors import ClientClosed, NodeUnavailable, Overloaded, SharedConnectionError
from tradewind.client.lane import Lane, LaneState

IDLE_MARGIN_S = 0.01  # timers may fire a little early


class RightHolder(Protocol):
    """Has the right to one connection, which it opens itself."""

    def drop(self, error: Exception) -> None:
        """The connection must end, for this reason; the right stays until it is given back."""


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
        self._holders: weakref.WeakSet[RightHolder] = weakref.WeakSet()
        self._taken: dict[Lane, None] = {}  # in order: a set has none, and no run could be repeated
        self.openings: dict[asyncio.Future[Lane], None] = {}
        self._waiters: OrderedDict[asyncio.Future[Lane | None], None] = OrderedDict()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._renewed_s = 0.0  # what was opened before that is not used again
        self._closed = False

    @property
    def waiting(self) -> int:
        """Callers in line."""
        return len(self._waiters)

    @property
    def busy(self) -> bool:
        """Somebody uses one."""
        return self.connections > self.idle

    @property
    def idle(self) -> int:
        """Open connections that nobody uses."""
        return sum(lane.state is LaneState.OPEN for lane, _ in tuple(self._idle))

    @property
    def is_held(self) -> bool:
        """Somebody has the right to a connection of its own."""
        return bool(self._holders)

    @property
    def connections(self) -> int:
        """Open, being opened, or promised; not those that the server has ended while nobody used them."""
        return self.count - sum(lane.state is not LaneState.OPEN for lane, _ in tuple(self._idle))

    async def acquire(self, deadline_s: float) -> Lane:
        """A connection of one's own until `release`. `deadline_s` is of the monotonic clock.

        Raises Overloaded when none became free in time (this client's other callers hold them),
        SharedConnectionError when there can never be one, NodeUnavailable when none could be opened in time,
        ClientClosed, and whatever opening a connection raises. Nothing was sent in any of these cases.
        """
        lane = self._take_idle()
        if lane is None:
            lane = await self._take(deadline_s)
        if lane is None:
            lane = await self._open(deadline_s)
        if self._closed:  # while this caller waited, or between the hand-over and now
            self.release(lane)
            raise self._client_closed()
        self._taken[lane] = None
        return lane

    async def acquire_right(self, holder: RightHolder, deadline_s: float) -> None:
        """The right to one connection that `holder` opens itself, until `release_right`.

        It stands in the same line and counts as every other connection. Raises Overloaded,
        SharedConnectionError and ClientClosed as `acquire` does.
        """
        lane = self._take_idle() if self.count >= self._count_max else None
        if lane is None:
            lane = await self._take(deadline_s)
        if lane is not None:
            lane.close(ClientClosed(f"{self._name}: makes room for a connection of another kind"))
        if self._closed:
            self._give(None)
            raise self._client_closed()
        self._holders.add(holder)

    def release_right(self, holder: RightHolder | None) -> None:
        """Give it back; the connection has been closed. For a holder that was collected, None."""
        if holder is not None:
            self._holders.discard(holder)
        self._give(None)

    async def _take(self, deadline_s: float) -> Lane | None:
        """The right to one connection, with an open one if that was given back, when it is one's turn."""
        if not self._count_max:
            raise SharedConnectionError(
                f"{self._name}: max_connections=1 leaves no connection for what cannot share one (blocking "
                "commands, durable writes, subscriptions); set max_connections to 2 or more"
            )
        if self._closed:
            raise self._client_closed()
        if self.count < self._count_max:
            self.count += 1
            return None
        return await self._wait(deadline_s)

    async def _open(self, deadline_s: float) -> Lane:
        """Use the right to open one, or pass it on. In a task of its own, so that `close` can end it."""
        opening: asyncio.Future[Lane] = asyncio.ensure_future(self._open_connection())
        self.openings[opening] = None
        opening.add_done_callback(self.openings.pop)
        begun_s = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                return await opening
        except BaseException as error:
            is_open = opening.done() and not opening.cancelled() and opening.exception() is None
            self._give(opening.result() if is_open else None)  # it came in the moment of the cancellation
            if isinstance(error, TimeoutError):
                raise NodeUnavailable(
                    f"{self._name}: no connection before the deadline, in {time.monotonic() - begun_s:.2f} s "
                    f"({self.count} of at most {self._count_max} dedicated ones are taken or being opened)"
                ) from None
            if self._closed and isinstance(error, asyncio.CancelledError) and not _is_cancelled():
                raise self._client_closed() from None
            raise

    def release(self, lane: Lane) -> None:
        """Give it back. A connection that still owes a reply is closed, since its state is not known."""
        self._taken.pop(lane, None)
        is_wanted = not self.is_outdated(lane) and not self._closed
        if lane.state is LaneState.OPEN and lane.load == 0 and is_wanted:
            self._give(lane)
        else:
            lane.close(ClientClosed(f"{self._name}: dedicated connection given back in use, or outdated"))
            self._give(None)

    def is_outdated(self, lane: Lane) -> bool:
        """It was open before the last `renew`: it is to be given back."""
        return lane.opened_s <= self._renewed_s

    def renew(self, now_s: float) -> None:
        """Use none of those that are open now again; who holds one may finish."""
        self._renewed_s = now_s
        self.close_idle(float("inf"))

    def close_idle(self, now_s: float) -> None:
        """Close what has not been used for long."""
        while self._idle and now_s - self._idle[0][1] > self._idle_s_max:
            self._idle.popleft()[0].close(ClientClosed(f"{self._name}: idle"))
            self.count -= 1

    def _look_later(self) -> None:
        """Come back when the oldest idle connection has had its time. One timer for all of them."""
        if self._idle and self._idle_timer is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(self._idle_s_max + IDLE_MARGIN_S, self._close_old)

    def _close_old(self) -> None:
        self._idle_timer = None
        self.close_idle(time.monotonic())
        self._look_later()

    def close(self) -> None:
        """Close all, also those in use, and fail everyone in line."""
        self._closed = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        for lane, _ in self._idle:
            lane.close(self._client_closed())
        self.count -= len(self._idle)
        self._idle.clear()
        for opening in self.openings:
            opening.cancel()
        self.drop_taken(self._client_closed())
        self.drop_held(self._client_closed())
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_exception(self._client_closed())

    def listening(self) -> list[Lane]:
        """The connections of subscriptions."""
        return [lane for lane in self._taken if lane.listening]

    def drop_taken(self, error: Exception) -> None:
        """End the connections in use: their users see it, and give them back."""
        for lane in list(self._taken):
            lane.close(error)

    def drop_held(self, error: Exception) -> None:
        """End the connections that holders of a right have opened."""
        for holder in list(self._holders):
            holder.drop(error)

    def _client_closed(self) -> ClientClosed:
        return ClientClosed(f"{self._name}: the client is closed")

    def _take_idle(self) -> Lane | None:
        while self._idle:
            lane, _ = self._idle.pop()
            if lane.state is LaneState.OPEN:
                return lane
            self.count -= 1
        return None

    async def _wait(self, deadline_s: float) -> Lane | None:
        waiter: asyncio.Future[Lane | None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        begun_s = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                return await asyncio.shield(waiter)
        except BaseException as error:
            self._withdraw(waiter)
            if isinstance(error, TimeoutError):
                raise self._overloaded(time.monotonic() - begun_s) from None
            raise

    def _withdraw(self, waiter: "asyncio.Future[Lane | None]") -> None:
        """The caller has gone. What was handed to it in the same moment goes to the next."""
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._give(waiter.result())
        else:
            waiter.cancel()
            self._waiters.pop(waiter, None)

    def _overloaded(self, waited_s: float) -> Overloaded:
        return Overloaded(
            f"{self._name}: all {self._count_max} dedicated connections are taken and none became free in "
            f"{waited_s:.2f} s, until the deadline; {len(self._waiters)} more wait; raise max_connections, "
            "or block with fewer callers"
        )

    def _give(self, lane: Lane | None) -> None:
        """A connection, or (None) the right to open one, to who has waited longest; else keep it."""
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(lane)
                return
        if lane is None:
            self.count -= 1
        elif self._closed:
            self.count -= 1
            lane.close(self._client_closed())
        else:
            self._idle.append((lane, time.monotonic()))
            self._look_later()


def from_finalizer(loop: asyncio.AbstractEventLoop, give_back: Callable[[], None]) -> None:
    """Have the loop give back what was forgotten: whichever thread collects garbage runs the finalizer."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits in line any more
        loop.call_soon_threadsafe(give_back)


def _is_cancelled() -> bool:
    """Whether the caller itself was cancelled, and not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and bool(task.cancelling())
