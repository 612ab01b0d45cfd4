"""Orders as FIX 4.4 messages, and FIX messages as reports. Plain functions.

Out: NewOrderSingle (D), OrderCancelRequest (F), OrderStatusRequest (H). In: ExecutionReport (8),
OrderCancelReject (9), BusinessMessageReject (j), Reject (3).
"""

from decimal import Decimal, InvalidOperation
from typing import Final

from tradewind.engine.instruments import INSTRUMENTS
from tradewind.engine.messages import BUY
from tradewind.engine.orders import OrderState
from tradewind.providers.errors import ReportRefused
from tradewind.providers.fix.frames import Fields
from tradewind.providers.orders import ExternalOrder, Kind, Report

Message = tuple[str, list[tuple[int, str | int]]]

CANCEL_SUFFIX: Final = "/c"
UNKNOWN_ORDER: Final = "5"  # OrdRejReason
NO_EXECUTION: Final = "0"  # ExecID of an answer to a query

_STATES: Final = {
    "0": OrderState.NEW,
    "1": OrderState.PARTIALLY_FILLED,
    "2": OrderState.FILLED,
    "3": OrderState.EXPIRED,  # done for day
    "4": OrderState.CANCELED,
    "6": OrderState.PENDING_CANCEL,
    "8": OrderState.REJECTED,
    "9": OrderState.SUSPENDED,
    "A": OrderState.PENDING_NEW,
    "C": OrderState.EXPIRED,
}
_KINDS: Final = {
    "0": Kind.NEW,
    "3": Kind.EXPIRED,
    "4": Kind.CANCELED,
    "6": Kind.PENDING,
    "8": Kind.REJECTED,
    "A": Kind.PENDING,
    "C": Kind.EXPIRED,
    "F": Kind.FILL,
    "I": Kind.STATUS,
}


def new_order(order: ExternalOrder, stamp: str) -> Message:
    """Filled at once as far as it can be, the rest canceled (IOC)."""
    fields = [(11, order.id), *_what(order, stamp), (38, order.volume)]
    if order.limit is None:
        fields.append((40, "1"))
    else:
        fields += [(40, "2"), (44, INSTRUMENTS[order.symbol].format_price(order.limit))]
    return "D", [*fields, (59, "3")]


def cancel(order: ExternalOrder, stamp: str) -> Message:
    return "F", [
        (41, order.id),
        (11, order.id + CANCEL_SUFFIX),
        *_what(order, stamp),
        (38, order.volume),
    ]


def query(order: ExternalOrder) -> Message:
    return "H", [(11, order.id), (55, order.symbol), (54, _side(order))]


def _what(order: ExternalOrder, stamp: str) -> list[tuple[int, str | int]]:
    return [(55, order.symbol), (54, _side(order)), (60, stamp)]


def _side(order: ExternalOrder) -> str:
    return "1" if order.side == BUY else "2"


def report_of(message: Fields) -> Report | None:
    """What a message says about an order; None if it is about none.

    :raises ReportRefused: it cannot be read, or says something that this version cannot carry out
    """
    kind = message.get(35)
    if kind == "8":
        return _execution_report(message)
    if kind == "9":
        text = message.get(58, "")
        return Report(message.get(41, ""), Kind.CANCEL_REFUSED, text=text)
    if kind == "j" and message.get(372) == "H":
        return Report(message.get(379, ""), Kind.NOT_FOUND, text=message.get(58, ""))
    return None


def _execution_report(message: Fields) -> Report:
    order_id = _order_id(message)
    execution = message.get(17, "")
    kind = _KINDS.get(message.get(150, ""))
    if kind is None:
        raise ReportRefused(f"order {order_id}: execution {execution} is of type {message.get(150)}")
    if kind is Kind.STATUS and message.get(39) == "8" and message.get(103) == UNKNOWN_ORDER:
        kind = Kind.NOT_FOUND
    is_fill = kind is Kind.FILL
    return Report(
        order_id,
        kind,
        execution_id="" if execution == NO_EXECUTION or kind in (Kind.STATUS, Kind.NOT_FOUND) else execution,
        volume=_volume(message, 32, order_id) if is_fill else 0,
        price=_price(message, order_id) if is_fill else 0,
        filled=_volume(message, 14, order_id),
        state=_STATES.get(message.get(39, "")),
        provider_id=message.get(37, ""),
        text=message.get(58, ""),
    )


def _order_id(message: Fields) -> str:
    """A cancel's reports name the order as the original one."""
    return message.get(41) or message.get(11, "").removesuffix(CANCEL_SUFFIX)


def _volume(message: Fields, tag: int, order_id: str) -> int:
    return _whole(message.get(tag, "0"), 1, f"order {order_id}: volume")


def _price(message: Fields, order_id: str) -> int:
    instrument = INSTRUMENTS.get(message.get(55, ""))
    if instrument is None:
        raise ReportRefused(f"order {order_id}: a fill of {message.get(55)}, which is not traded here")
    return _whole(message.get(31, ""), instrument.price_scale, f"order {order_id}: price")


def _whole(text: str, scale: int, what: str) -> int:
    """The number in our units; exact, or an error: money is never rounded on the way in."""
    try:
        scaled = Decimal(text) * scale
        if scaled == int(scaled):
            return int(scaled)
    except (InvalidOperation, ValueError, OverflowError):
        pass
    raise ReportRefused(f"{what} {text!r} is no multiple of a {scale}th")
