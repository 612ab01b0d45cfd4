"""WATCH: a connection of the slot's owner that one pipeline holds until EXEC, UNWATCH, or its end.

What is watched is known to that connection only. So whatever ends the connection, or moves the slot, ends the
watch: nothing was executed then, and the caller begins anew (WatchError), as `client.transaction` does.
"""

import asyncio
import time
import weakref
from typing import TYPE_CHECKING, Any

from redis.exceptions import AskError, RedisError, WatchError

from tradewind.client.command import Command
from tradewind.client.commit import WAIT_MARGIN_S, WAIT_MS, barrier_result, not_replicated
from tradewind.client.dedicated import from_finalizer
from tradewind.client.errors import ClientClosed, DeadlineExceeded, OutcomeUnknown
from tradewind.client.exclusive import (
    ConnectionLost,
    answered_by,
    exclusive_request,
    exclusive_submit,
    give_up,
    on_owner,
    unanswered,
)
from tradewind.client.lane import Lane, LaneState
from tradewind.client.node import Node
from tradewind.client.policy import Verdict, judge, unknown_outcome
from tradewind.client.transaction import Transaction

if TYPE_CHECKING:
    from tradewind.client.router import Router

UNWATCH_S = 1.0  # after that the connection is closed instead


class Watch:
    """One watched connection. Not thread safe; its commands come one after the other."""

    def __init__(self, router: "Router", node: Node, lane: Lane, *, asking: bool) -> None:
        self._router = router
        self._node = node
        self._lane: Lane | None = lane  # None at the end
        self._asking = asking  # the slot is moving, and the keys are at its new owner
        self._lost_because = "it has ended"
        # A pipeline that is dropped without reset() takes no connection with it.
        self._forgotten = weakref.finalize(self, _close_forgotten, asyncio.get_running_loop(), node, lane)
        self._forgotten.atexit = False

    @property
    def is_over(self) -> bool:
        """The connection has been given back: nothing is watched, and every command raises WatchError."""
        return self._lane is None

    async def send(self, command: Command) -> Any:
        """Run a command at once on the connection.

        Raises WatchError when the watch has ended; the command did not run, or was a read. OutcomeUnknown for
        a write that was sent and got no reply. An error of the server leaves the watch as it is.
        """
        while True:
            try:
                return await self._reply(command, command.deadline)
            except RedisError as error:
                verdict = Verdict.FAIL if isinstance(error, ConnectionLost) else judge(error)
                if verdict is Verdict.RETRY:  # TRYAGAIN, BUSY: refused, and still watching
                    await self._router.retries.pause(command, error)
                    continue
                told = self._told(command, error)
                if told is error and not isinstance(error, DeadlineExceeded | OutcomeUnknown):
                    raise
                self._lost_because = f"{type(told).__name__}: {told}"
                await self.close()
                raise told from error

    async def execute(self, transaction: Transaction, replicas: int) -> Any:
        """EXEC, with `replicas` confirmed by so many of them, and the end of the watch. Never sent twice.

        Raises WatchError when something watched has changed, or may have: nothing was executed.
        OutcomeUnknown when no reply came, or too few replicas confirmed it.
        """
        try:
            if replicas:
                reply = await self._durable_reply(transaction, replicas)
            else:
                reply = await self._reply(transaction, transaction.deadline)
        except RedisError as error:
            told = self._told(transaction, error)
            if told is error:
                raise
            raise told from error
        finally:
            self._give_back()
        if reply is None:
            raise WatchError("Watched variable changed.")
        return reply

    async def _reply(self, command: Command, deadline_s: float) -> Any:
        reply = self._sent(command)
        if await answered_by(reply, deadline_s):
            return reply.result()
        give_up(reply)
        raise unanswered(self._node, command)

    async def _durable_reply(self, transaction: Transaction, replicas: int) -> Any:
        """As a batch of durable writes: WAIT right behind it, and nothing behind WAIT."""
        reply = self._sent(transaction)
        assert self._lane is not None
        barrier = exclusive_submit(self._lane, ("WAIT", replicas, WAIT_MS))
        answered = False
        try:
            answered = await answered_by(barrier, time.monotonic() + WAIT_MS / 1000 + WAIT_MARGIN_S)
        finally:
            if not answered:
                give_up(barrier)
                give_up(reply)
        if not answered:
            raise unanswered(self._node, transaction)
        replicated, failure = barrier_result(barrier)
        value = reply.result()
        if value is not None and (failure is not None or replicated < replicas):
            raise not_replicated(self._node, transaction, replicated, replicas, failure)
        return value

    def _sent(self, command: Command) -> "asyncio.Future[Any]":
        if self._lane is None:
            happened = f"The watch was lost ({self._lost_because})"
            raise WatchError(f"{happened}; nothing was executed since then, begin anew with watch()")
        command.asking = self._asking
        return exclusive_request(self._lane, command)

    def _told(self, command: Command, error: RedisError) -> RedisError:
        """What the caller hears of the error.

        1. The connection ended, or nothing was to be read on it in time.
        2. The server refused for now: another node owns the slot, or this one is not fit to serve it.
        3. The server's answer to this command.
        """
        if isinstance(error, ConnectionLost):
            if error.was_sent and not (command.repeatable or self._router.retries.policy.always):
                what = f"{self._node.name}: {command.name} was sent and its connection ended"
                return unknown_outcome(what, error)
            if self._router.closed:
                return ClientClosed("the client is closed")
            return WatchError("A ConnectionError occurred while watching one or more keys")
        if judge(error) is Verdict.FAIL:
            return error
        try:
            self._router.learn(self._node, command, error)
        except RedisError as final:
            return final
        if isinstance(error, AskError):
            return WatchError("Slot rebalancing occurred while watching keys")
        return WatchError(f"A {type(error).__name__} occurred while watching one or more keys")

    async def close(self) -> None:
        """Watch nothing any more, and give the connection back; if it cannot say so soon, it is closed."""
        lane, confirmed = self._lane, False
        try:
            if lane is not None and lane.state is LaneState.OPEN and not lane.load:
                reply = exclusive_submit(lane, ("UNWATCH",))
                answered = await answered_by(reply, time.monotonic() + UNWATCH_S)
                give_up(reply)
                confirmed = answered and reply.exception() is None
        finally:
            if lane is not None and not confirmed:
                lane.close(ClientClosed(f"{lane.name}: UNWATCH was not confirmed"))
            self._give_back()

    def _give_back(self) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            self._forgotten.detach()
            self._node.dedicated.release(lane)


def _close_forgotten(loop: asyncio.AbstractEventLoop, node: Node, lane: Lane) -> None:
    def close() -> None:
        lane.close(ClientClosed(f"{lane.name}: nobody watches any more"))
        node.dedicated.release(lane)

    from_finalizer(loop, close)


async def begin_watch(router: "Router", command: Command) -> Watch:
    """Send WATCH, which `command` is, on a dedicated connection of the slot's owner, wherever that moves.

    Raises as any read does, and SharedConnectionError if max_connections leaves no dedicated connection.
    """

    async def use(node: Node) -> Watch:
        asking, lane = command.asking, await node.dedicated.acquire(command.deadline)
        watch = Watch(router, node, lane, asking=asking)
        try:
            await watch._reply(command, command.deadline)
        except BaseException as error:
            if not isinstance(error, RedisError):  # cancelled, perhaps as the reply came: it may be watching
                lane.close(ClientClosed(f"{lane.name}: WATCH was given up"))
            watch._give_back()
            raise
        return watch

    watch = await on_owner(router, command, use)
    assert watch is not None
    return watch
