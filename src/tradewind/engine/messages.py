"""What is said to and by the engine: commands, answers, events. JSON on the wire.

Each command and event carries its kind in the field "type". Fields at their default are left out. Unknown
fields of commands and events are an error: an order whose stop-loss is not understood must not be executed
without it.
"""

import enum
import hashlib
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

Side: TypeAlias = Literal["buy", "sell"]
BUY: Final = "buy"
SELL: Final = "sell"

LEVERAGE_MAX = 500
DEPOSIT_CENTS_MAX = 10**12  # ten billion USD: sums of many stay below 2**53, which JavaScript reads exactly

# "quote:" is how events name a price as their cause; a client order id must not look like one.
ClientOrderId: TypeAlias = Annotated[str, Meta(pattern=r"^(?!quote:)[ -~]{1,64}\Z")]
AccountId: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.\-]{1,64}\Z")]
ReplyTo: TypeAlias = Annotated[str, Meta(max_length=64)]
Name: TypeAlias = Annotated[str, Meta(max_length=64)]  # of a symbol or a position; an answer repeats it


class RejectReason(enum.StrEnum):
    """Why a command was refused. The codes are part of the API; `sentence` is for people."""

    ACCOUNT_EXISTS = "account_exists"
    DUPLICATE_ID = "duplicate_id"
    INSUFFICIENT_MARGIN = "insufficient_margin"
    INVALID_AMOUNT = "invalid_amount"
    INVALID_LEVERAGE = "invalid_leverage"
    INVALID_VOLUME = "invalid_volume"
    NO_QUOTE = "no_quote"
    OPEN_POSITIONS_LIMIT = "open_positions_limit"
    STALE_QUOTE = "stale_quote"
    UNKNOWN_ACCOUNT = "unknown_account"
    UNKNOWN_POSITION = "unknown_position"
    UNKNOWN_SYMBOL = "unknown_symbol"

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES: Final[dict[RejectReason, str]] = {
    RejectReason.ACCOUNT_EXISTS: "An account of this id is already open.",
    RejectReason.DUPLICATE_ID: "The id was used before with another body; use a new id for a new order.",
    RejectReason.INSUFFICIENT_MARGIN: "The free margin does not cover the margin of the new position.",
    RejectReason.INVALID_AMOUNT: f"A deposit must be between 1 and {DEPOSIT_CENTS_MAX} cents.",
    RejectReason.INVALID_LEVERAGE: f"The leverage must be between 1 and {LEVERAGE_MAX}.",
    RejectReason.INVALID_VOLUME: "The volume is not within the instrument's minimum, step and maximum.",
    RejectReason.NO_QUOTE: "There is no quote yet for a symbol the order depends on; try again shortly.",
    RejectReason.OPEN_POSITIONS_LIMIT: "The account holds as many positions as it may; close some first.",
    RejectReason.STALE_QUOTE: "The last quote is too old to trade at; try again when quotes flow.",
    RejectReason.UNKNOWN_ACCOUNT: "There is no account of this id; open it first.",
    RejectReason.UNKNOWN_POSITION: "The account has no open position of this id.",
    RejectReason.UNKNOWN_SYMBOL: "The symbol is not traded here.",
}


class CommandBase(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="type",
    forbid_unknown_fields=True,
):
    """`id` is the client order id; `reply_to` the channel suffix of the process that asked, or empty."""

    account: AccountId
    id: ClientOrderId
    reply_to: ReplyTo = ""


class OpenAccount(CommandBase, frozen=True, kw_only=True, tag="open_account"):
    leverage: int = 100


class Deposit(CommandBase, frozen=True, kw_only=True, tag="deposit"):
    """`amount` in cents."""

    amount: int


class Place(CommandBase, frozen=True, kw_only=True, tag="place"):
    symbol: Name
    side: Side
    volume: int
    kind: Literal["market"] = "market"


class Close(CommandBase, frozen=True, kw_only=True, tag="close"):
    """Closes the position, or `volume` units of it."""

    position: Name
    volume: int | None = None


class CloseAll(CommandBase, frozen=True, kw_only=True, tag="close_all"):
    """Closes every position of the account, or those of one symbol, one side, or both."""

    symbol: Name | None = None
    side: Side | None = None


Command: TypeAlias = OpenAccount | Deposit | Place | Close | CloseAll


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


class EventBase(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="type",
    forbid_unknown_fields=True,
):
    """`cause` is the client order id of the command, or "quote:<symbol>:<time_ms>".

    Events carry every amount that they change, so that accounts are rebuilt by addition alone, whatever the
    rules for rounding and margin were on the day.
    """

    account: str
    at_ms: int
    cause: str


class AccountOpened(EventBase, frozen=True, kw_only=True, tag="account_opened"):
    leverage: int


class Deposited(EventBase, frozen=True, kw_only=True, tag="deposited"):
    """`balance` is the balance after it, here and in PositionClosed: the audit checks it."""

    amount: int
    balance: int


class OrderFilled(EventBase, frozen=True, kw_only=True, tag="order_filled"):
    position: str
    symbol: str
    side: Side
    volume: int
    price: int
    margin: int


class OrderRejected(EventBase, frozen=True, kw_only=True, tag="order_rejected"):
    """A command of kind `command` was refused; nothing else changed."""

    command: str
    reason: RejectReason
    text: str


class PositionClosed(EventBase, frozen=True, kw_only=True, tag="position_closed"):
    """`volume` units were closed, which gave `profit` and freed `margin`; `left` units stay open."""

    position: str
    symbol: str
    side: Side
    volume: int
    left: int
    price: int
    profit: int
    margin: int
    balance: int
    reason: Literal["close", "stop_out"]


class AllClosed(EventBase, frozen=True, kw_only=True, tag="all_closed"):
    """End of a close_all: `closed` PositionClosed events precede it; `left` positions had no fresh quote."""

    closed: int
    left: int


class MarginCall(EventBase, frozen=True, kw_only=True, tag="margin_call"):
    equity: int
    used_margin: int


class MarginRestored(EventBase, frozen=True, kw_only=True, tag="margin_restored"):
    """The margin call is over: the account is called again when it falls short again."""

    equity: int
    used_margin: int


Event: TypeAlias = (
    AccountOpened
    | Deposited
    | OrderFilled
    | OrderRejected
    | PositionClosed
    | AllClosed
    | MarginCall
    | MarginRestored
)

_encoder: Final = msgspec.json.Encoder()
encode = _encoder.encode
decode_command = msgspec.json.Decoder(Command).decode
decode_answer = msgspec.json.Decoder(Answer).decode
decode_event = msgspec.json.Decoder(Event).decode


def fingerprint(command: Command) -> str:
    """16 hex digits of what was asked. Who asked is left out: a repeat may come through another process."""
    body = encode(msgspec.structs.replace(command, reply_to="") if command.reply_to else command)
    return hashlib.blake2b(body, digest_size=8).hexdigest()
