"""One server as the client sees it: what may share goes to its lanes while there is room, or waits in line.

A dead server stops only what is meant for it: its own line waits, nothing else notices.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError

from tradewind.client.command import Command
from tradewind.client.connect import ConnectionSettings, open_lane, open_stream
from tradewind.client.deadlines import Deadlines
from tradewind.client.dedicated import DedicatedConnections, RightHolder
from tradewind.client.dialer import Dialer
from tradewind.client.errors import ClientClosed
from tradewind.client.lane import Lane
from tradewind.client.meter import Meter, SlowLog
from tradewind.client.policy import Limits, Timeouts
from tradewind.client.stats import NodeStats
from tradewind.client.topology import Endpoint
from tradewind.client.upkeep import Upkeep

SLOW_LANE_S = 0.1  # a lane that owes a reply for so long is passed by as long as another lane is quicker
RENEWAL_S_MIN = 1.0  # connections are renewed at most once in this time


class NodeOwner(Protocol):
    """Who decides what happens to a command that a node could not finish."""

    slow_log: SlowLog
    on_push: Callable[["Node", Any], None]

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
        self.waits = self.redirects = self.reconnects = self.connections_lost = 0
        self.meter = Meter(self.name, owner.slow_log)
        self.generation = 0  # another one whenever a lane is opened or lost
        self._owner = owner
        self._limits = limits
        self._in_flight_max = limits.in_flight_max  # at hand for the hot path
        self._in_flight_bytes_max = limits.in_flight_bytes_max
        self._settings = settings
        self.lanes: list[Lane] = []  # the shared ones that are open
        self._preferred: Lane | None = None
        self._outdated: set[Lane] = set()  # of the lanes: get nothing new, are closed when they owe nothing
        self._aged: set[Lane] = set()  # of the lanes: become outdated when a new one is there
        self._renewed_s = float("-inf")
        self.dialer = Dialer(
            self.name,
            self.lanes,
            limits=limits,
            connect=self._open_lane,
            on_lane=self._on_lane,
            on_failed=partial(owner.on_dial_failed, self),
            on_allowed=self._on_dials_allowed,
            rng=rng,
        )
        self.deadlines = Deadlines(self, owner, limits=limits, timeouts=timeouts)
        self.dedicated = DedicatedConnections(
            self.name,
            count_max=limits.dedicated_max,
            idle_s_max=min(limits.dedicated_idle_s_max, settings.health_check_s or float("inf")),
            open_connection=self._open_dedicated,
        )
        self.upkeep = Upkeep(
            self.lanes,
            self.dedicated,
            settings=settings,
            answer_s=timeouts.silence_s,
            send=self._send_upkeep,
            renew=self.replace_old_lanes,
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
        """Queue what has no reply, if a connection is open and takes it; else it is dropped."""
        lane = self._preferred
        if lane is None:
            self.connect_soon()
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
                self._owner.tell(command, self.deadlines.waited_too_long(command))
                continue
            self._send(self._preferred, command)

    def _on_lane(self, lane: Lane, begun_s: float) -> None:
        lane.owner, lane.meter = self, self.meter
        self.reconnects += self.reconnects < self.connections_lost
        self.lanes.append(lane)
        self.generation += 1
        self.upkeep.opened(lane, begun_s)
        if self._aged:
            self._leave(self._aged)
        self._choose_preferred()
        self._admit_waiting()

    def _on_dials_allowed(self) -> None:
        if self.waiting:
            self.connect_soon()
        if self._aged:
            self.dialer.open_lane_soon()

    def connect_soon(self) -> None:
        """Open a lane if there is none, as soon as dials are allowed."""
        if self._preferred is None:
            self.dialer.open_lane_soon()

    def choose_lane(self, now_s: float) -> None:
        """Pass by a lane that is stuck, and have another one where none is quick or none is there."""
        self._choose_preferred()
        if self._preferred is None:
            if self.waiting:
                self.dialer.open_lane_soon()
        elif self._preferred.behind_for_s(now_s) > SLOW_LANE_S:
            self.dialer.open_lane_soon()

    def _choose_preferred(self) -> None:
        """The lane that new commands go to: the first, unless it is stuck behind a slow or large reply."""
        now_s = time.monotonic()
        lanes = [lane for lane in self.lanes if lane not in self._outdated]
        self._preferred = min(lanes, key=lambda lane: lane.behind_for_s(now_s) > SLOW_LANE_S, default=None)

    def renew_connections(self) -> None:
        """New commands go over new connections, for which the name is resolved afresh.

        For a server that says that it is a replica: after a failover its name may lead to another one. What
        is on its way stays there.
        """
        now_s = time.monotonic()
        if self._closed is None and now_s - self._renewed_s > RENEWAL_S_MIN:
            self._renewed_s = now_s
            self._leave(self.lanes)
            self._choose_preferred()
            self.dedicated.renew(now_s)

    def replace_old_lanes(self) -> None:
        """The lanes are old: another one is made, and they serve until it is there, however long that takes.

        Where all places are taken, the last lane makes room; with one place in all, callers wait meanwhile.
        """
        self._aged.update(self.lanes)
        if len(self.lanes) >= self._limits.shared_lanes_max:
            self._leave(self.lanes[-1:])
            self._choose_preferred()
        self.dedicated.renew(time.monotonic())
        self.dialer.open_lane_soon()

    def _leave(self, lanes: Iterable[Lane]) -> None:
        """They get nothing new, and are closed when they owe nothing."""
        self._outdated.update(lanes)
        self._aged.difference_update(self._outdated)
        asyncio.get_running_loop().call_soon(self._close_outdated)

    def _close_outdated(self) -> None:
        for lane in [lane for lane in self._outdated if not lane.load]:
            self.lanes.remove(lane)  # so it does not count as lost
            lane.close(
                RedisConnectionError(f"{lane.name}: made anew: it was old, or the server became a replica")
            )
        if self._aged:  # there may be room now
            self.dialer.open_lane_soon()

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
        if lane in self.lanes:
            self.lanes.remove(lane)
            self.generation += 1
            self.connections_lost += 1
            self.dialer.on_lost(lane)
        self._outdated.discard(lane)
        self._aged.discard(lane)
        self.dialer.last_error = str(error)
        self.in_flight -= len(sent) + len(unsent)
        self.in_flight_bytes -= sum(len(command.packed) for command in (*sent, *unsent))
        self.waiting.extendleft(c for c in reversed(unsent) if c.part_of is None)
        self._choose_preferred()
        self._owner.on_lost(self, [c for c in sent if c.part_of is None], error)
        if self.waiting and self._preferred is None:
            self.dialer.open_lane_soon()
        else:
            self._admit_waiting()

    def on_push(self, _lane: Lane, message: list[Any] | Exception) -> None:
        self._owner.on_push(self, message)

    # -- reads of a replica ----------------------------------------------------------------------------------

    def is_ready(self, now_s: float, patience_s: float) -> bool:
        """A read sent now can be expected to be answered."""
        lane = self._preferred
        return lane is not None and lane.silent_for_s(now_s) <= patience_s and self.upkeep.may_read

    # -- dedicated connections -------------------------------------------------------------------------------

    async def _open_lane(self) -> Lane:
        return await open_lane(*self.endpoint, self._settings, self.announced_name)

    async def _open_dedicated(self) -> Lane:
        return await self.dialer.dial(self._open_lane)

    async def open_stream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to this server, made as those of its lanes are, before the handshake."""
        return await open_stream(*self.endpoint, self._settings, self.announced_name)

    def on_demoted(self) -> None:
        """The node has lost its slots: who still blocks there would wait for news that come elsewhere.

        A live server says UNBLOCKED itself; one that hangs says nothing. Who listens to a replica may stay.
        """
        error = RedisConnectionError(f"{self.name}: it owns no slots any more")
        self.dedicated.drop_taken(error)
        if self.role == "unknown":
            self.dedicated.drop_held(error)

    async def hold(self, holder: RightHolder, deadline_s: float) -> None:
        """The right to one connection that `holder` makes itself; errors as `acquire_right`."""
        await self.dedicated.acquire_right(holder, deadline_s)
        self.deadlines.look_after_listeners()

    # -- who is here -----------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """A shared lane is open."""
        return self._preferred is not None

    @property
    def busy(self) -> bool:
        """Somebody still needs this node."""
        return bool(self.in_flight or self.waiting or self.dedicated.busy or self.dialer.busy)

    def under_way(self) -> Iterator[Command]:
        """What waits in line or is in a shared lane."""
        yield from self.waiting
        for lane in self.lanes:
            yield from lane.in_flight
            yield from lane.outbox

    def oldest_wait_s(self, now_s: float) -> float:
        """Age of the command that has waited longest for room or a connection."""
        try:
            return now_s - self.waiting[0].created_s
        except IndexError:  # no question to be asked before: stats() may be called from another thread
            return 0.0

    def close_ranks(self) -> None:
        """Those who left the line would be kept in it until its head moves."""
        if self.waiting:
            self.waiting = deque(command for command in self.waiting if not command.future.done())

    def take_waiting(self, wanted: Callable[[Command], bool] = lambda _command: True) -> list[Command]:
        """Those in line who are `wanted`, for somebody else to serve; the others stay."""
        commands = [command for command in self.waiting if not command.future.done()]
        self.waiting = deque(command for command in commands if not wanted(command))
        return [command for command in commands if wanted(command)]

    # -- the end ---------------------------------------------------------------------------------------------

    def drop_connections(self, error: Exception) -> None:
        """Close the shared lanes; what was in them goes to the owner."""
        for lane in list(self.lanes):
            lane.close(error)

    def forget(self, why: str = "the node has left the cluster") -> None:
        """Nobody needs the node any more: close its connections."""
        self._closed = ClientClosed(f"{self.name}: {why}")
        self.upkeep.stop()
        self.deadlines.close()
        self.dialer.close()
        self.drop_connections(self._closed)
        self.dedicated.close()

    async def aclose(self) -> None:
        """Close every connection. Who still waits is told ClientClosed, or OutcomeUnknown for sent writes."""
        self.forget("the client is closed")
        for command in self.take_waiting():
            self._owner.tell(command, ClientClosed(f"{self.name}: the client is closed"))
        await asyncio.gather(*self.dialer.tasks, *self.dedicated.openings, return_exceptions=True)

    def stats(self, now_s: float) -> NodeStats:
        """This node now."""
        return NodeStats(
            name=self.name,
            role=self.role,
            lanes=len(self.lanes),
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
            dials=self.dialer.dials,
            dial_failures=self.dialer.failures,
            connections_lost=self.connections_lost,
            reconnects=self.reconnects,
            last_error=self.dialer.last_error,
            replies=self.meter.replies.summary(),
            line=self.meter.line.summary(),
            durable=self.meter.durable.summary(),
        )

    def __repr__(self) -> str:
        return (
            f"<Node {self.name} {self.role} lanes={len(self.lanes)} dedicated={self.dedicated.connections} "
            f"of={self._limits.connections_max} in_flight={self.in_flight} waiting={len(self.waiting)}>"
        )
