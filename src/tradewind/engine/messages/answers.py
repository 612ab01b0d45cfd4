"""What the caller of a command is told."""

from typing import Final, Literal

import msgspec

from tradewind.engine.messages.commands import CommandBase
from tradewind.engine.messages.reasons import RejectReason


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the caller of a command is told.

    status: "filled" for place and close, "done" for the others, "rejected" with `reason` and `text`.
    close_all: `closed` positions were closed and `left` could not be, for want of a fresh quote.
    sequence: number of the event that decided it, in the events of the account's partition.
    """

    id: str
    account: str
    status: Literal["filled", "rejected", "done"]
    reason: RejectReason | None = None
    text: str | None = None
    position: str | None = None
    price: int | None = None
    volume: int | None = None
    profit: int | None = None
    balance: int | None = None
    closed: int | None = None
    left: int | None = None
    sequence: int = 0


def duplicate_id_answer(command: CommandBase) -> Answer:
    """To another body under an id that was used before."""
    reason = RejectReason.DUPLICATE_ID
    return Answer(
        id=command.id, account=command.account, status="rejected", reason=reason, text=reason.sentence
    )


decode_answer: Final = msgspec.json.Decoder(Answer).decode
