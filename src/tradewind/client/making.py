"""Makes commands out of calls: their bytes in the encoding of the client, a deadline, what may run twice."""

import time
from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any

from redis.client import NEVER_DECODE

from tradewind.client.calls import Call, CallOptions
from tradewind.client.catalog import CommandSpec
from tradewind.client.command import Command, pack
from tradewind.client.replica_reads import ReadFrom
from tradewind.client.transaction import Transaction


class CommandMaker:
    """What a call that says nothing else is made with: redis-py's `encoder`, the deadline, where reads go."""

    create_future: "Callable[[], Future[Any]]"  # of the loop in which the client is open

    def __init__(self, encoder: Any, *, timeout_s: float, read_from: ReadFrom) -> None:
        self._encoder = encoder
        self._timeout_s = timeout_s
        self._read_from = read_from

    def command(
        self,
        spec: CommandSpec,
        args: tuple[Any, ...],
        slot: int,
        options: dict[str, Any],
        call: CallOptions,
    ) -> Command:
        """A command to be sent now. Takes from redis-py's `options` what is not for the callback."""
        packed, repeatable = self.pack(args), spec.repeatable or call.idempotent
        created_s, deadline_s = self._times_of(call)
        command = Command(spec.name, packed, self.create_future(), slot, repeatable, created_s, deadline_s)
        command.raw = options.pop(NEVER_DECODE, None) is not None  # redis-py says it with an empty list
        read_from = call.read_from or self._read_from
        if spec.reads and read_from != "primary":
            command.read_from = read_from
        return command

    def transaction(
        self, specs: Sequence[CommandSpec], calls: Sequence[Call], slot: int, call: CallOptions
    ) -> Transaction:
        """MULTI, the calls, each with its spec, and EXEC as one command."""
        pack_one = pack if self.is_utf8() else self.pack
        packed = [pack_one(args) for args, _ in calls]
        repeatable = call.idempotent or all(spec.repeatable for spec in specs)
        return Transaction(packed, self.create_future(), slot, repeatable, *self._times_of(call))

    def _times_of(self, call: CallOptions) -> tuple[float, float]:
        """Now, and the deadline of a call that is made now."""
        now_s = time.monotonic()
        return now_s, now_s + (self._timeout_s if call.timeout_s is None else call.timeout_s)

    def pack(self, args: tuple[Any, ...]) -> bytes:
        """The bytes of a command. Raises DataError for an argument that has none."""
        if self.is_utf8():
            return pack(args)
        return pack((args[0], *(self.encode(arg) for arg in args[1:])))

    def is_utf8(self) -> bool:
        """The encoding is the one that hiredis packs in."""
        return str(self._encoder.encoding).lower().replace("-", "") == "utf8"

    def encode(self, value: Any) -> bytes:
        """The bytes of one argument. Raises as `pack`."""
        return bytes(self._encoder.encode(value))
