"""Overnight financing: what a group pays or charges for positions that stay open over the end of a day (UTC).

The night from Wednesday to Thursday counts three times, those of Saturday and Sunday not at all: a week has
seven. One event an account and day; the account remembers up to which day, so a new owner goes on from there.
"""

from typing import Final

from tradewind.engine.account import Account, Position
from tradewind.engine.instruments import UNITS_PER_LOT
from tradewind.engine.keys import DAY_MS
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import BUY, SwapPaid

NIGHTS_BY_WEEKDAY: Final = (1, 1, 3, 1, 1, 0, 0)
"""From Monday on."""

WEEKDAY_OF_DAY_0: Final = 3
"""The epoch began on a Thursday."""


def nights(from_day: int, until_day: int) -> int:
    """How many nights count between two days."""
    weeks, rest = divmod(max(0, until_day - from_day), 7)
    first = from_day + WEEKDAY_OF_DAY_0
    return weeks * sum(NIGHTS_BY_WEEKDAY) + sum(NIGHTS_BY_WEEKDAY[(first + day) % 7] for day in range(rest))


def has_swaps(account: Account) -> bool:
    """Whether the end of a day is anything to it."""
    terms = account.terms
    return bool(account.positions and (terms.swap_buy_cents or terms.swap_sell_cents))


def pay_swaps(ledger: Ledger, account: Account, now_ms: int) -> None:
    """For all nights that are not paid yet. Rounded down for each position: to the house."""
    day = now_ms // DAY_MS
    amounts = [_owed(account, position, day) for position in account.positions.values()]
    if any(amounts):  # also where they come to nothing together: these nights are paid
        amount = sum(amounts)
        ledger.record(
            SwapPaid(
                account=account.id,
                at_ms=now_ms,
                cause=f"time:{now_ms}",
                amount=amount,
                balance=account.balance + amount,
                day=day,
            )
        )


def _owed(account: Account, position: Position, day: int) -> int:
    held = nights(max(account.swapped_day, position.opened_at_ms // DAY_MS), day)
    terms = account.terms
    rate = terms.swap_buy_cents if position.side == BUY else terms.swap_sell_cents
    return rate * position.volume * held // UNITS_PER_LOT
