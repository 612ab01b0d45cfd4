"""The accounts of one partition, and the events that change them.

Whatever happens is an event: it gets the next number, is applied to its account, and is kept for the commit.
"""

from collections.abc import Iterable

from tradewind.engine.account import Account, Position, apply
from tradewind.engine.changes import Changes
from tradewind.engine.house import House
from tradewind.engine.messages import (
    CancelTimerEnded,
    CancelTimerSet,
    CloseReason,
    Event,
    OrderFilled,
    OrderRejected,
    PositionClosed,
    PositionProtected,
    PositionsClosedBy,
    Side,
    opposite,
)
from tradewind.engine.money import closing_price
from tradewind.engine.quotes import QuoteBoard
from tradewind.engine.rates import OrderRates
from tradewind.engine.resting import Order
from tradewind.engine.triggers import Triggers
from tradewind.engine.watch import Watch


class Ledger:
    """`event_sequence` is the number of the partition's last event."""

    def __init__(
        self,
        partition: int,
        accounts: Iterable[Account],
        event_sequence: int,
        quotes: QuoteBoard,
        house: House,
    ) -> None:
        self.partition = partition
        self.house = house
        self.accounts: dict[str, Account] = {account.id: account for account in accounts}
        self.event_sequence = event_sequence
        self.quotes = quotes
        self.watch = Watch()
        self.rates = OrderRates()
        self.triggers = Triggers()
        self.timers = {id: each.cancel_at_ms for id, each in self.accounts.items() if each.cancel_at_ms}
        """When the dead-man timers of accounts end that have set one."""
        self.changes = Changes()
        self._events: list[Event] = []
        for account in self.accounts.values():
            self.watch.look_always(account)
            self.triggers.arm(account)

    @property
    def next_name(self) -> str:
        """What the next event would name an order or a position that it brings."""
        return f"{self.partition}-{self.event_sequence + 1}"

    def record(self, event: Event) -> None:
        """The one way in which anything changes."""
        self.event_sequence += 1
        self._events.append(event)
        if type(event) is OrderRejected and not event.order:
            return
        before = self.accounts.get(event.account)
        self.changes.note(before, event)
        order_id: str = getattr(event, "order", "")
        order = before.orders.open.get(order_id) if before is not None and order_id else None
        apply(self.accounts, event)
        account = self.accounts[event.account]
        if order_id:
            self._follow_order(account, order_id, order)
        self._follow_position(account, event)
        if type(event) is CancelTimerSet or type(event) is CancelTimerEnded:
            self.timers[account.id] = account.cancel_at_ms
            if not account.cancel_at_ms:
                del self.timers[account.id]
        self.watch.look_always(account)

    def _follow_order(self, account: Account, order_id: str, before: Order | None) -> None:
        """The triggers know of an order what its account knows."""
        order = account.orders.open.get(order_id)
        if order is not None:
            self.triggers.arm_order(account.id, order)
        elif before is not None:
            self.triggers.disarm(before.symbol, order_id)

    def _follow_position(self, account: Account, event: Event) -> None:
        """Watch and triggers know of a position what its account knows."""
        if type(event) is OrderFilled:
            if event.stop_loss is not None or event.take_profit is not None:
                self.triggers.arm_position(account.id, account.positions[event.position])
        elif type(event) is PositionClosed:
            self._leave(account, event.symbol, event.side, event.position)
        elif type(event) is PositionsClosedBy:
            self._leave(account, event.symbol, event.side, event.position)
            self._leave(account, event.symbol, opposite(event.side), event.by)
        elif type(event) is PositionProtected:
            self.triggers.arm_position(account.id, account.positions[event.position])

    def _leave(self, account: Account, symbol: str, side: Side, position_id: str) -> None:
        if position_id not in account.positions:
            self.triggers.disarm(symbol, position_id)
        if (symbol, side) not in account.legs:
            self.watch.forget(account.id, (symbol, side))

    def take_events(self) -> list[Event]:
        """What was recorded since the last call, in order."""
        events, self._events = self._events, []
        return events

    def equity(self, account: Account) -> int | None:
        return account.equity(self.quotes.last)

    def margin_freed(self, position: Position, volume: int) -> int:
        """What is left of the position goes on holding its share, rounded up."""
        left = position.volume - volume
        return position.margin - -(-position.margin * left // position.volume)

    def close_position(
        self,
        account: Account,
        position: Position,
        volume: int,
        reason: CloseReason,
        cause: str,
        now_ms: int,
    ) -> PositionClosed:
        """Closes `volume` units at the last quote, which the caller has found fresh."""
        terms = account.terms
        price = closing_price(self.quotes.last[position.symbol], position.side, terms.markup_points)
        profit = position.profit_of(volume, price)
        commission = terms.commission_of(volume)
        event = PositionClosed(
            account=account.id,
            at_ms=now_ms,
            cause=cause,
            position=position.id,
            symbol=position.symbol,
            side=position.side,
            volume=volume,
            left=position.volume - volume,
            price=price,
            profit=profit,
            margin=self.margin_freed(position, volume),
            balance=account.balance + profit - commission,
            reason=reason,
            commission=commission,
        )
        self.record(event)
        return event


def rebuild(events: Iterable[Event]) -> dict[str, Account]:
    """The accounts of a partition from its events alone, in order from the first one.

    Raises InconsistentEvent if an event does not follow from those before it.
    """
    accounts: dict[str, Account] = {}
    for event in events:
        apply(accounts, event)
    return accounts
