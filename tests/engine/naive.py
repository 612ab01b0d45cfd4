"""A second, plain book to compare the real one with: no sums kept, no watch, no shared code, exact fractions.

Only the rules are the same. It values every account with everything it holds at every tick, and tells what
happens as tuples: ("called", account), ("restored", account), ("stopped", account, position, profit).
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

DIGITS = {"EURUSD": 5, "GBPUSD": 5, "AUDUSD": 5, "USDJPY": 3, "USDCHF": 5, "USDCAD": 5}
STALE_MS = 10_000

Happening: TypeAlias = tuple[str | int, ...]
Prices: TypeAlias = dict[str, tuple[int, int, int]]
"""Symbol to bid, ask and time."""


@dataclass
class NaivePosition:
    id: str
    symbol: str
    side: str
    volume: int
    price: int
    margin: int = 0
    stop_loss: int | None = None
    take_profit: int | None = None


@dataclass
class NaiveAccount:
    leverage: int
    balance: int = 0
    called: bool = False
    positions: list[NaivePosition] = field(default_factory=list)


def exact_profit(position: NaivePosition, volume: int, prices: Prices) -> Fraction:
    bid, ask, _ = prices[position.symbol]
    direction, price = (1, bid) if position.side == "buy" else (-1, ask)
    in_quote = Fraction(direction * volume * (price - position.price), 10 ** DIGITS[position.symbol])
    dollars = in_quote if position.symbol.endswith("USD") else in_quote / exact_price(position.symbol, price)
    return dollars * 100


def exact_price(symbol: str, price: int) -> Fraction:
    return Fraction(price, 10 ** DIGITS[symbol])


def margin(position: NaivePosition, leverage: int) -> int:
    value = Fraction(position.volume)
    if position.symbol.endswith("USD"):
        value *= exact_price(position.symbol, position.price)
    return math.ceil(value * 100 / leverage)


class NaiveBook:
    def __init__(self) -> None:
        self.accounts: dict[str, NaiveAccount] = {}
        self.prices: Prices = {}

    def used_margin(self, account: NaiveAccount) -> int:
        return sum(position.margin for position in account.positions)

    def equity(self, account: NaiveAccount) -> int:
        """What floats is rounded down once for each symbol and side."""
        floating: dict[tuple[str, str], Fraction] = {}
        for position in account.positions:
            leg = (position.symbol, position.side)
            floating[leg] = floating.get(leg, Fraction(0)) + exact_profit(
                position, position.volume, self.prices
            )
        return account.balance + sum(math.floor(amount) for amount in floating.values())

    def withdraw(self, account: NaiveAccount, amount: int, now_ms: int) -> str | None:
        """The reason of a rejection, or None."""
        if not all(self.is_fresh(position.symbol, now_ms) for position in account.positions):
            return "stale_quote"
        if amount > min(account.balance, self.equity(account) - self.used_margin(account)):
            return "insufficient_funds"
        account.balance -= amount
        return None

    def is_fresh(self, symbol: str, now_ms: int) -> bool:
        return now_ms - self.prices[symbol][2] <= STALE_MS

    def place(self, account_id: str, position: NaivePosition, now_ms: int) -> str | None:
        """The reason of a rejection, or None."""
        account = self.accounts[account_id]
        if not self.is_fresh(position.symbol, now_ms):
            return "stale_quote"
        bid, ask, _ = self.prices[position.symbol]
        position.price = ask if position.side == "buy" else bid
        spread = -math.floor(exact_profit(position, position.volume, self.prices))
        position.margin = margin(position, account.leverage)
        needed = self.used_margin(account) + position.margin + spread
        if self.equity(account) < needed:
            return "insufficient_margin"
        account.positions.append(position)
        return None

    def close(self, account: NaiveAccount, position: NaivePosition, volume: int) -> int:
        profit = math.floor(exact_profit(position, volume, self.prices))
        account.balance += profit
        left = position.volume - volume
        position.margin = math.ceil(Fraction(position.margin * left, position.volume))
        position.volume = left
        if not position.volume:
            account.positions.remove(position)
        return profit

    def restore(self, account_id: str) -> list[Happening]:
        account = self.accounts[account_id]
        if not account.called or self.equity(account) * 100 < self.used_margin(account) * 110:
            return []
        account.called = False
        return [("restored", account_id)]

    def tick(self, moved: Prices, now_ms: int) -> list[Happening]:
        self.prices |= moved
        happenings: list[Happening] = []
        for account_id, account in sorted(self.accounts.items()):
            if any(position.symbol in moved for position in account.positions):
                happenings += self.review(account_id, account, now_ms)
        return happenings

    def review(self, account_id: str, account: NaiveAccount, now_ms: int) -> list[Happening]:
        happenings: list[Happening] = []
        if not account.called and self.equity(account) < self.used_margin(account):
            account.called = True
            happenings.append(("called", account_id))
        while self.equity(account) * 100 < self.used_margin(account) * 50:
            fresh = [each for each in account.positions if self.is_fresh(each.symbol, now_ms)]
            if not fresh:
                break
            worst = min(fresh, key=lambda each: math.floor(exact_profit(each, each.volume, self.prices)))
            profit = self.close(account, worst, worst.volume)
            happenings.append(("stopped", account_id, worst.id, profit))
        return happenings + self.restore(account_id)
