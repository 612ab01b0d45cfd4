"""The accounts of one partition, and the events that change them.

Whatever happens is an event: it gets the next number, is applied to its account, and is kept for the commit.
"""

from collections.abc import Iterable
from typing import Literal

from tradewind.engine.account import Account, Position, apply
from tradewind.engine.changes import Changes
from tradewind.engine.house import House
from tradewind.engine.instruments import INSTRUMENTS
from tradewind.engine.messages import Event, OrderRejected, PositionClosed
from tradewind.engine.money import closing_price, margin_cents
from tradewind.engine.quotes import QuoteBoard
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
        self.changes = Changes()
        self._events: list[Event] = []
        for account in self.accounts.values():
            self.watch.look_always(account)

    def record(self, event: Event) -> None:
        """The one way in which anything changes."""
        self.event_sequence += 1
        self._events.append(event)
        if type(event) is OrderRejected:
            return
        self.changes.note(self.accounts.get(event.account), event)
        apply(self.accounts, event)
        account = self.accounts[event.account]
        if type(event) is PositionClosed and (event.symbol, event.side) not in account.legs:
            self.watch.forget(account.id, (event.symbol, event.side))
        self.watch.look_always(account)

    def take_events(self) -> list[Event]:
        """What was recorded since the last call, in order."""
        events, self._events = self._events, []
        return events

    def equity(self, account: Account) -> int | None:
        return account.equity(self.quotes.last)

    def close_position(
        self,
        account: Account,
        position: Position,
        volume: int,
        reason: Literal["close", "stop_out"],
        cause: str,
        now_ms: int,
    ) -> PositionClosed:
        """Closes `volume` units at the last quote, which the caller has found fresh."""
        price = closing_price(self.quotes.last[position.symbol], position.side)
        profit = position.profit_of(volume, price)
        left = position.volume - volume
        margin_left = margin_cents(INSTRUMENTS[position.symbol], left, position.price, account.leverage)
        event = PositionClosed(
            account=account.id,
            at_ms=now_ms,
            cause=cause,
            position=position.id,
            symbol=position.symbol,
            side=position.side,
            volume=volume,
            left=left,
            price=price,
            profit=profit,
            margin=position.margin - margin_left,
            balance=account.balance + profit,
            reason=reason,
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
