"""What each event adds to or takes from a balance, by kind. The audit adds it up; statements list it.

A second, plain reading of the events beside `account.apply`: if the two differ, the audit says so.
"""

from typing import Literal, TypeAlias

from tradewind.engine import messages
from tradewind.engine.messages import Event

CashKind: TypeAlias = Literal["deposits", "withdrawals", "closed_profit", "commission", "swaps", "forgiven"]


def cash_flows(event: Event) -> tuple[tuple[CashKind, int], ...]:
    """Cents of the account's currency; less than zero is taken from it. Empty: the event moves no money."""
    match event:
        case messages.Deposited():
            return (("deposits", event.amount),)
        case messages.Withdrawn():
            return (("withdrawals", -event.amount),)
        case messages.OrderFilled():
            return (("commission", -event.commission),) if event.commission else ()
        case messages.PositionClosed():
            commission: tuple[tuple[CashKind, int], ...] = (("commission", -event.commission),)
            return (("closed_profit", event.profit), *(commission if event.commission else ()))
        case messages.PositionsClosedBy():
            return (("closed_profit", event.profit),)
        case messages.SwapPaid():
            return (("swaps", event.amount),)
        case messages.DebtForgiven():
            return (("forgiven", event.amount),)
    return ()
