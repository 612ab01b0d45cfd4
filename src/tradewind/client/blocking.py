"""Commands that make the server hold the connection: each gets one for itself, for as long as it blocks."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tradewind.client.catalog import CommandSpec
from tradewind.client.command import Command
from tradewind.client.exclusive import answered_by, exclusive_request, give_up, on_owner, unanswered
from tradewind.client.node import Node
from tradewind.client.router import Router

# Where the time stands: milliseconds behind the word BLOCK for two, after as many words as a caller chooses
# (a group may be named "block"); else seconds, in the first place for two, in the last for all others.
WORDS_BEFORE_BLOCK = {"XREAD": 1, "XREADGROUP": 4}
SECONDS_FIRST = frozenset({"BLMPOP", "BZMPOP"})


class BlockingCall(NamedTuple):
    """A command that makes the server wait: its words, which of them says how long, and how long that is."""

    args: tuple[Any, ...]
    place: int | None  # None where this cannot be told
    seconds: float  # infinite for "0"
    milliseconds: bool

    def shortened(self, seconds: float) -> tuple[Any, ...]:
        """The words of the same command for the rest of its time."""
        if self.place is None or self.seconds == float("inf"):
            return self.args
        word = max(1, round(seconds * 1000)) if self.milliseconds else max(0.001, round(seconds, 3))
        return (*self.args[: self.place], word, *self.args[self.place + 1 :])


def blocking_call(spec: CommandSpec, args: tuple[Any, ...]) -> BlockingCall | None:
    """How the command blocks; None if this call does not. A malformed one blocks: the server will say."""
    if not spec.blocking:
        return None
    milliseconds = spec.name in WORDS_BEFORE_BLOCK
    try:
        index = _index_after_block(spec, args) if milliseconds else _index_of_seconds(spec, args)
        if index is None:
            return None
        seconds = float(args[index]) / (1000 if milliseconds else 1)
    except (ValueError, IndexError, TypeError):
        return BlockingCall(args, None, float("inf"), milliseconds)
    return BlockingCall(args, index, seconds if seconds > 0 else float("inf"), milliseconds)


def _index_of_seconds(spec: CommandSpec, args: tuple[Any, ...]) -> int:
    return 1 if spec.name in SECONDS_FIRST else len(args) - 1


def _index_after_block(spec: CommandSpec, args: tuple[Any, ...]) -> int | None:
    words = [_upper(word) for word in args]
    before = WORDS_BEFORE_BLOCK[spec.name]
    options = words[before : words.index("STREAMS", before)]
    return before + options.index("BLOCK") + 1 if "BLOCK" in options else None


def _upper(word: Any) -> str:
    if isinstance(word, bytes):
        word = word.decode("utf-8", "replace")
    return word.upper() if isinstance(word, str) else ""


async def run_blocking(
    router: Router, command: Command, call: BlockingCall, pack: Callable[[tuple[Any, ...]], bytes]
) -> Any:
    """Run on a dedicated connection of the slot's owner, wherever that moves, until the command's deadline.

    A blocked read goes on at the slot's new owner after a failover, for the rest of its time, and so does a
    write that the server refused or released unexecuted. A write whose connection ends, or that gets no
    answer in time, raises OutcomeUnknown: it may have popped something. What is raised has been counted.
    """
    try:
        return await _until_answered(router, command, call, pack)
    except Exception as error:
        router.count(error)
        raise


async def _until_answered(
    router: Router, command: Command, call: BlockingCall, pack: Callable[[tuple[Any, ...]], bytes]
) -> Any:
    ends_s = time.monotonic() + call.seconds

    def has_time_left() -> bool:
        left_s = ends_s - time.monotonic()
        if left_s > 0:
            command.packed = pack(call.shortened(left_s))
        return left_s > 0

    # Without time left the reply is None: what the server says when the time is over.
    return await on_owner(router, command, lambda node: _once(node, command), has_time_left)


async def _once(node: Node, command: Command) -> Any:
    lane = await node.dedicated.acquire(command.deadline)
    try:
        reply = exclusive_request(lane, command)
        if await answered_by(reply, command.deadline):
            return reply.result()
        give_up(reply)
    finally:
        node.dedicated.release(lane)
    raise unanswered(node, command)
