"""Changing a resting order, and the protection of a position.

The house decides a replace at once, so that none is ever pending here. Where another venue decides, the order
waits in pending_replace or pending_cancel, and is not changed by anybody else meanwhile.
"""

import msgspec

from tradewind.engine.account import Account
from tradewind.engine.checks import (
    Refusal,
    check_may_reduce,
    check_may_trade,
    check_order,
    check_volume,
    find_account,
    find_order,
    find_position,
)
from tradewind.engine.deciders.placing import accepted_answer, filled_answer
from tradewind.engine.execution import carry_on, plan
from tradewind.engine.instruments import INSTRUMENTS
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import (
    Amend,
    Answer,
    OrderAmended,
    PositionProtected,
    Protect,
    RejectReason,
)
from tradewind.engine.money import closing_price
from tradewind.engine.orders import OrderState
from tradewind.engine.resting import Order
from tradewind.engine.risk import restore_if_recovered
from tradewind.engine.terms import amended_level, check_levels, check_prices, check_protection


def amend(ledger: Ledger, command: Amend, now_ms: int) -> Answer:
    account = find_account(ledger.accounts, command.account)
    order = find_order(account, command.order, now_ms)
    check_may_trade(ledger.house, account, order.symbol, now_ms, reduces=order.reduce_only)
    _check_not_pending(order)
    if command.volume is not None and 0 < order.filled >= command.volume:
        return _end_as_filled(ledger, account, order, command, now_ms)
    amended = _amended(order, command)
    check_volume(INSTRUMENTS[order.symbol], amended.volume)
    check_prices(amended)
    if account.terms.orders_per_second:
        ledger.rates.take(account, now_ms)
    check_order(account, INSTRUMENTS[order.symbol], amended, ledger.quotes.last.get(order.symbol))
    check_protection(amended, 0)  # a resting order has a price of its own
    is_fresh = ledger.quotes.is_fresh(order.symbol, now_ms)
    fill = plan(ledger, account, amended) if is_fresh else None
    ledger.record(_amended_event(account, amended, command, now_ms))
    answer = accepted_answer(account, command.id, amended, ledger.event_sequence)
    if is_fresh:
        event = carry_on(ledger, account, amended, fill, command.id, now_ms)
        if event is not None:
            answer = filled_answer(account, event, ledger.event_sequence)
            restore_if_recovered(ledger, account, command.id, now_ms)
    return answer


def _check_not_pending(order: Order) -> None:
    if order.state is OrderState.PENDING_REPLACE:
        raise Refusal(RejectReason.REPLACE_PENDING, order.id)
    if order.state is OrderState.PENDING_CANCEL:
        raise Refusal(RejectReason.CANCEL_PENDING, order.id)


def _end_as_filled(ledger: Ledger, account: Account, order: Order, command: Amend, now_ms: int) -> Answer:
    """The race that FIX knows: more was filled than the owner wants by now."""
    ended = msgspec.structs.replace(order, volume=order.filled)
    ledger.record(_amended_event(account, ended, command, now_ms))
    return Answer(
        id=command.id,
        account=account.id,
        status="filled",
        order=order.id,
        volume=order.filled,
        sequence=ledger.event_sequence,
    )


def _amended(order: Order, command: Amend) -> Order:
    if order.triggered and command.stop_price is not None:
        raise Refusal(RejectReason.INVALID_PRICE, f"the stop_price of {order.id} was met already")
    return msgspec.structs.replace(
        order,
        volume=order.volume if command.volume is None else command.volume,
        price=order.price if command.price is None else command.price,
        stop_price=order.stop_price if command.stop_price is None else command.stop_price,
        stop_loss=amended_level(order.stop_loss, command.stop_loss),
        take_profit=amended_level(order.take_profit, command.take_profit),
    )


def _amended_event(account: Account, order: Order, command: Amend, now_ms: int) -> OrderAmended:
    return OrderAmended(
        account=account.id,
        at_ms=now_ms,
        cause=command.id,
        order=order.id,
        volume=order.volume,
        filled=order.filled,
        price=order.price,
        stop_price=order.stop_price,
        stop_loss=order.stop_loss,
        take_profit=order.take_profit,
    )


def protect(ledger: Ledger, command: Protect, now_ms: int) -> Answer:
    account = find_account(ledger.accounts, command.account)
    position = find_position(account, command.position)
    check_may_reduce(ledger.house, account, position.symbol, now_ms)
    stop_loss = amended_level(position.stop_loss, command.stop_loss)
    take_profit = amended_level(position.take_profit, command.take_profit)
    quote = ledger.quotes.fresh(position.symbol, now_ms)
    check_levels(position.side, stop_loss, take_profit, closing_price(quote, position.side))
    ledger.record(
        PositionProtected(
            account=account.id,
            at_ms=now_ms,
            cause=command.id,
            position=position.id,
            stop_loss=stop_loss,
            take_profit=take_profit,
        )
    )
    return Answer(
        id=command.id,
        account=account.id,
        status="done",
        position=position.id,
        sequence=ledger.event_sequence,
    )
