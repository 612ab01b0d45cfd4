"""What the caller of a command is told."""

from typing import Final, Literal

import msgspec

from tradewind.engine.messages.commands import CommandBase
from tradewind.engine.messages.reasons import RejectReason


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the caller of a command is told.

    status of a place: "filled"; "accepted", it rests as `order`; "partially_filled": `volume` units are
    filled, of the others `volume_canceled` are cancelled, or all rest as `order`.
    status of an amend: "accepted", it rests on, or as of a place. "filled" for close and close_by, "done" for
    the others, "rejected" with `reason` and `text`.
    volume: units filled, also of a cancelled order before it was.
    cancel_all: `canceled` orders were cancelled, and `left` are still to be decided elsewhere.
    close_all: `closed` positions were closed and `left` could not be: without a fresh quote, in a
    halted symbol, or outside its hours.
    sequence: number of the event that decided it, in the events of the account's partition.
    """

    id: str
    account: str
    status: Literal["filled", "partially_filled", "accepted", "rejected", "done"]
    reason: RejectReason | None = None
    text: str | None = None
    position: str | None = None
    price: int | None = None
    volume: int | None = None
    profit: int | None = None
    balance: int | None = None
    closed: int | None = None
    left: int | None = None
    order: str | None = None
    canceled: int | None = None
    volume_canceled: int | None = None
    sequence: int = 0


def duplicate_id_answer(command: CommandBase) -> Answer:
    """To another body under an id that was used before."""
    reason = RejectReason.DUPLICATE_ID
    return Answer(
        id=command.id, account=command.account, status="rejected", reason=reason, text=reason.sentence
    )


decode_answer: Final = msgspec.json.Decoder(Answer).decode
