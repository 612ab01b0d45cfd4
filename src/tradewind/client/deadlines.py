"""Looks after one node as time passes: deadlines and silence, and what callers are told of them."""

import asyncio
import time
from typing import TYPE_CHECKING

from tradewind.client.command import Command
from tradewind.client.errors import DeadlineExceeded, NodeUnavailable, OutcomeUnknown, Overloaded
from tradewind.client.policy import Limits, Timeouts

if TYPE_CHECKING:
    from tradewind.client.node import Node, NodeOwner

LISTENERS_LOOK_S = 5.0  # how long a subscriber may listen to a node that has left the cluster


class Deadlines:
    """What the watchdog sees of a node: those who wait in its line, and those who wait in its lanes."""

    def __init__(self, node: "Node", owner: "NodeOwner", *, limits: Limits, timeouts: Timeouts) -> None:
        self._node = node
        self._owner = owner
        self._limits = limits
        self._timeouts = timeouts
        self._listeners_timer: asyncio.TimerHandle | None = None

    @property
    def active(self) -> bool:
        """Something here has a deadline."""
        return bool(self._node.in_flight or self._node.waiting)

    def has_expired(self, now_s: float) -> bool:
        """Somebody's deadline has passed and nobody has told them yet."""
        queues = [self._node.waiting, *(lane.in_flight for lane in self._node.lanes)]
        return any(c.deadline <= now_s and not c.future.done() for queue in queues for c in queue)

    def heard_since(self, time_s: float) -> bool:
        """Something has come from the server since then."""
        return any(lane.last_heard_s > time_s for lane in self._node.lanes)

    def excuse_silence(self, seconds: float) -> None:
        """This process stood still for so long; the server is not to blame."""
        for lane in self._node.lanes:
            lane.excuse_silence(seconds)

    def is_silent(self, now_s: float) -> bool:
        """The server owes replies and has said nothing for longer than is normal."""
        return any(lane.silent_for_s(now_s) > self._timeouts.suspect_s for lane in self._node.lanes)

    def tick(self, now_s: float) -> None:
        """Look after the lanes: silence, slowness, idle connections. Called a few times a second.

        A silent lane is given up when the command that it owes has had its time: a slow one may take longer.
        """
        for lane in list(self._node.lanes):
            silent_s = lane.silent_for_s(now_s)
            if silent_s > self._timeouts.silence_s and lane.in_flight[0].deadline <= now_s:
                lane.close(
                    DeadlineExceeded(f"{lane.name}: no reply for {silent_s:.1f} s, connection given up")
                )
            elif silent_s > self._timeouts.suspect_s:
                self._owner.on_suspect(self._node)
        self._node.close_ranks()
        self._node.choose_lane(now_s)

    def expire(self, now_s: float, stalled_s: float) -> None:
        """Tell the callers whose time is over. To be called once the sockets have been drained again."""
        node = self._node
        for command in node.waiting:
            if command.deadline <= now_s and not command.future.done():
                self._owner.tell(command, self.waited_too_long(command))
                node.meter.given_up(command, now_s, now_s)
        node.close_ranks()
        for lane in node.lanes:
            if lane.has_more:
                continue  # replies are here: they come first
            for command in lane.in_flight:
                if command.deadline <= now_s and not command.future.done() and command.part_of is None:
                    self._owner.tell(command, self._unanswered(command, stalled_s))
                    node.meter.given_up(command, lane.oldest_sent_s(now_s), now_s)

    def waited_too_long(self, command: Command) -> Exception:
        """What is told to a caller whose command was never sent."""
        node, limits, now_s = self._node, self._limits, time.monotonic()
        waited_s = now_s - command.created_s
        # What was asked before any of these lanes was opened has waited for one of them, not for room.
        if not node.connected or all(lane.opened_s > command.created_s for lane in node.lanes):
            dialer = node.dialer
            return NodeUnavailable(
                f"{node.name}: no connection for {waited_s:.2f} s, until the deadline of {command.name} "
                f"({len(node.waiting)} waiting, {dialer.dials} dials, {dialer.failures} failed); nothing "
                f"was sent; last error: {dialer.last_error or 'none'}"
            )
        return Overloaded(
            f"{node.name}: {command.name} waited {waited_s:.2f} s for room, until its deadline: "
            f"{node.in_flight} of at most {limits.in_flight_max} commands and {node.in_flight_bytes} of "
            f"{limits.in_flight_bytes_max} bytes in flight, {len(node.waiting)} waiting, oldest "
            f"{node.oldest_wait_s(now_s):.2f} s; nothing was sent"
        )

    def _unanswered(self, command: Command, stalled_s: float) -> Exception:
        phase = f"; this process's event loop stalled for {stalled_s:.2f} s" if stalled_s else ""
        passed_s = time.monotonic() - command.created_s
        text = (
            f"{self._node.name}: {command.name} was sent and not answered before its deadline, "
            f"after {passed_s:.2f} s"
        )
        if command.repeatable:
            return DeadlineExceeded(f"{text} ({self._node.in_flight} in flight){phase}")
        return OutcomeUnknown(f"{text}: it may have run, once ({self._node.in_flight} in flight){phase}")

    def look_after_listeners(self) -> None:
        """Somebody listens at the node, on a connection of its own.

        Who only listens cannot tell a silent server from a dead one: as long as somebody does, the cluster is
        asked every few seconds whether the node is still one of it.
        """
        if self._listeners_timer is None:
            loop = asyncio.get_running_loop()
            self._listeners_timer = loop.call_later(LISTENERS_LOOK_S, self._look_at_listeners)

    def _look_at_listeners(self) -> None:
        self._listeners_timer = None
        if self._node.dedicated.is_held:
            self._owner.on_suspect(self._node)
            self.look_after_listeners()

    def close(self) -> None:
        """Nobody listens at the node any more."""
        if self._listeners_timer is not None:
            self._listeners_timer.cancel()
            self._listeners_timer = None
