"""Commands that make the server hold the connection: they get one for themselves, for as long as they block."""

import asyncio
import time
from typing import Any

from redis.exceptions import ClusterDownError, RedisError

from tradewind.client.catalog import CommandSpec
from tradewind.client.command import Command
from tradewind.client.connect import ConnectionLost, exclusive_request
from tradewind.client.errors import ClientClosed, DeadlineExceeded, OutcomeUnknown, Overloaded
from tradewind.client.node import Node
from tradewind.client.router import Router

TIMEOUT_FIRST = frozenset({"BLMPOP", "BZMPOP"})
MILLISECONDS_AFTER_BLOCK = frozenset({"XREAD", "XREADGROUP"})


def block_seconds(spec: CommandSpec, args: tuple[Any, ...]) -> float | None:
    """How long the server may hold the command; infinite for 0; None when this call does not block at all."""
    if not spec.blocking:
        return None
    try:
        if spec.name in MILLISECONDS_AFTER_BLOCK:
            words = [_upper(word) for word in args]
            if "BLOCK" not in words[: words.index("STREAMS")]:
                return None
            seconds = float(args[words.index("BLOCK") + 1]) / 1000
        else:
            seconds = float(args[1] if spec.name in TIMEOUT_FIRST else args[-1])
    except (ValueError, IndexError, TypeError):
        return float("inf")  # malformed, or of a module: the server will say
    return seconds if seconds > 0 else float("inf")


def _upper(word: Any) -> str:
    if isinstance(word, bytes):
        word = word.decode("utf-8", "replace")
    return word.upper() if isinstance(word, str) else ""


async def run_blocking(router: Router, command: Command) -> Any:
    """Run on a dedicated connection of the slot's owner, wherever that moves, until the command's deadline.

    A blocked read goes on at the slot's new owner after a failover, and so does a write that the server refused or
    released unexecuted. A write whose connection ends raises OutcomeUnknown: it may have popped something.
    """
    while True:
        node = command.pinned or router.slot_nodes[command.slot]
        try:
            if node is None:
                raise ClusterDownError(f"slot {command.slot} has no owner at the moment")
            return await _once(node, command)
        except ConnectionLost as error:
            if error.was_sent and not (command.repeatable or router.retry_always):
                router.errors["OutcomeUnknown"] += 1
                raise OutcomeUnknown(
                    f"{command.name} was blocking when its connection ended: it may have run, once; {error}"
                ) from error
            router.refresh_soon()
            failure: Exception = error
        except (Overloaded, DeadlineExceeded, ClientClosed):
            raise
        except RedisError as error:
            router.learn(node, command, error)
            failure = error
        await router.pause(command, failure)


async def _once(node: Node, command: Command) -> Any:
    lane = await node.dedicated.acquire(command.deadline)
    try:
        async with asyncio.timeout(max(0.0, command.deadline - time.monotonic())):
            return await exclusive_request(lane, command)
    except TimeoutError:
        raise DeadlineExceeded(f"{node.name}: {command.name} got no answer by its deadline") from None
    finally:
        node.dedicated.release(lane)
