"""One command on its way: what is sent, who waits for it, and until when."""

import asyncio
from typing import TYPE_CHECKING, Any, cast

import hiredis
from redis.exceptions import DataError

if TYPE_CHECKING:
    from tradewind.client.commit import Committer
    from tradewind.client.node import Node

ASKING_PACKED = hiredis.pack_command(("ASKING",))


class Command:
    """A packed command and its waiter.

    `attempts` counts pauses before another try, `redirects` those followed at once since the last pause.
    `repeatable` says whether it may be sent again after it was sent once without an answer (a read, or a
    write that the caller marked idempotent). `deadline` is in seconds of the monotonic clock.
    """

    # Rare, so they stand here: an attribute that is set for every command costs every command its time.
    pinned: "Node | None" = None  # goes to this node, whatever its slot
    committer: "Committer | None" = None  # goes in a durable batch
    raw = False  # its reply stays undecoded
    asking = False  # ASKING goes right before it
    attempts = 0
    redirects = 0

    def __init__(
        self,
        name: str,
        packed: bytes,
        future: "asyncio.Future[Any]",
        slot: int,
        repeatable: bool,
        created_s: float,
        deadline: float,
    ) -> None:
        self.name = name
        self.packed = packed
        self.future = future
        self.slot = slot
        self.repeatable = repeatable
        self.created_s = created_s
        self.deadline = deadline

    def fail(self, error: BaseException) -> None:
        """Tell the waiter, unless it has gone or has been told already."""
        if not self.future.done():
            self.future.set_exception(error)

    def __repr__(self) -> str:
        return f"<Command {self.name} slot={self.slot} attempts={self.attempts}>"


class _NobodyWaits:
    """Stands where a future would: for a command that is sent for its effect on the connection."""

    def done(self) -> bool:
        return False

    def set_result(self, _reply: object) -> None:
        return None

    def set_exception(self, _error: BaseException) -> None:
        return None


def asking_command(command: Command) -> Command:
    """ASKING, which must stand right before the `command` that it is for: it holds for one command only.

    Source: Redis Cluster specification, "ASK redirection".
    """
    nobody = cast("asyncio.Future[Any]", _NobodyWaits())
    return Command("ASKING", ASKING_PACKED, nobody, -1, False, command.created_s, command.deadline)


def pack(args: tuple[Any, ...]) -> bytes:
    """RESP array of the arguments; the first may hold several words, as redis-py writes `"CLUSTER SLOTS"`.

    Raises redis.DataError for an argument that is not bytes, str, int or float (the caller's mistake).
    """
    name = args[0]
    if isinstance(name, str) and " " in name:
        args = (*name.split(), *args[1:])
    try:
        packed: bytes = hiredis.pack_command(args)
    except TypeError as error:
        raise DataError(f"{name}: {error}; convert the argument to bytes, str, int or float first") from error
    return packed
