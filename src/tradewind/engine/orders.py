"""The life of an order: FIX OrdStatus words and one table of what may follow what.

A market order goes pending_new -> new -> filled, or pending_new -> rejected, within one decision. The table
holds the whole vocabulary, so that resting orders need no second one. Left out are the words for venues that
we are not (stopped, calculated, accepted_for_bidding), done_for_day (our days end in expired), and replaced,
which FIX itself dropped as a state: a replaced order is new, partially filled or filled.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final


class OrderState(enum.StrEnum):
    PENDING_NEW = "pending_new"
    NEW = "new"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELED = "canceled"
    REJECTED = "rejected"
    EXPIRED = "expired"
    PENDING_CANCEL = "pending_cancel"
    PENDING_REPLACE = "pending_replace"
    SUSPENDED = "suspended"


class OrderEvent(enum.StrEnum):
    ACCEPT = "accept"
    REJECT = "reject"
    TRIGGER = "trigger"
    FILL_PARTIALLY = "fill_partially"
    FILL = "fill"
    CANCEL = "cancel"
    EXPIRE = "expire"
    REQUEST_CANCEL = "request_cancel"
    REQUEST_REPLACE = "request_replace"
    SUSPEND = "suspend"
    RESUME_UNFILLED = "resume_unfilled"
    """The cancel was refused, the replace decided, or the suspension lifted: nothing is filled yet."""
    RESUME_PARTIALLY_FILLED = "resume_partially_filled"
    """The same for an order that is filled in part. Which of the two it is follows from the filled volume."""


_S = OrderState
_E = OrderEvent

TRANSITIONS: Final[Mapping[tuple[OrderState, OrderEvent], OrderState]] = MappingProxyType(
    {
        (_S.PENDING_NEW, _E.ACCEPT): _S.NEW,
        (_S.PENDING_NEW, _E.REJECT): _S.REJECTED,
        (_S.PENDING_NEW, _E.CANCEL): _S.CANCELED,
        (_S.PENDING_NEW, _E.EXPIRE): _S.EXPIRED,
        (_S.PENDING_NEW, _E.REQUEST_CANCEL): _S.PENDING_CANCEL,
        (_S.NEW, _E.TRIGGER): _S.NEW,
        (_S.NEW, _E.REJECT): _S.REJECTED,  # a stop order whose margin is gone when it triggers
        (_S.NEW, _E.FILL_PARTIALLY): _S.PARTIALLY_FILLED,
        (_S.NEW, _E.FILL): _S.FILLED,
        (_S.NEW, _E.CANCEL): _S.CANCELED,
        (_S.NEW, _E.EXPIRE): _S.EXPIRED,
        (_S.NEW, _E.REQUEST_CANCEL): _S.PENDING_CANCEL,
        (_S.NEW, _E.REQUEST_REPLACE): _S.PENDING_REPLACE,
        (_S.NEW, _E.SUSPEND): _S.SUSPENDED,
        (_S.PARTIALLY_FILLED, _E.FILL_PARTIALLY): _S.PARTIALLY_FILLED,
        (_S.PARTIALLY_FILLED, _E.FILL): _S.FILLED,
        (_S.PARTIALLY_FILLED, _E.CANCEL): _S.CANCELED,
        (_S.PARTIALLY_FILLED, _E.EXPIRE): _S.EXPIRED,
        (_S.PARTIALLY_FILLED, _E.REQUEST_CANCEL): _S.PENDING_CANCEL,
        (_S.PARTIALLY_FILLED, _E.REQUEST_REPLACE): _S.PENDING_REPLACE,
        (_S.PARTIALLY_FILLED, _E.SUSPEND): _S.SUSPENDED,
        # Fills go on while a cancel or a replace is pending: filled comes before canceled.
        (_S.PENDING_CANCEL, _E.FILL_PARTIALLY): _S.PENDING_CANCEL,
        (_S.PENDING_CANCEL, _E.FILL): _S.FILLED,
        (_S.PENDING_CANCEL, _E.CANCEL): _S.CANCELED,
        (_S.PENDING_CANCEL, _E.EXPIRE): _S.EXPIRED,
        (_S.PENDING_CANCEL, _E.RESUME_UNFILLED): _S.NEW,
        (_S.PENDING_CANCEL, _E.RESUME_PARTIALLY_FILLED): _S.PARTIALLY_FILLED,
        (_S.PENDING_REPLACE, _E.FILL_PARTIALLY): _S.PENDING_REPLACE,
        (_S.PENDING_REPLACE, _E.FILL): _S.FILLED,  # also when replaced to no more than what is filled
        (_S.PENDING_REPLACE, _E.CANCEL): _S.CANCELED,
        (_S.PENDING_REPLACE, _E.EXPIRE): _S.EXPIRED,
        (_S.PENDING_REPLACE, _E.REQUEST_CANCEL): _S.PENDING_CANCEL,
        (_S.PENDING_REPLACE, _E.RESUME_UNFILLED): _S.NEW,
        (_S.PENDING_REPLACE, _E.RESUME_PARTIALLY_FILLED): _S.PARTIALLY_FILLED,
        (_S.SUSPENDED, _E.CANCEL): _S.CANCELED,
        (_S.SUSPENDED, _E.EXPIRE): _S.EXPIRED,
        (_S.SUSPENDED, _E.REQUEST_CANCEL): _S.PENDING_CANCEL,
        (_S.SUSPENDED, _E.RESUME_UNFILLED): _S.NEW,
        (_S.SUSPENDED, _E.RESUME_PARTIALLY_FILLED): _S.PARTIALLY_FILLED,
    }
)

FINAL_STATES: Final = frozenset({_S.FILLED, _S.CANCELED, _S.REJECTED, _S.EXPIRED})


class IllegalTransition(Exception):
    """An order was asked to do what its state does not allow. The order is unchanged."""

    def __init__(self, state: OrderState, event: OrderEvent) -> None:
        super().__init__(f"an order that is {state} cannot {event.replace('_', ' ')}")
        self.state = state
        self.event = event


def transition(state: OrderState, event: OrderEvent) -> OrderState:
    """The state that follows. Raises IllegalTransition for every pair that is not in the table."""
    following = TRANSITIONS.get((state, event))
    if following is None:
        raise IllegalTransition(state, event)
    return following
