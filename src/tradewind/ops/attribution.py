"""From events to what their commands' callers must have been told: one effect for each client order id.

Most events answer a command alone. Some are parts of a larger answer, whose own event ends them: the closes
of a close_all and of a reduce-only order, the cancels of a cancel_all. And an order that rests may be filled
in part in the same moment, which completes its answer.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

import msgspec

from tradewind.engine.messages import (
    AccountOpened,
    AllCanceled,
    AllClosed,
    Amend,
    Answer,
    Cancel,
    CancelAfter,
    CancelAll,
    CancelTimerSet,
    Close,
    CloseAll,
    CloseBy,
    Command,
    Deposit,
    Deposited,
    Event,
    GroupChanged,
    OpenAccount,
    OrderAccepted,
    OrderAmended,
    OrderCanceled,
    OrderFilled,
    OrderReduced,
    OrderRejected,
    Place,
    PositionClosed,
    PositionProtected,
    PositionsClosedBy,
    Protect,
    SetGroup,
    SetTrading,
    TradingChanged,
    Withdraw,
    Withdrawn,
    encode,
)
from tradewind.engine.messages.groups import DEFAULT_TERMS

OWN_CAUSES: Final = ("quote:", "time:")
"""Nobody asked for what begins with one of these."""

Part: TypeAlias = PositionClosed | OrderCanceled
End: TypeAlias = AllClosed | AllCanceled | OrderReduced


class Effect(NamedTuple):
    """What a command did: the answer that follows from it, what was asked as far as events tell, and when.

    key: account and client order id. completes: the effect goes on from one that the key had before.
    """

    key: str
    answer: bytes
    asked: str
    at_ms: int
    sequence: int
    completes: bool


class Attribution:
    """Feed it every event of a partition in order. It holds the parts of one command at most."""

    def __init__(self) -> None:
        self._parts: list[tuple[Part, int]] = []
        self._accepted = ("", "")  # key and order that rest since the last event that answered a command

    def take(self, event: Event, sequence: int, balance: int) -> Iterator[Effect]:
        """The effects that this event shows to be whole. `balance`: the account's, after the event."""
        if type(event) is PositionClosed or type(event) is OrderCanceled:
            if self._parts and _key(self._parts[0][0]) != _key(event):
                yield from self.end()
            if not event.cause.startswith(OWN_CAUSES):
                self._parts.append((event, sequence))
        elif event.cause.startswith(OWN_CAUSES) or type(event) not in _DECIDING:
            yield from self.end()
        elif isinstance(event, AllClosed | AllCanceled | OrderReduced):
            yield from self._summarize(event, sequence, balance)
        else:
            yield from self.end()
            answer, asked = _outcome(event, sequence, balance)
            yield self._effect(event, answer, asked)

    def end(self) -> Iterator[Effect]:
        """What was held back stands alone."""
        parts, self._parts = self._parts, []
        for event, sequence in parts:
            answer, asked = _alone(event, sequence)
            yield self._effect(event, answer, asked)

    def _summarize(self, event: End, sequence: int, balance: int) -> Iterator[Effect]:
        """The last parts before it are its own; if there are more, the others were not."""
        if self._parts and _key(self._parts[0][0]) != _key(event):
            yield from self.end()
        count = event.canceled if isinstance(event, AllCanceled) else event.closed
        first = max(0, len(self._parts) - count)
        own = [part for part, _ in self._parts[first:]]
        del self._parts[first:]
        yield from self.end()
        answer, asked = _sum(event, own, sequence, balance)
        yield self._effect(event, answer, asked)

    def _effect(self, event: Event, answer: Answer, asked: str) -> Effect:
        key = _key(event)
        order: str = getattr(event, "order", "")
        is_fill = isinstance(event, OrderFilled | OrderReduced)
        completes = is_fill and self._accepted == (key, order)
        rests = isinstance(event, OrderAccepted | OrderAmended)
        self._accepted = (key, order) if rests else ("", "")
        return Effect(key, encode(answer), asked, event.at_ms, answer.sequence, completes)


_DECIDING: Final = frozenset(
    {
        AccountOpened,
        Deposited,
        GroupChanged,
        Withdrawn,
        CancelTimerSet,
        OrderFilled,
        OrderReduced,
        OrderAccepted,
        OrderAmended,
        OrderRejected,
        AllCanceled,
        PositionsClosedBy,
        PositionProtected,
        AllClosed,
        TradingChanged,
    }
)


def _key(event: Event) -> str:
    return f"{event.account}:{event.cause}"


def _answer(event: Event, sequence: int, **fields: object) -> Answer:
    base = Answer(id=event.cause, account=event.account, status="done", sequence=sequence)
    return msgspec.structs.replace(base, **fields)


def _alone(event: Part, sequence: int) -> tuple[Answer, str]:
    if isinstance(event, OrderCanceled):
        canceled = _answer(
            event, sequence, order=event.order, volume=event.volume, volume_canceled=event.left
        )
        return canceled, f"cancel {event.order}"
    return _closed(event, sequence), f"close {event.position}"


