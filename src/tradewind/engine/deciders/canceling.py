"""Cancelling one resting order, or all that match."""

from tradewind.engine.account import Account
from tradewind.engine.checks import Refusal, find_account, find_instrument, find_order
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import AllCanceled, Answer, Cancel, CancelAll, OrderCanceled, RejectReason
from tradewind.engine.orders import OrderState
from tradewind.engine.resting import Order


def cancel(ledger: Ledger, command: Cancel, now_ms: int) -> Answer:
    account = find_account(ledger.accounts, command.account)
    order = find_order(account, command.order, now_ms)
    if order.state is OrderState.PENDING_CANCEL:
        raise Refusal(RejectReason.CANCEL_PENDING, order.id)
    ledger.record(_canceled(account, order, command.id, now_ms))
    return Answer(
        id=command.id,
        account=account.id,
        status="done",
        order=order.id,
        volume=order.filled,
        volume_canceled=order.left,
        sequence=ledger.event_sequence,
    )


def cancel_all(ledger: Ledger, command: CancelAll, now_ms: int) -> Answer:
    account = find_account(ledger.accounts, command.account)
    if command.symbol is not None:
        find_instrument(command.symbol)
    asked = [order for order in account.orders.open.values() if _matches(command, order)]
    now = [order for order in asked if order.state is not OrderState.PENDING_CANCEL]
    for order in now:
        ledger.record(_canceled(account, order, command.id, now_ms))
    left = len(asked) - len(now)
    ledger.record(
        AllCanceled(account=account.id, at_ms=now_ms, cause=command.id, canceled=len(now), left=left)
    )
    return Answer(
        id=command.id,
        account=account.id,
        status="done",
        volume_canceled=sum(order.left for order in now),
        canceled=len(now),
        left=left,
        sequence=ledger.event_sequence,
    )


def cancel_every(ledger: Ledger, account: Account, cause: str, now_ms: int) -> int:
    """All that rest, without anybody having asked for it now. Returns how many."""
    orders = list(account.orders.open.values())
    for order in orders:
        ledger.record(_canceled(account, order, cause, now_ms))
    return len(orders)


def _matches(command: CancelAll, order: Order) -> bool:
    return command.symbol in (None, order.symbol) and command.side in (None, order.side)


def _canceled(account: Account, order: Order, cause: str, now_ms: int) -> OrderCanceled:
    return OrderCanceled(
        account=account.id,
        at_ms=now_ms,
        cause=cause,
        order=order.id,
        volume=order.filled,
        left=order.left,
    )
