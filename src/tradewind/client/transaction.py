"""Transactions: commands that the server runs one after the other with nothing between them, or not at all.

Without WATCH a transaction needs no connection of its own: MULTI, the commands and EXEC stand next to each
other in a lane that others use too, and so on the wire and in the server.
"""

import asyncio
from typing import Any

from redis.exceptions import ExecAbortError, NoPermissionError, ResponseError

from tradewind.client.command import Command, pack, part
from tradewind.client.lane import server_error

MULTI_PACKED = pack(("MULTI",))
EXEC_PACKED = pack(("EXEC",))
ABORTED_BECAUSE = "Transaction discarded because of: "


class Transaction(Command):
    """EXEC, and before it in its row MULTI and the commands. Its reply is EXEC's: one for each command.

    A part that is refused (MOVED, READONLY, a wrong number of arguments...) makes the server refuse EXEC:
    nothing was executed, and `cause` says why. Its number is kept, from 1, for the message.
    """

    is_block = True

    def __init__(
        self,
        packed_commands: list[bytes],
        future: "asyncio.Future[Any]",
        slot: int,
        repeatable: bool,
        created_s: float,
        deadline: float,
    ) -> None:
        super().__init__("EXEC", EXEC_PACKED, future, slot, repeatable, created_s, deadline)
        self.packed_commands = packed_commands
        self.refusals: list[tuple[int, Exception]] = []  # of the last try

    @property
    def size_bytes(self) -> int:
        """The bytes of the whole block."""
        return len(MULTI_PACKED) + sum(map(len, self.packed_commands)) + len(self.packed)

    def row(self) -> list[Command]:
        """ASKING if need be, MULTI, the commands, EXEC."""
        self.refusals.clear()
        *asking, execute = super().row()
        multi = part(self, 0, "MULTI", MULTI_PACKED)
        parts = [part(self, n, "part of EXEC", packed) for n, packed in enumerate(self.packed_commands, 1)]
        return [*asking, multi, *parts, execute]

    def shadow(self, future: "asyncio.Future[Any]") -> Command:
        """As any command's; the refusals are told to both."""
        shadow = Transaction(self.packed_commands, future, self.slot, False, self.created_s, float("inf"))
        shadow.asking, shadow.refusals = self.asking, self.refusals
        return shadow

    def part_refused(self, number: int, error: BaseException) -> None:
        """Kept until EXEC is answered."""
        if isinstance(error, Exception):
            self.refusals.append((number, error))

    def cause(self, error: Exception) -> Exception:
        """The first refusal, or the reason that EXECABORT quotes (the server was BUSY by then...)."""
        if self.refusals:
            number, refusal = self.refusals[0]
            return refusal if number else _ran_one_by_one(refusal)
        if isinstance(error, ExecAbortError):
            _, quoted, reason = str(error).partition(ABORTED_BECAUSE)
            return server_error(reason) if quoted else error
        return error

    def refused_number(self, error: BaseException) -> int | None:
        """Which of the commands, from 1, the server refused with this error."""
        return next((number for number, refusal in self.refusals if refusal is error and number > 0), None)


def _ran_one_by_one(refusal: Exception) -> ResponseError:
    """MULTI itself was refused, as by an ACL: no transaction, and nothing to try again."""
    kind = NoPermissionError if isinstance(refusal, NoPermissionError) else ResponseError
    return kind(f"MULTI was refused; the commands behind it ran one by one, not as a transaction: {refusal}")
