"""An order at a provider, as plain data: what was asked, what was reported, and what follows from a report.

It goes by the engine's one table of order states. A report is taken once, whatever number of times it comes;
fills are never taken back and never guessed.
"""

import enum
from dataclasses import dataclass, replace
from typing import Final

from tradewind.engine.messages import Side
from tradewind.engine.orders import FINAL_STATES, IllegalTransition, OrderEvent, OrderState, transition
from tradewind.providers.errors import ReportRefused

NEVER_ARRIVED: Final = "the provider never got it"


class Kind(enum.Enum):
    """What a report is about."""

    PENDING = "pending"
    NEW = "new"
    FILL = "fill"
    CANCELED = "canceled"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCEL_REFUSED = "cancel_refused"
    STATUS = "status"
    """The answer to a query: the order as a whole, nothing new."""
    NOT_FOUND = "not_found"
    """The answer to a query: the provider knows no such order."""


@dataclass(frozen=True)
class ExternalOrder:
    """`id` is ours, unique for ever at this provider. Volumes in units, prices scaled by the instrument."""

    id: str
    symbol: str
    side: Side
    volume: int
    limit: int | None = None
    """The worst price to be filled at; None: at the market. What is not filled at once is canceled."""
    state: OrderState = OrderState.PENDING_NEW
    filled: int = 0
    cost: int = 0
    """Sum of volume * price of all fills."""
    executions: frozenset[str] = frozenset()
    provider_id: str = ""
    text: str = ""

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES


@dataclass(frozen=True)
class Report:
    """One thing that a provider said about an order."""

    order_id: str
    kind: Kind
    execution_id: str = ""
    volume: int = 0
    """Of a fill: this one's."""
    price: int = 0
    """Of a fill: this one's."""
    filled: int = 0
    """All that is filled, this one included."""
    state: OrderState | None = None
    """Of a status: what the order is now."""
    provider_id: str = ""
    text: str = ""


_ENDS: Final = {
    Kind.CANCELED: OrderEvent.CANCEL,
    Kind.REJECTED: OrderEvent.REJECT,
    Kind.EXPIRED: OrderEvent.EXPIRE,
}
_STATUS_ENDS: Final = {
    OrderState.CANCELED: OrderEvent.CANCEL,
    OrderState.REJECTED: OrderEvent.REJECT,
    OrderState.EXPIRED: OrderEvent.EXPIRE,
}


def reported(order: ExternalOrder, report: Report) -> ExternalOrder:
    """The order after a report. One that was taken before, or that says what is known, changes nothing.

    :raises ReportRefused: it contradicts what was reported before, or fills are missing between
    """
    if report.execution_id and report.execution_id in order.executions:
        return order
    try:
        changed = _changed(order, report)
    except IllegalTransition as error:
        raise ReportRefused(f"order {order.id}: {report.kind.value} was reported, but {error}") from error
    if changed is order:
        return order
    executions = order.executions | {report.execution_id} if report.execution_id else order.executions
    return replace(
        changed,
        executions=executions,
        provider_id=report.provider_id or order.provider_id,
        text=report.text or changed.text,
    )


def _changed(order: ExternalOrder, report: Report) -> ExternalOrder:
    if report.kind is Kind.FILL:
        return _filled(order, report)
    if report.kind in _ENDS:
        return _moved(order, _ENDS[report.kind])
    if report.kind is Kind.NEW and order.state is OrderState.PENDING_NEW:
        return _moved(order, OrderEvent.ACCEPT)
    if report.kind is Kind.STATUS:
        return _as_of_status(order, report)
    if report.kind is Kind.NOT_FOUND:
        return _not_found(order)
    if report.kind is Kind.CANCEL_REFUSED and order.state is OrderState.PENDING_CANCEL:
        return _resumed(order)
    return order


def _filled(order: ExternalOrder, report: Report) -> ExternalOrder:
    filled = order.filled + report.volume
    if report.volume <= 0 or filled > order.volume or filled != report.filled:
        raise ReportRefused(
            f"order {order.id}: {order.filled} of {order.volume} filled, then {report.volume} more "
            f"reported as {report.filled} in all"
        )
    accepted = _moved(order, OrderEvent.ACCEPT) if order.state is OrderState.PENDING_NEW else order
    event = OrderEvent.FILL if filled == order.volume else OrderEvent.FILL_PARTIALLY
    return replace(_moved(accepted, event), filled=filled, cost=order.cost + report.volume * report.price)


def _as_of_status(order: ExternalOrder, report: Report) -> ExternalOrder:
    """A status has no prices of fills: where it knows of more, their reports must come first."""
    if report.filled != order.filled:
        raise ReportRefused(
            f"order {order.id}: the provider has {report.filled} filled, its reports came to {order.filled}"
        )
    if report.state in _STATUS_ENDS and not order.is_final:
        return _moved(order, _STATUS_ENDS[report.state])
    if report.state in (OrderState.NEW, OrderState.PARTIALLY_FILLED):
        if order.state is OrderState.PENDING_NEW:
            return _moved(order, OrderEvent.ACCEPT)
        if order.state is OrderState.PENDING_CANCEL:  # the cancel never arrived
            return _resumed(order)
    return order


def _not_found(order: ExternalOrder) -> ExternalOrder:
    """Messages are taken in their order: who knows it not when asked after it never got it."""
    if order.state is not OrderState.PENDING_NEW:
        raise ReportRefused(f"order {order.id} is {order.state}, and the provider knows no such order")
    return replace(_moved(order, OrderEvent.REJECT), text=NEVER_ARRIVED)


def _resumed(order: ExternalOrder) -> ExternalOrder:
    event = OrderEvent.RESUME_PARTIALLY_FILLED if order.filled else OrderEvent.RESUME_UNFILLED
    return _moved(order, event)


def cancel_requested(order: ExternalOrder) -> ExternalOrder:
    """:raises IllegalTransition: it is final, or a cancel is pending already"""
    return _moved(order, OrderEvent.REQUEST_CANCEL)


def _moved(order: ExternalOrder, event: OrderEvent) -> ExternalOrder:
    return replace(order, state=transition(order.state, event))
