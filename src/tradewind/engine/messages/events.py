"""Everything that can happen to an account, as it is written to the audit trail."""

from typing import Final, Literal, TypeAlias

import msgspec

from tradewind.engine.messages.reasons import RejectReason
from tradewind.engine.messages.words import Side, TradingState


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


class TradingChanged(EventBase, frozen=True, kw_only=True, tag="trading_changed"):
    """What the account may do from here on."""

    state: TradingState
    why: str = ""


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
    | TradingChanged
)


decode_event: Final = msgspec.json.Decoder(Event).decode
