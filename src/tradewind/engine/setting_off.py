"""What happens to the orders and positions that a tick or the end of a trading day sets off."""

from tradewind.engine.account import Account, Position
from tradewind.engine.checks import Refusal, may_open, may_reduce
from tradewind.engine.execution import carry_on, is_stop_met, plan
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import (
    BUY,
    CloseReason,
    OrderCanceled,
    OrderExpired,
    OrderRejected,
    OrderTriggered,
    RejectReason,
)
from tradewind.engine.money import closing_price
from tradewind.engine.orders import OrderState
from tradewind.engine.resting import Order
from tradewind.engine.risk import restore_if_recovered
from tradewind.engine.triggers import Trigger

_UNFILLED = (RejectReason.NOT_FILLABLE, RejectReason.NOTHING_TO_REDUCE)
"""Reasons for which FIX has an order cancelled, where it was in order and found no counterpart."""


def set_off(ledger: Ledger, trigger: Trigger, now_ms: int) -> None:
    """An order or position whose price the last quote of its symbol, a fresh one, has reached.

    Where trading is reducing or halted, or the market closed, it waits for the next quote.
    """
    account = ledger.accounts[trigger.account]
    order = account.orders.open.get(trigger.id)
    position = account.positions.get(trigger.id)
    house = ledger.house
    if order is not None:
        may_trade = may_reduce if order.reduce_only else may_open
        if may_trade(house, account, order.symbol, now_ms):
            _set_off_order(ledger, account, order, now_ms)
        else:
            ledger.triggers.arm_order(account.id, order)
    elif position is not None:
        if may_reduce(house, account, position.symbol, now_ms):
            _set_off_position(ledger, account, position, now_ms)
        else:
            ledger.triggers.arm_position(account.id, position)


def expire(ledger: Ledger, trigger: Trigger, now_ms: int) -> None:
    """An order whose trading day is over."""
    account = ledger.accounts[trigger.account]
    order = account.orders.open.get(trigger.id)
    if order is not None:
        ledger.record(
            OrderExpired(
                account=account.id,
                at_ms=now_ms,
                cause=order.client_id,
                order=order.id,
                volume=order.filled,
                left=order.left,
            )
        )


def _set_off_order(ledger: Ledger, account: Account, order: Order, now_ms: int) -> None:
    quote = ledger.quotes.last[order.symbol]
    cause = quote.cause
    try:
        fill = plan(ledger, account, order)
    except Refusal as refusal:
        if refusal.reason is RejectReason.NO_QUOTE:  # of another symbol that the account holds: it will come
            ledger.triggers.arm_order(account.id, order)
            return
        if order.is_waiting_for_stop and is_stop_met(order, quote):
            ledger.record(OrderTriggered(account=account.id, at_ms=now_ms, cause=cause, order=order.id))
        _drop(ledger, account, order, refusal, cause, now_ms)
        return
    carry_on(ledger, account, order, fill, cause, now_ms)
    left = account.orders.open.get(order.id)
    if left is not None:
        ledger.triggers.arm_order(account.id, left)
    if order.reduce_only:
        restore_if_recovered(ledger, account, cause, now_ms)


def _drop(ledger: Ledger, account: Account, order: Order, refusal: Refusal, cause: str, now_ms: int) -> None:
    """It cannot be filled. What is filled in part cannot be rejected any more, so its rest is cancelled."""
    if order.state is OrderState.NEW and refusal.reason not in _UNFILLED:
        ledger.record(
            OrderRejected(
                account=account.id,
                at_ms=now_ms,
                cause=cause,
                command="place",
                reason=refusal.reason,
                text=str(refusal),
                order=order.id,
            )
        )
        return
    ledger.record(
        OrderCanceled(
            account=account.id,
            at_ms=now_ms,
            cause=cause,
            order=order.id,
            volume=order.filled,
            left=order.left,
            reason=refusal.reason,
        )
    )


def _set_off_position(ledger: Ledger, account: Account, position: Position, now_ms: int) -> None:
    """Its stop-loss or its take-profit is met: whichever it is, the position is gone, and the other with
    it.
    """
    quote = ledger.quotes.last[position.symbol]
    reason = _met(position, closing_price(quote, position.side))
    if reason is None:
        ledger.triggers.arm_position(account.id, position)
        return
    cause = quote.cause
    ledger.close_position(account, position, position.volume, reason, cause, now_ms)
    restore_if_recovered(ledger, account, cause, now_ms)


def _met(position: Position, price: int) -> CloseReason | None:
    direction = 1 if position.side == BUY else -1
    if position.stop_loss is not None and (price - position.stop_loss) * direction <= 0:
        return "stop_loss"
    if position.take_profit is not None and (price - position.take_profit) * direction >= 0:
        return "take_profit"
    return None