def _closed(event: PositionClosed | PositionsClosedBy, sequence: int) -> Answer:
    return _answer(
        event,
        sequence,
        status="filled",
        position=event.position,
        price=event.price,
        volume=event.volume,
        profit=event.profit,
        balance=event.balance,
    )


def _sum(event: End, parts: list[Part], sequence: int, balance: int) -> tuple[Answer, str]:
    closes = [part for part in parts if type(part) is PositionClosed]
    cancels = [part for part in parts if type(part) is OrderCanceled]
    profit = sum(close.profit for close in closes)
    if isinstance(event, AllCanceled):
        left = sum(cancel.left for cancel in cancels)
        done = _answer(event, sequence, volume_canceled=left, canceled=event.canceled, left=event.left)
        return done, "cancel_all"
    if isinstance(event, AllClosed):
        volume = sum(close.volume for close in closes)
        totals = {"volume": volume, "profit": profit, "balance": balance}
        return _answer(event, sequence, **totals, closed=event.closed, left=event.left), "close_all"
    reduced = _filled(event, sequence, balance)
    return msgspec.structs.replace(reduced, profit=profit, closed=len(closes)), _filled_words(event)


def _filled(event: OrderFilled | OrderReduced, sequence: int, balance: int) -> Answer:
    is_whole = not event.left and not event.volume_canceled
    return _answer(
        event,
        sequence,
        status="filled" if is_whole else "partially_filled",
        price=event.price,
        volume=event.volume,
        balance=balance,
        order=event.order or None,
        volume_canceled=event.volume_canceled or None,
    )


def _outcome(event: Event, sequence: int, balance: int) -> tuple[Answer, str]:
    """The answer that follows from an event that stands alone, and what was asked."""
    match event:
        case AccountOpened():
            return _answer(event, sequence, balance=0), f"open_account {_terms_words(event)}"
        case GroupChanged():
            return _answer(event, sequence, balance=balance), f"set_group {_terms_words(event)}"
        case CancelTimerSet():
            return _answer(event, sequence, balance=balance), "cancel_after"
        case Withdrawn():
            return _answer(event, sequence, balance=event.balance), f"withdraw {event.amount}"
        case Deposited():
            return _answer(event, sequence, balance=event.balance), f"deposit {event.amount}"
        case OrderFilled():
            filled = msgspec.structs.replace(_filled(event, sequence, balance), position=event.position)
            return filled, _filled_words(event)
        case OrderAccepted():
            accepted = _answer(event, sequence, status="accepted", order=event.order, volume=0)
            return accepted, _place_words(event)
        case OrderAmended():
            status = "filled" if 0 < event.filled >= event.volume else "accepted"
            amended = _answer(event, sequence, status=status, order=event.order, volume=event.filled)
            return amended, f"amend {event.order}"
        case TradingChanged():
            return _answer(event, sequence, balance=balance), f"set_trading {event.state}"
        case OrderRejected():
            refused = _answer(event, sequence, status="rejected", reason=event.reason, text=event.text)
            return refused, event.command
        case PositionsClosedBy():
            return _closed(event, sequence), f"close_by {event.position} {event.by}"
        case PositionProtected():
            return _answer(event, sequence, position=event.position), f"protect {event.position}"
    raise TypeError(f"{type(event).__name__} decides no command")


def _filled_words(event: OrderFilled | OrderReduced) -> str:
    """As `_place_words`, of an order that was filled as it came: its kind and prices are not told."""
    volume = event.volume + event.left + event.volume_canceled
    return f"place {event.symbol} {event.side} {volume}"


def _place_words(order: Place | OrderAccepted) -> str:
    return f"place {order.symbol} {order.side} {order.volume}"


def _terms_words(event: AccountOpened | GroupChanged) -> str:
    return f"{(event.terms or DEFAULT_TERMS).group} {event.leverage}"


def asked_words(command: Command) -> str:
    """A command as far as its event tells it. If it ends in a space, the event tells more."""
    match command:
        case OpenAccount():
            return f"open_account {command.group} {command.leverage or ''}"
        case SetGroup():
            return f"set_group {command.group} {command.leverage or ''}"
        case CancelAfter():
            return "cancel_after"
        case Withdraw():
            return f"withdraw {command.amount}"
        case Deposit():
            return f"deposit {command.amount}"
        case Place():
            return _place_words(command)
        case Amend():
            return f"amend {command.order}"
        case Cancel():
            return f"cancel {command.order}"
        case CancelAll():
            return "cancel_all"
        case Protect():
            return f"protect {command.position}"
        case Close():
            return f"close {command.position}"
        case CloseBy():
            return f"close_by {command.position} {command.by}"
        case CloseAll():
            return "close_all"
        case SetTrading():
            return f"set_trading {command.state}"
