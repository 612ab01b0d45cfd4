"""Placing an order: what the quote fills is filled, what may rest rests."""

from typing import Final

from msgspec.structs import replace

from tradewind.engine.account import Account
from tradewind.engine.checks import (
    Refusal,
    check_may_trade,
    check_order,
    check_volume,
    find_account,
    find_instrument,
)
from tradewind.engine.execution import Fill, carry_on, execute, plan
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import (
    Answer,
    OrderAccepted,
    OrderFilled,
    OrderReduced,
    Place,
    RejectReason,
)
from tradewind.engine.messages.groups import DEFAULT_TERMS
from tradewind.engine.money import closing_price
from tradewind.engine.resting import Order
from tradewind.engine.risk import restore_if_recovered
from tradewind.engine.terms import check_prices, check_protection, order_of

ORDERS_PER_ACCOUNT_MAX: Final = DEFAULT_TERMS.orders_max
"""Resting ones, where the group does not say less."""


def place(ledger: Ledger, command: Place, now_ms: int) -> Answer:
    account = find_account(ledger.accounts, command.account)
    instrument = find_instrument(command.symbol)
    check_may_trade(ledger.house, account, instrument.symbol, now_ms, reduces=command.reduce_only)
    check_volume(instrument, command.volume)
    order = order_of(command, ledger.next_name, now_ms)
    check_prices(order)
    if account.terms.orders_per_second and not order.reduce_only:
        ledger.rates.take(account, now_ms)
    check_order(account, instrument, order, ledger.quotes.last.get(order.symbol))
    fill = _plan_now(ledger, account, order, now_ms)
    if fill is not None and fill.volume + fill.canceled == order.left:
        event = execute(ledger, account, order, fill, command.id, now_ms)
        answer = filled_answer(account, event, ledger.event_sequence)
    else:
        answer = _rest(ledger, account, order, fill, now_ms)
    if command.reduce_only:
        restore_if_recovered(ledger, account, command.id, now_ms)
    return answer


def _plan_now(ledger: Ledger, account: Account, order: Order, now_ms: int) -> Fill | None:
    """What can be filled at once. An order that may rest does not need a quote when it comes."""
    may_wait = order.kind != "market" and (order.may_rest or order.is_waiting_for_stop)
    if may_wait and not ledger.quotes.is_fresh(order.symbol, now_ms):
        check_protection(order, 0)  # it has a price of its own
        return None
    quote = ledger.quotes.fresh(order.symbol, now_ms)
    if order.stop_loss is not None or order.take_profit is not None:
        check_protection(order, closing_price(quote, order.side))
    return plan(ledger, account, order)


def _rest(ledger: Ledger, account: Account, order: Order, fill: Fill | None, now_ms: int) -> Answer:
    if len(account.orders.open) >= account.terms.orders_max:
        raise Refusal(RejectReason.OPEN_ORDERS_LIMIT, f"{len(account.orders.open)} rest")
    ledger.record(_accepted(account, order, now_ms))
    answer = accepted_answer(account, order.client_id, order, ledger.event_sequence)
    if ledger.quotes.is_fresh(order.symbol, now_ms):
        event = carry_on(ledger, account, order, fill, order.client_id, now_ms)
        if event is not None:
            answer = filled_answer(account, event, ledger.event_sequence)
    return answer


def _accepted(account: Account, order: Order, now_ms: int) -> OrderAccepted:
    return OrderAccepted(
        account=account.id,
        at_ms=now_ms,
        cause=order.client_id,
        order=order.id,
        symbol=order.symbol,
        side=order.side,
        volume=order.volume,
        kind=order.kind,
        price=order.price,
        stop_price=order.stop_price,
        stop_loss=order.stop_loss,
        take_profit=order.take_profit,
        time_in_force=order.time_in_force,
        reduce_only=order.reduce_only,
        expires_at_ms=order.expires_at_ms,
    )


def accepted_answer(account: Account, command_id: str, order: Order, sequence: int) -> Answer:
    """The order rests."""
    return Answer(
        id=command_id,
        account=account.id,
        status="accepted",
        order=order.id,
        volume=order.filled,
        sequence=sequence,
    )


def filled_answer(account: Account, event: OrderFilled | OrderReduced, sequence: int) -> Answer:
    """All or a part was filled when the command came. `order` is named if it rested or still rests."""
    answer = Answer(
        id=event.cause,
        account=account.id,
        status="partially_filled" if event.left or event.volume_canceled else "filled",
        position=event.position if isinstance(event, OrderFilled) else None,
        price=event.price,
        volume=event.volume,
        balance=account.balance,
        sequence=sequence,
    )
    if event.order or event.volume_canceled:
        order, canceled = event.order or None, event.volume_canceled or None
        answer = replace(answer, order=order, volume_canceled=canceled)
    if isinstance(event, OrderReduced):
        answer = replace(answer, profit=event.profit, closed=event.closed)
    return answer
