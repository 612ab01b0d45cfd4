"""Makes the connections to one server: a few at a time, later when they fail, never in a storm."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError

from tradewind.client.errors import NodeUnavailable
from tradewind.client.lane import Lane, LaneState
from tradewind.client.policy import Limits, backoff_s

DIAL_BACKOFF_BASE_S = 0.05
DIAL_HEDGE_S = 1.0  # a dial that takes longer may have another beside it
SHORT_LIFE_S = 1.0  # a connection that ended before that is made again with a pause
SHORT_LIFE_BACKOFF_CAP_S = 0.25
T = TypeVar("T")


class Dialer:
    """Owns the dials of one node, and the breaker: after a failure, none of any kind until a timer fires.

    `lanes` are the shared ones that are open. `connect` opens another, which `on_lane` gets with the time at
    which its dial began. `on_failed` hears of every dial that fails, `on_allowed` when dials are allowed
    again.
    """

    def __init__(
        self,
        name: str,
        lanes: list[Lane],
        *,
        limits: Limits,
        connect: Callable[[], Awaitable[Lane]],
        on_lane: Callable[[Lane, float], None],
        on_failed: Callable[[Exception], None],
        on_allowed: Callable[[], None],
        rng: random.Random,
    ) -> None:
        self.dials = self.failures = 0
        self.last_error = ""  # of a dial, or of a connection that was lost
        self._name = name
        self._lanes = lanes
        self._lanes_max = limits.shared_lanes_max
        self._connect = connect
        self._on_lane = on_lane
        self._on_failed = on_failed
        self._on_allowed = on_allowed
        self._rng = rng
        self.tasks: set[asyncio.Task[None]] = set()  # each opens a lane
        self._begun_s = 0.0
        self._failures_in_a_row = 0
        self._short_lives_in_a_row = 0
        self._breaker: asyncio.TimerHandle | None = None
        self._permits = asyncio.Semaphore(limits.dials_max)
        self._closed = False

    @property
    def is_failing(self) -> bool:
        """The last dial failed, and the next one is not due yet."""
        return self._breaker is not None

    @property
    def busy(self) -> bool:
        """A lane is being opened."""
        return bool(self.tasks)

    # -- shared lanes ----------------------------------------------------------------------------------------

    def open_lane_soon(self) -> None:
        """Start a dial, unless one is under way, the breaker is open, or nothing is missing.

        A dial that hangs, as on a connection that was half open, does not keep another from being started.
        """
        if self._closed or self._breaker is not None:
            return
        now_s = time.monotonic()
        if self.tasks and now_s - self._begun_s < DIAL_HEDGE_S:
            return
        if len(self._lanes) + len(self.tasks) < self._lanes_max:
            self._begun_s = now_s
            task = asyncio.get_running_loop().create_task(self._open_lane(), name=f"dial {self._name}")
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _open_lane(self) -> None:
        self.dials += 1
        begun_s = time.monotonic()
        try:
            lane = await self._connect()
        except Exception as error:  # whatever it is: also what a credential provider raises
            self._failed(error)
            return
        if lane.state is LaneState.CLOSED:  # lost between the handshake and now
            self._failed(RedisConnectionError(f"{self._name}: connection lost right after the handshake"))
            return
        self._failures_in_a_row = 0
        self._on_lane(lane, begun_s)

    def on_lost(self, lane: Lane) -> None:
        """A connection that ended soon after it was made is not made again at once: no storm of dials."""
        if time.monotonic() - lane.opened_s > SHORT_LIFE_S:
            self._short_lives_in_a_row = 0
        elif not self._lanes and self._breaker is None and not self._closed:
            self._short_lives_in_a_row += 1
            self._pause(backoff_s(self._short_lives_in_a_row, self._rng, cap_s=SHORT_LIFE_BACKOFF_CAP_S))

    # -- connections of any kind -----------------------------------------------------------------------------

    async def dial(self, connect: Callable[[], Awaitable[T]]) -> T:
        """Make a dedicated connection of any kind: a few at a time, counted, under the breaker.

        Raises NodeUnavailable, at once while the breaker is open.
        """
        async with self._permits:
            if self._breaker is not None:
                raise NodeUnavailable(f"{self._name}: not reachable at the moment: {self.last_error}")
            self.dials += 1
            try:
                connected = await connect()
            except Exception as error:  # as in _open_lane
                self._failed(error)
                raise NodeUnavailable(f"{self._name}: no connection: {self.last_error}") from error
            self._failures_in_a_row = 0
            return connected

    def _failed(self, error: Exception) -> None:
        """Note it, and open the breaker."""
        self.failures += 1
        self.last_error = str(error) or type(error).__name__
        if self._breaker is None and not self._closed:
            self._failures_in_a_row += 1
            self._pause(backoff_s(self._failures_in_a_row, self._rng, DIAL_BACKOFF_BASE_S))
        self._on_failed(error)

    def _pause(self, delay_s: float) -> None:
        self._breaker = asyncio.get_running_loop().call_later(delay_s, self._allow)

    def _allow(self) -> None:
        self._breaker = None
        self._on_allowed()

    def close(self) -> None:
        """No more dials, and an end to those under way."""
        self._closed = True
        if self._breaker is not None:
            self._breaker.cancel()
            self._breaker = None
        for task in self.tasks:
            task.cancel()
