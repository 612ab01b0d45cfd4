"""Short ways to a book with quotes and funded accounts, for tests."""

from collections.abc import Iterable
from typing import Any, cast

from tradewind.engine.book import Book, Decision
from tradewind.engine.house import House
from tradewind.engine.instruments import Quote, QuoteFrame
from tradewind.engine.messages import (
    Answer,
    Close,
    CloseAll,
    Command,
    CommandBase,
    Deposit,
    Event,
    OpenAccount,
    OrderKind,
    Place,
    Side,
)
from tradewind.engine.resting import Order

NOW_MS = 1_700_000_000_000

QUOTES = {
    "EURUSD": (112_100, 112_112),
    "GBPUSD": (130_500, 130_520),
    "AUDUSD": (68_200, 68_212),
    "USDJPY": (108_650, 108_662),
    "USDCHF": (97_100, 97_115),
    "USDCAD": (131_800, 131_818),
}


def frame(quotes: dict[str, tuple[int, int]], time_ms: int = NOW_MS) -> QuoteFrame:
    return QuoteFrame(1, [Quote(symbol, bid, ask, time_ms) for symbol, (bid, ask) in quotes.items()])


class Desk:
    """A book at a fixed time whose client order ids number themselves."""

    def __init__(self, quotes: dict[str, tuple[int, int]] = QUOTES, now_ms: int = NOW_MS) -> None:
        self.house = House()
        self.book = Book(partition=17, house=self.house)
        self.now_ms = now_ms
        self.events: list[Event] = []
        self.orders = 0
        self.quote(quotes)

    def _id(self) -> str:
        self.orders += 1
        return f"order-{self.orders}"

    def do(self, command_type: type[CommandBase], /, account: str = "A1", **fields: Any) -> Answer:
        """Any command, under an id of its own."""
        command = command_type(account=account, id=self._id(), **fields)
        return self.answer(self.book.decide(cast(Command, command), self.now_ms))

    def order(
        self,
        kind: OrderKind,
        side: Side,
        price: int | None = None,
        volume: int = 10_000,
        *,
        stop: int | None = None,
        symbol: str = "EURUSD",
        **fields: Any,
    ) -> Answer:
        return self.do(
            Place, kind=kind, side=side, price=price, volume=volume, stop_price=stop, symbol=symbol, **fields
        )

    def bid(
        self,
        bid: int,
        *,
        spread: int = 12,
        bid_size: int | None = None,
        ask_size: int | None = None,
        symbol: str = "EURUSD",
    ) -> list[Event]:
        """Sends one quote; the events that it led to."""
        quote = Quote(symbol, bid, bid + spread, self.now_ms, bid_size, ask_size)
        decisions = self.book.on_frame(QuoteFrame(1, [quote]), self.now_ms)
        self._keep(decisions)
        return [event for decision in decisions for event in decision.events]

    @property
    def resting(self) -> dict[str, Order]:
        return self.book.accounts["A1"].orders.open

    def answer(self, decision: Decision) -> Answer:
        self._keep([decision])
        assert decision.answer is not None
        return decision.answer

    def _keep(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            assert decision.first_sequence == len(self.events) + 1
            self.events.extend(decision.events)
            assert self.book.event_sequence >= len(self.events)

    def quote(self, quotes: dict[str, tuple[int, int]], time_ms: int | None = None) -> list[Event]:
        """Sends one frame; the events that it led to."""
        time_ms = self.now_ms if time_ms is None else time_ms
        decisions = self.book.on_frame(frame(quotes, time_ms), self.now_ms)
        self._keep(decisions)
        return [event for decision in decisions for event in decision.events]

    def open(self, account: str = "A1", deposit: int = 0, leverage: int = 100) -> Answer:
        answer = self.answer(
            self.book.decide(OpenAccount(account=account, id=self._id(), leverage=leverage), self.now_ms)
        )
        return self.deposit(deposit, account) if deposit else answer

    def deposit(self, amount: int, account: str = "A1") -> Answer:
        return self.answer(
            self.book.decide(Deposit(account=account, id=self._id(), amount=amount), self.now_ms)
        )

    def place(self, side: Side, volume: int = 10_000, symbol: str = "EURUSD", account: str = "A1") -> Answer:
        order = Place(account=account, id=self._id(), symbol=symbol, side=side, volume=volume)
        return self.answer(self.book.decide(order, self.now_ms))

    def close(self, position: str | None, volume: int | None = None, account: str = "A1") -> Answer:
        command = Close(account=account, id=self._id(), position=str(position), volume=volume)
        return self.answer(self.book.decide(command, self.now_ms))

    def close_all(self, symbol: str | None = None, side: Side | None = None, account: str = "A1") -> Answer:
        command = CloseAll(account=account, id=self._id(), symbol=symbol, side=side)
        return self.answer(self.book.decide(command, self.now_ms))
