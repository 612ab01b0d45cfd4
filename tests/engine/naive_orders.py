"""The naive book with orders that rest: every order and position is looked at with every tick.

Besides those of `NaiveBook` it tells: ("triggered", account, order), ("filled", account, order, position,
volume), ("reduced", account, order, volume, profit), ("rejected" or "canceled", account, order, reason),
("expired", account, order), and for a position ("stop_loss", "take_profit" or "reduce", account, position,
profit). Each is one event of the engine, so counting them gives the names of what comes into being.
"""

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction

from tests.engine.naive import (
    Happening,
    NaiveAccount,
    NaiveBook,
    NaivePosition,
    Prices,
    exact_profit,
    margin,
)

DAY_MS = 86_400_000
REFUSED_BEFORE_A_FILL = ("not_fillable", "nothing_to_reduce")


@dataclass
class NaiveOrder:
    id: str
    symbol: str
    side: str
    volume: int
    price: int | None = None
    stop: int | None = None
    stop_loss: int | None = None
    take_profit: int | None = None
    time_in_force: str = "gtc"
    reduce_only: bool = False
    ends_ms: int | None = None
    triggered: bool = False
    filled: int = 0

    @property
    def left(self) -> int:
        return self.volume - self.filled

    @property
    def may_wait(self) -> bool:
        return self.price is not None and self.time_in_force in ("gtc", "day")


@dataclass
class Outcome:
    """Of looking at an order: refused, or `volume` to fill and `canceled` to drop; both 0: it waits."""

    refused: str | None = None
    volume: int = 0
    canceled: int = 0


