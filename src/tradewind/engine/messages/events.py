"""Everything that can happen to an account, as it is written to the audit trail."""

from typing import Final, TypeAlias

import msgspec

from tradewind.engine.messages.groups import Terms
from tradewind.engine.messages.reasons import RejectReason
from tradewind.engine.messages.words import CloseReason, OrderKind, Side, TimeInForce, TradingState


class EventBase(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="type",
    forbid_unknown_fields=True,
):
    """`cause` is the client order id of the command, or "quote:<symbol>:<time_ms>", or "time:<time_ms>".

    Events carry every amount that they change, so that accounts are rebuilt by addition alone, whatever the
    rules for rounding and margin were on the day.
    """

    account: str
    at_ms: int
    cause: str


class AccountOpened(EventBase, frozen=True, kw_only=True, tag="account_opened"):
    """`terms` are left out where they are the built-in ones."""

    leverage: int
    terms: Terms | None = None


class GroupChanged(EventBase, frozen=True, kw_only=True, tag="group_changed"):
    """The account trades on these terms from here on; nights before this day are not paid by them."""

    leverage: int
    terms: Terms | None = None


class Deposited(EventBase, frozen=True, kw_only=True, tag="deposited"):
    """`balance` is the balance after it, here and in PositionClosed: the audit checks it."""

    amount: int
    balance: int


class Withdrawn(EventBase, frozen=True, kw_only=True, tag="withdrawn"):
    amount: int
    balance: int


class DebtForgiven(EventBase, frozen=True, kw_only=True, tag="debt_forgiven"):
    """The balance was below zero with nothing open any more; the house bears `amount`."""

    amount: int
    balance: int


class OrderFilled(EventBase, frozen=True, kw_only=True, tag="order_filled"):
    """`volume` units were filled and opened a position.

    order: the resting order, `left` units of which go on resting; empty for an order filled when it came.
    volume_canceled: what was left of the order and could not wait.
    balance: the one after the commission; left out without one.
    """

    position: str
    symbol: str
    side: Side
    volume: int
    price: int
    margin: int
    commission: int = 0
    balance: int | None = None
    order: str = ""
    left: int = 0
    volume_canceled: int = 0
    stop_loss: int | None = None
    take_profit: int | None = None


class OrderReduced(EventBase, frozen=True, kw_only=True, tag="order_reduced"):
    """The fill of a reduce-only order: `closed` PositionClosed events of reason "reduce" precede it.

    Other fields as in OrderFilled; `profit` is the sum of theirs, `balance` the one after them.
    """

    symbol: str
    side: Side
    volume: int
    price: int
    closed: int
    profit: int
    balance: int
    order: str = ""
    left: int = 0
    volume_canceled: int = 0


class OrderAccepted(EventBase, frozen=True, kw_only=True, tag="order_accepted"):
    """The order rests, and what of it can be filled at once is filled next."""

    order: str
    symbol: str
    side: Side
    volume: int
    kind: OrderKind
    price: int | None = None
    stop_price: int | None = None
    stop_loss: int | None = None
    take_profit: int | None = None
    time_in_force: TimeInForce = "gtc"
    reduce_only: bool = False
    expires_at_ms: int | None = None


class OrderTriggered(EventBase, frozen=True, kw_only=True, tag="order_triggered"):
    """The stop price was met: a stop order is a market order from here on, a stop_limit order a limit
    order.
    """

    order: str


class OrderAmended(EventBase, frozen=True, kw_only=True, tag="order_amended"):
    """The order as it is now, with `filled` units filled. If they are all of `volume`, it has ended."""

    order: str
    volume: int
    filled: int = 0
    price: int | None = None
    stop_price: int | None = None
    stop_loss: int | None = None
    take_profit: int | None = None


class OrderCanceled(EventBase, frozen=True, kw_only=True, tag="order_canceled"):
    """`volume` units were filled before, `left` were not. `reason` says why nobody had to ask for it."""

    order: str
    volume: int
    left: int
    reason: RejectReason | None = None


class OrderExpired(EventBase, frozen=True, kw_only=True, tag="order_expired"):
    """Its trading day is over. The cause is the command that placed it."""

    order: str
    volume: int
    left: int


class AllCanceled(EventBase, frozen=True, kw_only=True, tag="all_canceled"):
    """End of a cancel_all: `canceled` OrderCanceled events precede it; `left` could not be cancelled now."""

    canceled: int
    left: int


class OrderRejected(EventBase, frozen=True, kw_only=True, tag="order_rejected"):
    """A command of kind `command` was refused; nothing else changed. With `order`: a resting order was
    refused when its price was met, and has ended.
    """

    command: str
    reason: RejectReason
    text: str
    order: str = ""


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
    reason: CloseReason
    commission: int = 0


class PositionsClosedBy(EventBase, frozen=True, kw_only=True, tag="positions_closed_by"):
    """`volume` units of `position` were closed at the opening `price` of the position `by`, and as many of
    that at the same price, for no profit.

    `margin` was freed of the first and `by_margin` of the other; `left` and `by_left` stay open.
    """

    position: str
    by: str
    symbol: str
    side: Side
    volume: int
    left: int
    by_left: int
    price: int
    profit: int
    margin: int
    by_margin: int
    balance: int


class PositionProtected(EventBase, frozen=True, kw_only=True, tag="position_protected"):
    """The stop_loss and take_profit that the position has from here on; None: it has none."""

    position: str
    stop_loss: int | None = None
    take_profit: int | None = None


class AllClosed(EventBase, frozen=True, kw_only=True, tag="all_closed"):
    """End of a close_all: `closed` PositionClosed events precede it; `left` positions had no fresh quote."""

    closed: int
    left: int


class CancelTimerSet(EventBase, frozen=True, kw_only=True, tag="cancel_timer_set"):
    """All resting orders are cancelled at `due_ms`; 0: not any more."""

    due_ms: int


class CancelTimerEnded(EventBase, frozen=True, kw_only=True, tag="cancel_timer_ended"):
    """Nobody set it anew in time: `canceled` OrderCanceled events precede it."""

    canceled: int


class SwapPaid(EventBase, frozen=True, kw_only=True, tag="swap_paid"):
    """For the nights before `day` (days since the epoch, UTC) that were not paid yet. Less than 0 is
    charged.
    """

    amount: int
    balance: int
    day: int


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
    | OrderReduced
    | OrderAccepted
    | OrderTriggered
    | OrderAmended
    | OrderCanceled
    | OrderExpired
    | AllCanceled
    | OrderRejected
    | PositionClosed
    | PositionsClosedBy
    | PositionProtected
    | AllClosed
    | MarginCall
    | MarginRestored
    | TradingChanged
    | GroupChanged
    | Withdrawn
    | DebtForgiven
    | CancelTimerSet
    | CancelTimerEnded
    | SwapPaid
)


decode_event: Final = msgspec.json.Decoder(Event).decode
