"""How many orders an account may send: a bucket of tokens, filled by the engine's time.

Kept in memory alone: with a new owner of the partition every bucket is full again.
"""

from typing import Final

from tradewind.engine.account import Account
from tradewind.engine.checks import Refusal
from tradewind.engine.messages import RejectReason

MILLITOKENS: Final = 1_000


class OrderRates:
    """One bucket for each account whose group has a limit and that has sent an order."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[int, int]] = {}  # millitokens, and when there were so many

    def take(self, account: Account, now_ms: int) -> None:
        """One order. :raises Refusal: the account sends more than its group's orders_per_second"""
        terms = account.terms
        full = terms.orders_at_once * MILLITOKENS
        tokens, at_ms = self._buckets.get(account.id, (full, now_ms))
        # A token a second is a millitoken a millisecond.
        tokens = min(full, tokens + max(0, now_ms - at_ms) * terms.orders_per_second)
        if tokens < MILLITOKENS:
            self._buckets[account.id] = (tokens, now_ms)
            limit = f"{terms.orders_per_second} a second, {terms.orders_at_once} at once"
            raise Refusal(RejectReason.ORDER_RATE, f"group {terms.group} allows {limit}")
        self._buckets[account.id] = (tokens - MILLITOKENS, now_ms)