@dataclass
class NaiveMarket(NaiveBook):
    partition: int = 17
    sequence: int = 0
    """The last event. To be set before each call."""
    orders: dict[str, list[NaiveOrder]] = field(default_factory=dict)
    sizes: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    quoted: dict[str, tuple[object, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def name(self) -> str:
        return f"{self.partition}-{self.sequence + 1}"

    def told(self, *happening: str | int) -> list[Happening]:
        self.sequence += 1
        return [happening]

    # -- one order ---------------------------------------------------------------------------------

    def is_stop_met(self, order: NaiveOrder) -> bool:
        bid, ask, _ = self.prices[order.symbol]
        if order.stop is None or order.triggered:
            return True
        return ask >= order.stop if order.side == "buy" else bid <= order.stop

    def is_price_met(self, order: NaiveOrder) -> bool:
        bid, ask, _ = self.prices[order.symbol]
        if not self.is_stop_met(order):
            return False
        if order.stop is not None and not order.triggered:
            return True
        return order.price is None or (ask <= order.price if order.side == "buy" else bid >= order.price)

    def opposite(self, account: NaiveAccount, order: NaiveOrder) -> list[NaivePosition]:
        return [each for each in account.positions if each.symbol == order.symbol and each.side != order.side]

    def look(self, account: NaiveAccount, order: NaiveOrder) -> Outcome:
        if not self.is_stop_met(order):
            return Outcome()
        bid, ask, _ = self.prices[order.symbol]
        wanted = order.left
        if order.reduce_only:
            wanted = min(wanted, sum(each.volume for each in self.opposite(account, order)))
            if not wanted:
                return Outcome("nothing_to_reduce")
        size = self.sizes[order.symbol][1 if order.side == "buy" else 0]
        volume = wanted if size is None or size >= wanted else size // 1_000 * 1_000
        if order.price is not None and (ask > order.price if order.side == "buy" else bid < order.price):
            volume = 0
        if order.time_in_force == "fok" and volume < order.left:
            volume = 0
        if not volume:
            return Outcome() if order.may_wait else Outcome("not_fillable")
        if not order.reduce_only and not self.can_pay(account, order, volume):
            return Outcome("insufficient_margin")
        waits = order.may_wait and volume < wanted
        return Outcome(None, volume, 0 if waits else order.left - volume)

    def can_pay(self, account: NaiveAccount, order: NaiveOrder, volume: int) -> bool:
        position = self.position(order, volume, "")
        spread = -math.floor(exact_profit(position, volume, self.prices))
        needed = self.used_margin(account) + margin(position, account.leverage) + spread
        return self.equity(account) >= needed

    def position(self, order: NaiveOrder, volume: int, id: str) -> NaivePosition:
        bid, ask, _ = self.prices[order.symbol]
        price = ask if order.side == "buy" else bid
        position = NaivePosition(id, order.symbol, order.side, volume, price)
        position.stop_loss, position.take_profit = order.stop_loss, order.take_profit
        return position

    def fill(self, account_id: str, order: NaiveOrder, outcome: Outcome, *, rests: bool) -> list[Happening]:
        account, volume = self.accounts[account_id], outcome.volume
        bid_size, ask_size = self.sizes[order.symbol]
        if order.side == "buy" and ask_size is not None:
            self.sizes[order.symbol] = (bid_size, ask_size - volume)
        if order.side == "sell" and bid_size is not None:
            self.sizes[order.symbol] = (bid_size - volume, ask_size)
        order.filled += volume
        if rests and (outcome.canceled or not order.left):
            self.orders[account_id].remove(order)
        named = order.id if rests else ""
        if order.reduce_only:
            return self.reduce(account_id, order, volume, named)
        position = self.position(order, volume, self.name())
        position.margin = margin(position, account.leverage)
        account.positions.append(position)
        return self.told("filled", account_id, named, position.id, volume)

    def reduce(self, account_id: str, order: NaiveOrder, volume: int, named: str) -> list[Happening]:
        account = self.accounts[account_id]
        happenings: list[Happening] = []
        left, total = volume, 0
        for position in self.opposite(account, order):
            if not left:
                break
            part = min(left, position.volume)
            profit = self.close(account, position, part)
            happenings += self.told("reduce", account_id, position.id, profit)
            left, total = left - part, total + profit
        return happenings + self.told("reduced", account_id, named, volume, total)

    def carry_on(self, account_id: str, order: NaiveOrder, outcome: Outcome) -> list[Happening]:
        """With an order that rests."""
        happenings: list[Happening] = []
        if order.stop is not None and not order.triggered and self.is_stop_met(order):
            order.triggered = True
            happenings += self.told("triggered", account_id, order.id)
        if outcome.volume:
            happenings += self.fill(account_id, order, outcome, rests=True)
        if outcome.refused is not None:
            self.orders[account_id].remove(order)
            is_rejected = not order.filled and outcome.refused not in REFUSED_BEFORE_A_FILL
            kind = "rejected" if is_rejected else "canceled"
            happenings += self.told(kind, account_id, order.id, outcome.refused)
        return happenings

    # -- commands ----------------------------------------------------------------------------------

    def is_protection_wrong(self, side: str, levels: tuple[int | None, int | None], price: int) -> bool:
        direction = 1 if side == "buy" else -1
        stop_loss, take_profit = levels
        return (stop_loss is not None and (price - stop_loss) * direction <= 0) or (
            take_profit is not None and (take_profit - price) * direction <= 0
        )

    def check(self, order: NaiveOrder, now_ms: int) -> str | None:
        waits = order.may_wait or order.stop is not None
        if not waits and not self.is_fresh(order.symbol, now_ms):
            return "stale_quote"
        if order.stop_loss is None and order.take_profit is None:
            return None
        bid, ask, _ = self.prices[order.symbol]
        own = order.price if order.price is not None else order.stop
        reference = own if own is not None else bid if order.side == "buy" else ask
        levels = (order.stop_loss, order.take_profit)
        is_wrong = order.reduce_only or self.is_protection_wrong(order.side, levels, reference)
        return "invalid_protection" if is_wrong else None

    def place_order(
        self, account_id: str, order: NaiveOrder, now_ms: int
    ) -> tuple[str | None, list[Happening]]:
        """The reason of a rejection, and what happened."""
        account = self.accounts[account_id]
        refused = self.check(order, now_ms)
        if refused is not None:
            return refused, []
        is_fresh = self.is_fresh(order.symbol, now_ms)
        outcome = self.look(account, order) if is_fresh else Outcome()
        if outcome.refused is not None:
            return outcome.refused, []
        if outcome.volume + outcome.canceled == order.left:
            return None, self.fill(account_id, order, outcome, rests=False) + self.restore_after(
                account_id, order
            )
        order.id = self.name()
        self.sequence += 1
        self.orders.setdefault(account_id, []).append(order)
        happenings = self.carry_on(account_id, order, outcome) if is_fresh else []
        return None, happenings + self.restore_after(account_id, order)

    def amend(
        self, account_id: str, order: NaiveOrder, volume: int | None, price: int, now_ms: int
    ) -> tuple[str | None, list[Happening]]:
        """Moves the limit, or the stop price of an order without one."""
        if order.ends_ms is not None and order.ends_ms <= now_ms:
            return "too_late_to_cancel", []
        if volume is not None and 0 < order.filled >= volume:
            self.orders[account_id].remove(order)
            return None, []
        changed = replace(order, volume=volume or order.volume)
        if order.price is None:
            changed.stop = price
        else:
            changed.price = price
        refused = "price_collar" if self.is_far(changed) else self.check(changed, now_ms)
        is_fresh = self.is_fresh(order.symbol, now_ms)
        outcome = self.look(self.accounts[account_id], changed) if is_fresh else Outcome()
        if refused or outcome.refused:
            return refused or outcome.refused, []
        order.volume, order.price, order.stop = changed.volume, changed.price, changed.stop
        self.sequence += 1
        happenings = self.carry_on(account_id, order, outcome) if is_fresh else []
        if outcome.volume:
            happenings += self.restore(account_id)
        return None, happenings

    def is_far(self, order: NaiveOrder) -> bool:
        """More than a tenth off the middle of the quote."""
        bid, ask, _ = self.prices[order.symbol]
        prices = (order.price, None if order.triggered else order.stop)
        return any(abs(each - Fraction(bid + ask, 2)) * 20 > bid + ask for each in prices if each is not None)

    def close_by(self, account: NaiveAccount, position: NaivePosition, other: NaivePosition) -> int:
        """One closes where the other was opened, and the other where it was opened itself."""
        volume = min(position.volume, other.volume)
        at = {position.symbol: (other.price, other.price, 0)}
        profit = math.floor(exact_profit(position, volume, at))
        account.balance += profit
        for each in (position, other):
            left = each.volume - volume
            each.margin = math.ceil(Fraction(each.margin * left, each.volume))
            each.volume = left
        account.positions = [each for each in account.positions if each.volume]
        return profit

    def restore_after(self, account_id: str, order: NaiveOrder) -> list[Happening]:
        return self.restore(account_id) if order.reduce_only else []

    def restore(self, account_id: str) -> list[Happening]:
        happenings = super().restore(account_id)
        self.sequence += len(happenings)
        return happenings

    # -- ticks -------------------------------------------------------------------------------------

    def take_sizes(
        self, symbol: str, quote: tuple[object, ...], sizes: tuple[int | None, int | None]
    ) -> None:
        if self.quoted.get(symbol) != (*quote, *sizes):
            self.quoted[symbol] = (*quote, *sizes)
            self.sizes[symbol] = sizes

    def tick(self, moved: Prices, now_ms: int) -> list[Happening]:
        self.prices |= moved
        happenings = self.expire(now_ms)
        for _, account_id, each in self.due(moved, now_ms):
            if isinstance(each, NaiveOrder):
                happenings += self.set_off_order(account_id, each)
            elif each in self.accounts[account_id].positions:
                happenings += self.set_off_position(account_id, each)
        return happenings + super().tick(moved, now_ms)

    def expire(self, now_ms: int) -> list[Happening]:
        over = sorted(
            (number_of(order.id), account_id, order.id)
            for account_id, orders in self.orders.items()
            for order in orders
            if order.ends_ms is not None and order.ends_ms <= now_ms
        )
        for _, account_id, id in over:
            self.orders[account_id] = [order for order in self.orders[account_id] if order.id != id]
        return [happening for _, account_id, id in over for happening in self.told("expired", account_id, id)]

    def due(self, moved: Prices, now_ms: int) -> list[tuple[int, str, NaiveOrder | NaivePosition]]:
        found: list[tuple[int, str, NaiveOrder | NaivePosition]] = []
        for account_id, account in self.accounts.items():
            found += [
                (number_of(order.id), account_id, order)
                for order in self.orders.get(account_id, [])
                if order.symbol in moved and self.is_price_met(order)
            ]
            found += [
                (number_of(position.id), account_id, position)
                for position in account.positions
                if position.symbol in moved and self.met(position) is not None
            ]
        fresh = [each for each in found if self.is_fresh(each[2].symbol, now_ms)]
        return sorted(fresh, key=lambda each: each[0])

    def met(self, position: NaivePosition) -> str | None:
        bid, ask, _ = self.prices[position.symbol]
        price, direction = (bid, 1) if position.side == "buy" else (ask, -1)
        if position.stop_loss is not None and (price - position.stop_loss) * direction <= 0:
            return "stop_loss"
        if position.take_profit is not None and (price - position.take_profit) * direction >= 0:
            return "take_profit"
        return None

    def set_off_order(self, account_id: str, order: NaiveOrder) -> list[Happening]:
        outcome = self.look(self.accounts[account_id], order)
        dropped = outcome.refused is not None
        happenings = self.carry_on(account_id, order, outcome)
        return happenings if dropped else happenings + self.restore_after(account_id, order)

    def set_off_position(self, account_id: str, position: NaivePosition) -> list[Happening]:
        reason = self.met(position)
        assert reason is not None
        profit = self.close(self.accounts[account_id], position, position.volume)
        happenings = self.told(reason, account_id, position.id, profit)
        return happenings + self.restore(account_id)


def number_of(id: str) -> int:
    return int(id.rpartition("-")[2])
