"""What a tick sets off, found without looking at any account: orders that wait for a price, stop-losses and
take-profits, and orders whose trading day ends.

For each symbol four heaps of prices: the bid may rise to one or fall to one, and so may the ask. A tick looks
at the top of each of the four, and takes off what it has reached. What was taken off is gone: whoever handles
it arms it again if it still waits.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

from tradewind.engine.account import Account, Position
from tradewind.engine.instruments import Quote
from tradewind.engine.messages import BUY
from tradewind.engine.resting import PENDING_STATES, Order, sequence_of

STALE_ENTRIES_MAX: Final = 64
"""Entries of a heap beyond twice those that count, before it is built anew."""


class Trigger(NamedTuple):
    """What was set off, an order or a position, and whose it is."""

    sequence: int
    id: str
    account: str


class Heap:
    """Names with a number each, the least on top. Bounded by twice the names, and a few.

    A name that leaves, or gets another number, leaves its entry behind until that comes to the top.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[int, str]] = []
        self._numbers: dict[str, tuple[int, str]] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def set(self, id: str, account: str, number: int) -> None:
        if self._numbers.get(id) == (number, account):
            return
        self._numbers[id] = (number, account)
        heapq.heappush(self._entries, (number, id))
        if len(self._entries) > 2 * len(self._numbers) + STALE_ENTRIES_MAX:
            self._entries = [(number, id) for id, (number, _) in self._numbers.items()]
            heapq.heapify(self._entries)

    def drop(self, id: str) -> None:
        self._numbers.pop(id, None)

    def take(self, number: int) -> list[Trigger]:
        """Takes off what has `number` or less."""
        taken = []
        while self._entries and self._entries[0][0] <= number:
            reached, id = heapq.heappop(self._entries)
            known = self._numbers.get(id)
            if known is not None and known[0] == reached:
                del self._numbers[id]
                taken.append(Trigger(sequence_of(id), id, known[1]))
        return taken


class SymbolHeaps:
    """A price that is fallen to is kept as its negative, so that all four heaps have the next on top."""

    def __init__(self) -> None:
        self.bid_rises, self.bid_falls, self.ask_rises, self.ask_falls = Heap(), Heap(), Heap(), Heap()

    def drop(self, id: str) -> None:
        for heap in (self.bid_rises, self.bid_falls, self.ask_rises, self.ask_falls):
            heap.drop(id)

    def take(self, quote: Quote) -> list[Trigger]:
        taken = self.bid_rises.take(quote.bid) + self.bid_falls.take(-quote.bid)
        return taken + self.ask_rises.take(quote.ask) + self.ask_falls.take(-quote.ask)


class Triggers:
    """Of all accounts of one partition."""

    def __init__(self) -> None:
        self._symbols: defaultdict[str, SymbolHeaps] = defaultdict(SymbolHeaps)
        self._days = Heap()

    def due(self, moved: Iterable[Quote]) -> list[Trigger]:
        """Takes off all that these quotes have reached, the oldest order or position first."""
        taken = {
            trigger
            for quote in moved
            if quote.symbol in self._symbols
            for trigger in self._symbols[quote.symbol].take(quote)
        }
        return sorted(taken)

    def expired(self, now_ms: int) -> list[Trigger]:
        """Takes off the orders whose time is over, the oldest first."""
        return sorted(self._days.take(now_ms))

    def arm(self, account: Account) -> None:
        """All of an account, as when it is loaded."""
        for order in account.orders.open.values():
            self.arm_order(account.id, order)
        for position in account.positions.values():
            self.arm_position(account.id, position)

    def arm_order(self, account_id: str, order: Order) -> None:
        """An order has one price at a time: the stop price, then the limit. None while a venue decides."""
        heaps = self._symbols[order.symbol]
        heaps.drop(order.id)
        if order.expires_at_ms is not None:
            self._days.set(order.id, account_id, order.expires_at_ms)
        if order.state in PENDING_STATES:
            return
        if order.is_waiting_for_stop and order.stop_price is not None:
            if order.side == BUY:
                heaps.ask_rises.set(order.id, account_id, order.stop_price)
            else:
                heaps.bid_falls.set(order.id, account_id, -order.stop_price)
        elif order.price is not None:
            if order.side == BUY:
                heaps.ask_falls.set(order.id, account_id, -order.price)
            else:
                heaps.bid_rises.set(order.id, account_id, order.price)

    def arm_position(self, account_id: str, position: Position) -> None:
        """Buys close at the bid, sells at the ask."""
        if position.stop_loss is None and position.take_profit is None:
            self.disarm(position.symbol, position.id)
            return
        heaps = self._symbols[position.symbol]
        is_buy = position.side == BUY
        falls, rises = (heaps.bid_falls, heaps.bid_rises) if is_buy else (heaps.ask_falls, heaps.ask_rises)
        falls_to, rises_to = (
            (position.stop_loss, position.take_profit)
            if is_buy
            else (position.take_profit, position.stop_loss)
        )
        _set_or_drop(falls, position.id, account_id, None if falls_to is None else -falls_to)
        _set_or_drop(rises, position.id, account_id, rises_to)

    def disarm(self, symbol: str, id: str) -> None:
        """The order or position is gone."""
        heaps = self._symbols.get(symbol)
        if heaps is not None:
            heaps.drop(id)
            self._days.drop(id)


def _set_or_drop(heap: Heap, id: str, account_id: str, number: int | None) -> None:
    if number is None:
        heap.drop(id)
    else:
        heap.set(id, account_id, number)
