"""One command on its way: what is sent, who waits for it, and until when."""

import asyncio
from typing import TYPE_CHECKING, Any, cast

import hiredis
from redis.exceptions import DataError

if TYPE_CHECKING:
    from tradewind.client.commit import Committer
    from tradewind.client.node import Node
    from tradewind.client.replica_reads import ReadFrom

BYTES_LIKE = (bytearray, memoryview)  # what redis-py sends and hiredis does not know
ASKING_PACKED = hiredis.pack_command(("ASKING",))


class Command:
    """A packed command and its waiter.

    `attempts` counts pauses before another try, `redirects` those followed at once since the last pause.
    `repeatable` says whether it may be sent again after it was sent once without an answer (a read, or a
    write that the caller marked idempotent). `deadline` is in seconds of the monotonic clock.
    """

    # What most commands leave as it is stands on the class, and in an instance's `__dict__` where it differs:
    # so a command takes a third of the memory, and thousands in flight stay in the processor's cache.
    __slots__ = (
        "__dict__",
        "created_s",
        "deadline",
        "future",
        "name",
        "packed",
        "repeatable",
        "slot",
    )
    pinned: "Node | None" = None  # goes to this node, whatever its slot
    committer: "Committer | None" = None  # goes in a durable batch
    raw = False  # its reply stays undecoded
    asking = False  # ASKING goes right before it
    is_block = False  # more goes right before it: see `row`
    part_of: "Command | None" = None  # goes right before that one, and shares its fate
    read_from: "ReadFrom | None" = None  # a read that need not come from the primary
    attempts = 0
    redirects = 0
    may_have_run = False  # it was sent, its connection ended, and it may run again

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

    @property
    def size_bytes(self) -> int:
        """What it brings to the wire, with its parts."""
        return len(self.packed)

    def fail(self, error: BaseException) -> None:
        """Tell the waiter, unless it has gone or has been told already."""
        if not self.future.done():
            self.future.set_exception(error)

    def row(self) -> "list[Command]":
        """The command behind all that must stand right before it: on the wire nothing may come between.

        ASKING holds for the next command, or for MULTI and all up to its EXEC. Source: Redis Cluster
        specification, "ASK redirection"; `resetClient` in the servers' networking.c.
        """
        return [part(self, -1, "ASKING", ASKING_PACKED), self] if self.asking else [self]

    def shadow(self, future: "asyncio.Future[Any]") -> "Command":
        """The same to be sent, for somebody else who waits: as long as it takes, and for one try."""
        shadow = Command(self.name, self.packed, future, self.slot, False, self.created_s, float("inf"))
        shadow.raw, shadow.asking = self.raw, self.asking
        return shadow

    def part_refused(self, _number: int, _error: BaseException) -> None:
        """A part was answered with an error. If it matters, the command's own reply says so again."""

    def cause(self, error: Exception) -> Exception:
        """Why the command was answered with `error`: mostly `error` itself."""
        return error

    def __repr__(self) -> str:
        return f"<Command {self.name} slot={self.slot} attempts={self.attempts}>"


class _PartFuture:
    """In the place of a part's future: nobody waits for it; it is done when the whole command's caller is."""

    __slots__ = ("_number", "_whole")

    def __init__(self, whole: Command, number: int) -> None:
        self._whole = whole
        self._number = number

    def done(self) -> bool:
        return self._whole.future.done()

    def set_result(self, _reply: object) -> None:
        return None

    def set_exception(self, error: BaseException) -> None:
        self._whole.part_refused(self._number, error)


def part(whole: Command, number: int, name: str, packed: bytes) -> Command:
    """A command that goes right before `whole`, to whose owner it says nothing but `part_refused`."""
    future = cast("asyncio.Future[Any]", _PartFuture(whole, number))
    command = Command(name, packed, future, whole.slot, False, whole.created_s, whole.deadline)
    command.part_of = whole
    return command


def second_try(command: Command) -> Command:
    """The same read for another node, while the first one has not answered: the first reply is the answer."""
    again = Command(
        command.name,
        command.packed,
        command.future,
        command.slot,
        command.repeatable,
        command.created_s,
        command.deadline,
    )
    again.raw, again.read_from = command.raw, command.read_from
    command.read_from = None  # one second try is enough
    return again


def pack(args: tuple[Any, ...]) -> bytes:
    """RESP array of the arguments; the first may hold several words, as redis-py writes `"CLUSTER SLOTS"`.

    Raises redis.DataError for an argument that is not bytes-like, str, int or float (the caller's mistake).
    """
    name = args[0]
    if isinstance(name, str) and " " in name:
        args = (*name.split(), *args[1:])
    try:
        packed: bytes = hiredis.pack_command(args)
    except TypeError as error:
        if any(isinstance(arg, BYTES_LIKE) for arg in args):
            return pack(tuple(bytes(arg) if isinstance(arg, BYTES_LIKE) else arg for arg in args))
        raise DataError(f"{name}: {error}; convert the argument to bytes, str, int or float first") from error
    return packed
