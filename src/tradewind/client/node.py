"""One server as the client sees it: its lanes, its dedicated connections, its limits, its breaker.

Owns every connection to the server. Commands that may share go to a lane when there is room, otherwise they
wait in arrival order; what must not share borrows a dedicated connection, of which there is a bounded number.
A dead server stops only what is meant for it: dials back off, its own queue waits, nothing else notices.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError

from tradewind.client.command import Command
from tradewind.client.connect import ConnectionSettings, open_lane, open_stream
from tradewind.client.dedicated import DedicatedConnections, RightHolder
from tradewind.client.errors import (
    ClientClosed,
    DeadlineExceeded,
    NodeUnavailable,
    OutcomeUnknown,
    Overloaded,
)
from tradewind.client.lane import Lane, LaneState
from tradewind.client.meter import Meter, SlowLog
from tradewind.client.policy import Limits, Timeouts, backoff_s
from tradewind.client.stats import NodeStats
from tradewind.client.topology import Endpoint
from tradewind.client.upkeep import Upkeep

SLOW_LANE_S = 0.1  # a lane that owes a reply for so long is passed by as long as another lane is quicker
DIAL_BACKOFF_BASE_S = 0.05
DIAL_HEDGE_S = 1.0  # a dial that takes longer may have another beside it
SHORT_LIFE_S = 1.0  # a connection that ended before that is made again with a pause
SHORT_LIFE_BACKOFF_CAP_S = 0.25
LISTENERS_LOOK_S = 5.0  # how long a subscriber may listen to a node that has left the cluster
RENEWAL_S_MIN = 1.0  # connections are renewed at most once in this time
T = TypeVar("T")


class NodeOwner(Protocol):
    """Who decides what happens to a command that a node could not finish."""

    slow_log: SlowLog

    def tell(self, command: Command, error: Exception) -> None:
        """Fail the command, and count the error."""

    def on_error_reply(self, node: "Node", command: Command, error: Exception) -> None:
        """The server answered with an error."""

    def on_lost(self, node: "Node", sent: list[Command], error: Exception) -> None:
        """A shared connection ended; these commands had been sent and have no reply."""

    def on_dial_failed(self, node: "Node", error: Exception) -> None:
        """A connection could not be made."""

    def count(self, error: Exception) -> None:
        """Count an error that no caller hears of."""

    def keep_watch(self) -> None:
        """Something was sent that `tick` has to look after."""

    def on_suspect(self, node: "Node") -> None:
        """The node owes replies and has been silent for a while: does it still own its slots?"""


class Node:
    """One server. Not thread safe; belongs to one event loop."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        owner: NodeOwner,
        limits: Limits,
        timeouts: Timeouts,
        settings: ConnectionSettings,
        rng: random.Random,
    ) -> None:
        self.endpoint = endpoint
        self.name = endpoint.name
        self.role = "unknown"
        self.announced_name: str | None = None  # the host name that the cluster gives for it
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.waiting: deque[Command] = deque()
        self.last_error = ""
        self.dials = self.dial_failures = self.connections_lost = 0
        self.waits = self.redirects = self.reconnects = 0
        self.meter = Meter(self.name, owner.slow_log)
        self.generation = 0  # another one whenever a lane is opened or lost
        self._owner = owner
        self._limits = limits
        self._in_flight_max = limits.in_flight_max  # at hand for the hot path
        self._in_flight_bytes_max = limits.in_flight_bytes_max
        self._timeouts = timeouts
        self._settings = settings
        self._rng = rng
        self._lanes: list[Lane] = []
        self._preferred: Lane | None = None
        self._outdated: set[Lane] = set()  # of the lanes: get nothing new, are closed when they owe nothing
        self._renewed_s = float("-inf")
        self._dial_tasks: set[asyncio.Task[None]] = set()
        self._dial_begun_s = 0.0
        self._failures_in_a_row = 0
        self._short_lives_in_a_row = 0
        self._retry_timer: asyncio.TimerHandle | None = None
        self._listeners_timer: asyncio.TimerHandle | None = None
        self._dial_permits = asyncio.Semaphore(limits.dials_max)
        self.dedicated = DedicatedConnections(
            self.name,
            count_max=limits.dedicated_max,
            idle_s_max=min(limits.dedicated_idle_s_max, settings.health_check_s or float("inf")),
            open_connection=self._open_dedicated,
        )
        self.upkeep = Upkeep(
            self._lanes,
            self.dedicated,
            settings=settings,
            answer_s=timeouts.silence_s,
            send=self._send_upkeep,
            renew=self.renew_connections,
            on_refused=owner.count,
            rng=rng,
        )
        self._closed: ClientClosed | None = None

    # -- shared lanes ----------------------------------------------------------------------------------------

    def submit(self, command: Command) -> None:
        """Send on a lane now if there is room, else wait in line. The waiter is told whatever happens."""
        if not (command.asking or command.is_block or command.raw):
            self.submit_plain(command)
        elif self._preferred is not None and not self.waiting and self._has_room():
            self._send(self._preferred, command)
        else:
            self._wait_in_line(command)

    def submit_plain(self, command: Command) -> None:
        """`submit` for a command that has no parts and is not raw: the hot path."""
        lane = self._preferred
        if (
            lane is not None
            and not self.waiting
            and self.in_flight < self._in_flight_max
            and self.in_flight_bytes < self._in_flight_bytes_max
        ):
            self.in_flight += 1
            self.in_flight_bytes += len(command.packed)
            lane.outbox.append(command)  # as lane.submit does, for one that is open: the preferred one is
            if not lane.flush_scheduled:
                lane.schedule_flush()
        else:
            self._wait_in_line(command)

    def _has_room(self) -> bool:
        return self.in_flight < self._in_flight_max and self.in_flight_bytes < self._in_flight_bytes_max

    def _send(self, lane: Lane, command: Command) -> None:
        row = command.row()  # each a command of its own on the wire, with a reply of its own
        self.in_flight += len(row)
        self.in_flight_bytes += sum([len(item.packed) for item in row])
        lane.submit_row(row)

    def _wait_in_line(self, command: Command) -> None:
        if self._closed is not None:
            self._owner.tell(command, ClientClosed(str(self._closed)))
            return
        self.waiting.append(command)
        self.waits += 1
        self.connect_soon()

    def may_skip_replies(self) -> bool:
        """Whether the server lets this user leave replies out; yes as long as no connection is open.

        Each connection is asked at the first call, and says no until the server has answered.
        """
        lane = self._preferred
        if lane is None:
            return True
        if lane.may_skip_replies is None:
            self.upkeep.ask_to_skip_replies(lane)
        return bool(lane.may_skip_replies)

    def write_unanswered(self, data: bytes) -> None:
        """Write what has no reply, if a connection is open and takes it; else it is dropped."""
        lane = self._preferred
        if lane is None:
            self._ensure_lane()
        elif not lane.write_paused:
            lane.skips_replies = True
            lane.write_unanswered(data)

    def _admit_waiting(self) -> None:
        """Give freed room to those who have waited longest."""
        now_s = time.monotonic()
        if self.waiting and self._preferred is not None and self._has_room():
            self.meter.line.record(self.oldest_wait_s(now_s))
        while self.waiting and self._preferred is not None and self._has_room():
            command = self.waiting.popleft()
            if command.future.done():
                continue
            if command.deadline <= now_s:  # sent now, its outcome would be unknown for nothing
                self._owner.tell(command, self._waited_too_long(command))
                continue
            self._send(self._preferred, command)

    def _ensure_lane(self) -> None:
        """Start a dial, unless one is under way, the breaker is open, or nothing is missing.

        A dial that hangs, as on a connection that was half open, does not keep another from being started.
        """
        if self._closed is not None or self._retry_timer is not None:
            return
        now_s = time.monotonic()
        if self._dial_tasks and now_s - self._dial_begun_s < DIAL_HEDGE_S:
            return
        if len(self._lanes) + len(self._dial_tasks) < self._limits.shared_lanes_max:
            self._dial_begun_s = now_s
            task = asyncio.get_running_loop().create_task(self._dial(), name=f"dial {self.name}")
            self._dial_tasks.add(task)
            task.add_done_callback(self._dial_tasks.discard)

    async def _dial(self) -> None:
        self.dials += 1
        begun_s = time.monotonic()
        try:
            lane = await open_lane(*self.endpoint, self._settings, self.announced_name)
        except Exception as error:  # whatever it is: also what a credential provider raises
            self._dial_failed(error)
            return
        if lane.state is LaneState.CLOSED:  # lost between the handshake and now
            self._dial_failed(RedisConnectionError(f"{self.name}: connection lost right after the handshake"))
            return
        lane.owner, lane.meter = self, self.meter
        self.reconnects += self.reconnects < self.connections_lost
        self._failures_in_a_row = 0
        self._lanes.append(lane)
        self.generation += 1
        self.upkeep.opened(lane, begun_s)
        self._choose_preferred()
        self._admit_waiting()

    def _dial_failed(self, error: Exception) -> None:
        """Note it, and open the breaker: no dial of any kind until the timer fires."""
        self.dial_failures += 1
        self.last_error = str(error) or type(error).__name__
        if self._retry_timer is None and self._closed is None:
            self._failures_in_a_row += 1
            self._dial_later(backoff_s(self._failures_in_a_row, self._rng, DIAL_BACKOFF_BASE_S))
        self._owner.on_dial_failed(self, error)

    def _dial_later(self, delay_s: float) -> None:
        self._retry_timer = asyncio.get_running_loop().call_later(delay_s, self._retry_dial)

    def _retry_dial(self) -> None:
        self._retry_timer = None
        if self.waiting and self._preferred is None:
            self._ensure_lane()

    def _pace_dials(self, lost: Lane) -> None:
        """A connection that ended soon after it was made is not made again at once: no storm of dials."""
        if time.monotonic() - lost.opened_s > SHORT_LIFE_S:
            self._short_lives_in_a_row = 0
        elif not self._lanes and self._retry_timer is None and self._closed is None:
            self._short_lives_in_a_row += 1
            self._dial_later(backoff_s(self._short_lives_in_a_row, self._rng, cap_s=SHORT_LIFE_BACKOFF_CAP_S))

    def _choose_preferred(self) -> None:
        """The lane that new commands go to: the first, unless it is stuck behind a slow or large reply."""
        now_s = time.monotonic()
        lanes = [lane for lane in self._lanes if lane not in self._outdated]
        self._preferred = min(lanes, key=lambda lane: lane.behind_for_s(now_s) > SLOW_LANE_S, default=None)

    def renew_connections(self) -> None:
        """New commands go over new connections, for which the name is resolved afresh; when they are old.

        And for a server that says that it is a replica: after a failover its name may lead to another one.
        What is on its way stays there.
        """
        now_s = time.monotonic()
        if self._closed is None and now_s - self._renewed_s > RENEWAL_S_MIN:
            self._renewed_s = now_s
            self._outdated.update(self._lanes)
            self._choose_preferred()
            self.dedicated.renew(now_s)
            asyncio.get_running_loop().call_soon(self._close_outdated)

    def _close_outdated(self) -> None:
        for lane in [lane for lane in self._outdated if not lane.load]:
            self._lanes.remove(lane)  # so it does not count as lost
            lane.close(
                RedisConnectionError(f"{lane.name}: made anew: it was old, or the server became a replica")
            )

    def _send_upkeep(self, lane: Lane, command: Command) -> None:
        self._send(lane, command)
        self._owner.keep_watch()

    # -- what lanes report -----------------------------------------------------------------------------------

    def on_answered(self, _lane: Lane, count: int, size_bytes: int) -> None:
        self.in_flight -= count
        self.in_flight_bytes -= size_bytes
        if self._outdated:
            asyncio.get_running_loop().call_soon(self._close_outdated)
        if self.waiting:
            self._admit_waiting()

    def on_error_reply(self, _lane: Lane, command: Command, error: Exception) -> None:
        self._owner.on_error_reply(self, command, error)

    def on_lost(self, lane: Lane, sent: list[Command], unsent: list[Command], error: Exception) -> None:
        """What was not sent goes back to the head of the line, in order; the owner decides on the rest."""
        if lane in self._lanes:
            self._lanes.remove(lane)
            self.generation += 1
            self.connections_lost += 1
            self._pace_dials(lane)
        self._outdated.discard(lane)
        self.last_error = str(error)
        self.in_flight -= len(sent) + len(unsent)
        self.in_flight_bytes -= sum(len(command.packed) for command in (*sent, *unsent))
        self.waiting.extendleft(c for c in reversed(unsent) if c.part_of is None)
        self._choose_preferred()
        self._owner.on_lost(self, [c for c in sent if c.part_of is None], error)
        if self.waiting and self._preferred is None:
            self._ensure_lane()
        else:
            self._admit_waiting()

    def on_push(self, _lane: Lane, _message: list[Any] | Exception) -> None:
        return None

    # -- reads of a replica ----------------------------------------------------------------------------------

    def is_ready(self, now_s: float, patience_s: float) -> bool:
        """A read sent now can be expected to be answered."""
        lane = self._preferred
        return lane is not None and lane.silent_for_s(now_s) <= patience_s and self.upkeep.may_read

    def connect_soon(self) -> None:
        """Open a lane if there is none, as soon as dials are allowed."""
        if self._preferred is None:
            self._ensure_lane()

    # -- dedicated connections -------------------------------------------------------------------------------

    async def _open_dedicated(self) -> Lane:
        return await self.dial(partial(open_lane, *self.endpoint, self._settings, self.announced_name))

    async def open_stream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to this server, made as those of its lanes are, before the handshake."""
        return await open_stream(*self.endpoint, self._settings, self.announced_name)

    async def dial(self, connect: Callable[[], Awaitable[T]]) -> T:
        """Make a dedicated connection of any kind: a few at a time, counted, under the breaker.

        Raises NodeUnavailable, at once while the breaker is open.
        """
        async with self._dial_permits:
            if self._retry_timer is not None:
                raise NodeUnavailable(f"{self.name}: not reachable at the moment: {self.last_error}")
            self.dials += 1
            try:
                connected = await connect()
            except Exception as error:  # as in _dial
                self._dial_failed(error)
                raise NodeUnavailable(f"{self.name}: no connection: {self.last_error}") from error
            self._failures_in_a_row = 0
            return connected

    def on_demoted(self) -> None:
        """The node has lost its slots: who still blocks there would wait for news that come elsewhere.

        A live server says UNBLOCKED itself; one that hangs says nothing. Who listens to a replica may stay.
        """
        error = RedisConnectionError(f"{self.name}: it owns no slots any more")
        self.dedicated.drop_taken(error)
        if self.role == "unknown":
            self.dedicated.drop_held(error)

    async def hold(self, holder: RightHolder, deadline_s: float) -> None:
        """The right to one connection that `holder` makes itself; errors as `acquire_right`.

        Who only listens cannot tell a silent server from a dead one: as long as somebody does, the cluster is
        asked every few seconds whether the node is still one of it.
        """
        await self.dedicated.acquire_right(holder, deadline_s)
        self._look_at_listeners_later()

    def _look_at_listeners_later(self) -> None:
        if self._listeners_timer is None and self._closed is None:
            loop = asyncio.get_running_loop()
            self._listeners_timer = loop.call_later(LISTENERS_LOOK_S, self._look_at_listeners)

    def _look_at_listeners(self) -> None:
        self._listeners_timer = None
        if self.dedicated.is_held:
            self._owner.on_suspect(self)
            self._look_at_listeners_later()

    # -- the watchdog ----------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """A shared lane is open."""
        return self._preferred is not None

    @property
    def is_failing(self) -> bool:
        """The last dial failed, and the next one is not due yet."""
        return self._retry_timer is not None

    @property
    def busy(self) -> bool:
        """Somebody still needs this node."""
        return bool(self.in_flight or self.waiting or self.dedicated.busy or self._dial_tasks)

    def under_way(self) -> Iterator[Command]:
        """What waits in line or is in a shared lane."""
        yield from self.waiting
        for lane in self._lanes:
            yield from lane.in_flight
            yield from lane.outbox

    @property
    def active(self) -> bool:
        """Something here has a deadline."""
        return bool(self.in_flight or self.waiting)

    def has_expired(self, now_s: float) -> bool:
        """Somebody's deadline has passed and nobody has told them yet."""
        queues = [self.waiting, *(lane.in_flight for lane in self._lanes)]
        return any(c.deadline <= now_s and not c.future.done() for queue in queues for c in queue)

    def heard_since(self, time_s: float) -> bool:
        """Something has come from the server since then."""
        return any(lane.last_heard_s > time_s for lane in self._lanes)

    def excuse_silence(self, seconds: float) -> None:
        """This process stood still for so long; the server is not to blame."""
        for lane in self._lanes:
            lane.excuse_silence(seconds)

    def tick(self, now_s: float) -> None:
        """Look after the lanes: silence, slowness, idle connections. Called a few times a second.

        A silent lane is given up when the command that it owes has had its time: a slow one may take longer.
        """
        for lane in list(self._lanes):
            silent_s = lane.silent_for_s(now_s)
            if silent_s > self._timeouts.silence_s and lane.in_flight[0].deadline <= now_s:
                lane.close(
                    DeadlineExceeded(f"{lane.name}: no reply for {silent_s:.1f} s, connection given up")
                )
            elif silent_s > self._timeouts.suspect_s:
                self._owner.on_suspect(self)
        if self.waiting:  # those who left the line would be kept in it until its head moves
            self.waiting = deque(command for command in self.waiting if not command.future.done())
        self._choose_preferred()
        if self._preferred is None:
            if self.waiting:
                self._ensure_lane()
        elif self._preferred.behind_for_s(now_s) > SLOW_LANE_S:
            self._ensure_lane()

    def expire(self, now_s: float, stalled_s: float) -> None:
        """Tell the callers whose time is over. To be called once the sockets have been drained again."""
        for command in self.waiting:
            if command.deadline <= now_s and not command.future.done():
                self._owner.tell(command, self._waited_too_long(command))
                self.meter.given_up(command, now_s, now_s)
        self.waiting = deque(command for command in self.waiting if not command.future.done())
        for lane in self._lanes:
            if lane.has_more:
                continue  # replies are here: they come first
            for command in lane.in_flight:
                if command.deadline <= now_s and not command.future.done() and command.part_of is None:
                    self._owner.tell(command, self._unanswered(command, stalled_s))
                    self.meter.given_up(command, lane.oldest_sent_s(now_s), now_s)

    def _waited_too_long(self, command: Command) -> Exception:
        limits = self._limits
        waited_s = time.monotonic() - command.created_s
        if self._preferred is None:
            return NodeUnavailable(
                f"{self.name}: no connection for {waited_s:.2f} s, until the deadline of {command.name} "
                f"({len(self.waiting)} waiting, {self.dials} dials, {self.dial_failures} failed); nothing "
                f"was sent; last error: {self.last_error or 'none'}"
            )
        return Overloaded(
            f"{self.name}: {command.name} waited {waited_s:.2f} s for room, until its deadline: "
            f"{self.in_flight} of at most {limits.in_flight_max} commands and {self.in_flight_bytes} of "
            f"{limits.in_flight_bytes_max} bytes in flight, {len(self.waiting)} waiting, oldest "
            f"{self.oldest_wait_s(time.monotonic()):.2f} s; nothing was sent"
        )

    def _unanswered(self, command: Command, stalled_s: float) -> Exception:
        phase = f"; this process's event loop stalled for {stalled_s:.2f} s" if stalled_s else ""
        text = f"{self.name}: {command.name} was sent and not answered before its deadline"
        if command.repeatable:
            return DeadlineExceeded(f"{text} ({self.in_flight} in flight){phase}")
        return OutcomeUnknown(f"{text}: it may have run, once ({self.in_flight} in flight){phase}")

    def oldest_wait_s(self, now_s: float) -> float:
        """Age of the command that has waited longest for room or a connection."""
        try:
            return now_s - self.waiting[0].created_s
        except IndexError:  # no question to be asked before: stats() may be called from another thread
            return 0.0

    def is_silent(self, now_s: float) -> bool:
        """Owes replies and has said nothing for longer than is normal."""
        return any(lane.silent_for_s(now_s) > self._timeouts.suspect_s for lane in self._lanes)

    def take_waiting(self, wanted: Callable[[Command], bool] = lambda _command: True) -> list[Command]:
        """Those in line who are `wanted`, for somebody else to serve; the others stay."""
        commands = [command for command in self.waiting if not command.future.done()]
        self.waiting = deque(command for command in commands if not wanted(command))
        return [command for command in commands if wanted(command)]

    # -- the end ---------------------------------------------------------------------------------------------

    def drop_connections(self, error: Exception) -> None:
        """Close the shared lanes; what was in them goes to the owner."""
        for lane in list(self._lanes):
            lane.close(error)

    def forget(self, why: str = "the node has left the cluster") -> None:
        """Nobody needs the node any more: close its connections."""
        self._closed = ClientClosed(f"{self.name}: {why}")
        self.upkeep.stop()
        for timer in (self._retry_timer, self._listeners_timer):
            if timer is not None:
                timer.cancel()
        self._retry_timer = self._listeners_timer = None
        self.drop_connections(self._closed)
        for task in self._dial_tasks:
            task.cancel()
        self.dedicated.close()

    async def aclose(self) -> None:
        """Close every connection. Who still waits is told ClientClosed, or OutcomeUnknown for sent writes."""
        self.forget("the client is closed")
        for command in self.take_waiting():
            self._owner.tell(command, ClientClosed(f"{self.name}: the client is closed"))
        await asyncio.gather(*self._dial_tasks, *self.dedicated.openings, return_exceptions=True)

    def stats(self, now_s: float) -> NodeStats:
        """This node now."""
        return NodeStats(
            name=self.name,
            role=self.role,
            lanes=len(self._lanes),
            dedicated=self.dedicated.connections,
            dedicated_idle=self.dedicated.idle,
            connections_max=self._limits.connections_max,
            in_flight=self.in_flight,
            in_flight_max=self._limits.in_flight_max,
            in_flight_bytes=self.in_flight_bytes,
            waiting=len(self.waiting),
            waiting_bytes=sum(len(command.packed) for command in tuple(self.waiting)),
            waiting_dedicated=self.dedicated.waiting,
            oldest_wait_s=self.oldest_wait_s(now_s),
            waits=self.waits,
            redirects=self.redirects,
            dials=self.dials,
            dial_failures=self.dial_failures,
            connections_lost=self.connections_lost,
            reconnects=self.reconnects,
            last_error=self.last_error,
            replies=self.meter.replies.summary(),
            line=self.meter.line.summary(),
            durable=self.meter.durable.summary(),
        )

    def __repr__(self) -> str:
        return (
            f"<Node {self.name} {self.role} lanes={len(self._lanes)} dedicated={self.dedicated.connections} "
            f"of={self._limits.connections_max} in_flight={self.in_flight} waiting={len(self.waiting)}>"
        )
