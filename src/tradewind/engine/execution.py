"""Filling an order: how much of it could be filled at the quote, and filling it.

A limit order is filled at the quote with the markup of its account's group, which is its limit or better. A
stop order whose price is met by the quote is a market order, and a stop_limit order a limit order. Where the
quote has sizes, orders take no more than that between them, until the next quote comes. Each fill opens a
position of its own; a reduce-only order closes positions of the other side instead, the oldest first.
"""

from typing import Final, NamedTuple

from msgspec.structs import replace

from tradewind.engine.account import Account
from tradewind.engine.checks import Refusal, check_collar, check_margin
from tradewind.engine.instruments import INSTRUMENTS, Instrument, Quote
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import (
    BUY,
    OrderFilled,
    OrderReduced,
    OrderTriggered,
    RejectReason,
    opposite,
)
from tradewind.engine.messages.groups import DEFAULT_TERMS
from tradewind.engine.money import margin_cents, opening_price
from tradewind.engine.resting import Order

POSITIONS_PER_ACCOUNT_MAX: Final = DEFAULT_TERMS.positions_max


class Fill(NamedTuple):
    """What is to be filled now. `margin` is what the new position holds; `canceled` may not wait."""

    volume: int
    price: int
    margin: int
    canceled: int


def is_stop_met(order: Order, quote: Quote) -> bool:
    """Whether the order waits for its stop price no longer."""
    if order.stop_price is None or order.triggered:
        return True
    if order.side == BUY:
        return quote.ask >= order.stop_price
    return quote.bid <= order.stop_price


def is_limit_met(order: Order, price: int) -> bool:
    """Whether it may be filled at that price."""
    if order.price is None:
        return True
    return price <= order.price if order.side == BUY else price >= order.price


def plan(ledger: Ledger, account: Account, order: Order) -> Fill | None:
    """What the last quote of its symbol, which the caller has found fresh, fills of it. None: it waits.

    :raises Refusal: it can neither be filled nor wait, or its account may not have the position
    """
    quote = ledger.quotes.last[order.symbol]
    if order.stop_price is not None and not is_stop_met(order, quote):
        return None
    left = order.left
    wanted = _reducible(account, order, left) if order.reduce_only else left
    price = opening_price(quote, order.side, account.terms.markup_points)
    volume = _volume_on_offer(ledger, order, wanted) if is_limit_met(order, price) else 0
    if order.time_in_force == "fok" and volume < left:
        volume = 0
    if not volume:
        if order.may_rest:
            return None
        raise Refusal(RejectReason.NOT_FILLABLE, f"{left} units; the quote is {quote.bid}/{quote.ask}")
    check_collar(INSTRUMENTS[order.symbol], price, quote)
    margin = 0 if order.reduce_only else _margin(ledger, account, order, volume, price)
    waits = volume < wanted and order.may_rest
    return Fill(volume, price, margin, 0 if waits else left - volume)


def _reducible(account: Account, order: Order, left: int) -> int:
    """What a reduce-only order can still close."""
    leg = account.legs.get((order.symbol, opposite(order.side)))
    if leg is None:
        raise Refusal(RejectReason.NOTHING_TO_REDUCE, f"no {opposite(order.side)} of {order.symbol} is open")
    return min(left, leg.volume)


def _volume_on_offer(ledger: Ledger, order: Order, wanted: int) -> int:
    available = ledger.quotes.available(order.symbol, order.side)
    if available is None or available >= wanted:
        return wanted
    return _tradable(INSTRUMENTS[order.symbol], available)


def _tradable(instrument: Instrument, volume: int) -> int:
    """As much of it as makes a volume of the instrument."""
    volume -= volume % instrument.volume_step
    return volume if volume >= instrument.volume_min else 0


def _margin(ledger: Ledger, account: Account, order: Order, volume: int, price: int) -> int:
    """What the position will hold.

    :raises Refusal: the account holds too many positions, or too little margin is free
    """
    if len(account.positions) >= account.terms.positions_max:
        raise Refusal(RejectReason.OPEN_POSITIONS_LIMIT, f"{len(account.positions)} are open")
    instrument = INSTRUMENTS[order.symbol]
    margin = margin_cents(instrument, volume, price, account.leverage)
    check_margin(account, ledger.quotes.last, instrument, order.side, volume, margin)
    return margin


def carry_on(
    ledger: Ledger, account: Account, order: Order, fill: Fill | None, cause: str, now_ms: int
) -> OrderFilled | OrderReduced | None:
    """Does with a resting order what the quote asks for: its stop is met, and `fill` is filled."""
    if order.is_waiting_for_stop and is_stop_met(order, ledger.quotes.last[order.symbol]):
        ledger.record(OrderTriggered(account=account.id, at_ms=now_ms, cause=cause, order=order.id))
    return None if fill is None else execute(ledger, account, order, fill, cause, now_ms, order.id)


def execute(
    ledger: Ledger, account: Account, order: Order, fill: Fill, cause: str, now_ms: int, resting: str = ""
) -> OrderFilled | OrderReduced:
    """Fills an order. `resting` is its id if it rests; else it is filled as it comes, and the position gets
    the name that the order would have had.
    """
    ledger.quotes.note_traded(order.symbol, order.side, fill.volume)
    if order.reduce_only:
        return _reduce(ledger, account, order, fill, cause, now_ms, resting)
    commission = account.terms.commission_of(fill.volume)
    event = OrderFilled(
        account=account.id,
        at_ms=now_ms,
        cause=cause,
        position=ledger.next_name if resting else order.id,
        symbol=order.symbol,
        side=order.side,
        volume=fill.volume,
        price=fill.price,
        margin=fill.margin,
    )
    if commission:
        event = replace(event, commission=commission, balance=account.balance - commission)
    if resting or fill.canceled:  # the usual case has neither, and few fields are made faster than many
        left = order.left - fill.volume - fill.canceled
        event = replace(event, order=resting, left=left, volume_canceled=fill.canceled)
    if order.stop_loss is not None or order.take_profit is not None:
        event = replace(event, stop_loss=order.stop_loss, take_profit=order.take_profit)
    ledger.record(event)
    return event


def _reduce(
    ledger: Ledger, account: Account, order: Order, fill: Fill, cause: str, now_ms: int, resting: str
) -> OrderReduced:
    """Closes what it fills, the oldest position first."""
    key = (order.symbol, opposite(order.side))
    to_close = [each for each in account.positions.values() if (each.symbol, each.side) == key]
    left, closed, profit = fill.volume, 0, 0
    for position in to_close:
        volume = min(left, position.volume)
        profit += ledger.close_position(account, position, volume, "reduce", cause, now_ms).profit
        left -= volume
        closed += 1
        if not left:
            break
    event = OrderReduced(
        account=account.id,
        at_ms=now_ms,
        cause=cause,
        symbol=order.symbol,
        side=order.side,
        volume=fill.volume,
        price=fill.price,
        closed=closed,
        profit=profit,
        balance=account.balance,
        order=resting,
        left=order.left - fill.volume - fill.canceled,
        volume_canceled=fill.canceled,
    )
    ledger.record(event)
    return event
