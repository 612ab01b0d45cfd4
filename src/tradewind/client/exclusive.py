"""A lane that one caller has for itself: for the handshake, blocking commands, WATCH and durable batches."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import ClusterDownError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from tradewind.client.command import Command, pack
from tradewind.client.errors import (
    ClientClosed,
    DeadlineExceeded,
    NodeUnavailable,
    OutcomeUnknown,
    Overloaded,
    SharedConnectionError,
    TradewindError,
)
from tradewind.client.lane import Lane
from tradewind.client.policy import unknown_outcome

if TYPE_CHECKING:
    from tradewind.client.node import Node
    from tradewind.client.router import Router

Result = TypeVar("Result")

DRAIN_S = 0.001  # after the deadline the socket is read once more: a reply that is already here wins


class ConnectionLost(RedisConnectionError):
    """An exclusive connection ended; internal: callers see OutcomeUnknown, or the command is tried again."""

    def __init__(self, message: str, *, was_sent: bool) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class ExclusiveOwner:
    """Owner of a lane that one caller has for itself: everything is said to the command's own waiter.

    A lost connection fails each command with ConnectionLost, which says whether it had been sent.
    """

    def on_answered(self, _lane: Lane, _count: int, _size_bytes: int) -> None:
        return None

    def on_error_reply(self, _lane: Lane, command: Command, error: Exception) -> None:
        command.fail(error)

    def on_lost(self, _lane: Lane, sent: list[Command], unsent: list[Command], error: Exception) -> None:
        for command in sent:
            command.fail(ConnectionLost(str(error), was_sent=True))
        for command in unsent:
            command.fail(ConnectionLost(str(error), was_sent=False))

    def on_push(self, _lane: Lane, _message: list[Any] | Exception) -> None:
        return None


EXCLUSIVE_OWNER = ExclusiveOwner()


def exclusive_submit(lane: Lane, args: tuple[Any, ...]) -> "asyncio.Future[Any]":
    """Send a command on a lane that the caller has for itself; the future gets the reply or the error."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    lane.submit(Command(str(args[0]), pack(args), future, -1, False, time.monotonic(), float("inf")))
    return future


def exclusive_request(lane: Lane, command: Command) -> "asyncio.Future[Any]":
    """Send a caller's command on an exclusive lane, with a future of its own for what the wire says.

    So the caller is told only when more than the reply is known: a barrier, or that no other try is left.
    """
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    shadow = command.shadow(future)
    command.asking = False
    lane.submit_row(shadow.row())
    return future


async def answered_by(reply: "asyncio.Future[Any]", deadline_s: float) -> bool:
    """Wait for a reply until the deadline (of the monotonic clock); say whether it came, as value or error.

    After the deadline the socket is drained once, so that time which this process lost is not taken for the
    server's silence. When the caller is cancelled meanwhile, the reply is given up.
    """
    left_s = max(0.0, deadline_s - time.monotonic())
    try:
        await asyncio.wait((reply,), timeout=None if left_s == float("inf") else left_s)
        if not reply.done():
            await asyncio.wait((reply,), timeout=DRAIN_S)
    except asyncio.CancelledError:
        give_up(reply)
        raise
    return reply.done()


def give_up(reply: "asyncio.Future[Any]") -> None:
    """Nobody will look at the reply any more, nor at its error."""
    if not reply.cancel() and not reply.cancelled():
        reply.exception()


def unanswered(node: "Node", command: Command) -> TradewindError:
    """The error for what was sent on a dedicated connection and got no reply in time."""
    passed_s = time.monotonic() - command.created_s
    text = f"{node.name}: {command.name} was sent and got no answer by its deadline, after {passed_s:.2f} s"
    if command.repeatable:
        return DeadlineExceeded(text)
    return OutcomeUnknown(f"{text}: it may have run, once")


async def on_owner(
    router: "Router",
    command: Command,
    use: Callable[["Node"], Awaitable[Result]],
    has_time_left: Callable[[], bool] = lambda: True,
) -> Result | None:
    """Have `use` send the command on a dedicated connection of its slot's owner, wherever that moves.

    Tries again until the command's deadline, as for any command; None once `has_time_left` denies it. Raises
    OutcomeUnknown for a command that was sent, may not run twice, and lost its connection.
    """
    redirected: Node | None = None
    while True:
        node = redirected or command.pinned or router.nodes.owners[command.slot]
        try:
            if node is None:
                raise ClusterDownError(f"slot {command.slot} has no owner at the moment")
            return await use(node)
        except (Overloaded, DeadlineExceeded, OutcomeUnknown, SharedConnectionError):
            raise
        except RedisError as error:
            redirected = _where_next(router, node, command, error)
            if redirected is None:
                await router.retries.pause(command, error)
        if not has_time_left():
            return None


def _where_next(router: "Router", node: "Node | None", command: Command, error: RedisError) -> "Node | None":
    """The node to try at once, or None to try again after a pause. Raises what the caller must be told.

    1. The connection ended: what was sent and is no read may have run.
    2. There was no connection: nothing was sent, the node may have been replaced.
    3. The server answered with an error: as for any command.
    """
    if isinstance(error, ConnectionLost):
        if error.was_sent and not (command.repeatable or router.retries.policy.always):
            what = f"{command.name} was blocking when its connection ended"
            raise unknown_outcome(what, error) from error
    elif not isinstance(error, NodeUnavailable | ClientClosed):
        target = router.learn(node, command, error)
        return None if target is node else target
    router.refresh_soon()
    return None
