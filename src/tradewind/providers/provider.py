"""What the engine needs of external liquidity, and the house's own dealer, which is the default."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeAlias

from tradewind.engine.instruments import Quote
from tradewind.engine.messages import BUY
from tradewind.providers.orders import ExternalOrder, Kind, Report, reported

OnChange: TypeAlias = Callable[[ExternalOrder], Awaitable[None]]
"""Called with every order that a report has changed, in the order of the reports, one call at a time.

When it fails, or the process ends meanwhile, the report comes again: take the order's state, count no calls.
"""


class Provider(Protocol):
    """One source of liquidity."""

    async def start(self) -> None:
        """Begin to talk to it. Returns at once; orders are refused until there is a session."""

    async def send(self, order: ExternalOrder) -> None:
        """Send an order, once. Its outcome comes by `on_change`, whatever happens to the connection.

        :raises ProviderUnavailable: nothing was sent
        """

    async def cancel(self, order_id: str) -> None:
        """Ask for the rest of an order to be canceled. It may be filled before; `on_change` tells.

        :raises ProviderUnavailable: nothing was sent
        :raises KeyError: no such order is open here
        """

    async def reconcile(self, orders: Iterable[ExternalOrder]) -> None:
        """Take over orders of an earlier life whose outcome is not known, and ask about each.

        To be called before `start`, with all that is known of them: what was reported meanwhile comes first.
        """

    async def close(self) -> None:
        """Say good-bye. Open orders stay as they are at the provider: reconcile them in the next life."""


class Dealer:
    """The house itself: fills the whole order at its own quote, or rejects it. `quote` gives a fresh one."""

    def __init__(self, quote: Callable[[str], Quote | None], on_change: OnChange) -> None:
        self._quote = quote
        self._on_change = on_change

    async def start(self) -> None:
        """Always there."""

    async def send(self, order: ExternalOrder) -> None:
        await self._on_change(reported(order, self._decided(order)))

    def _decided(self, order: ExternalOrder) -> Report:
        quote = self._quote(order.symbol)
        if quote is None:
            return Report(order.id, Kind.REJECTED, text="there is no fresh quote")
        price = quote.ask if order.side == BUY else quote.bid
        is_worse = price > (order.limit or price) if order.side == BUY else price < (order.limit or price)
        if is_worse:
            return Report(order.id, Kind.CANCELED, text="the price is beyond the limit")
        return Report(order.id, Kind.FILL, volume=order.volume, price=price, filled=order.volume)

    async def cancel(self, order_id: str) -> None:
        """:raises KeyError: always, since no order stays open"""
        raise KeyError(order_id)

    async def reconcile(self, orders: Iterable[ExternalOrder]) -> None:
        """What was not decided was not done."""
        for order in orders:
            await self._on_change(reported(order, Report(order.id, Kind.NOT_FOUND)))

    async def close(self) -> None:
        """Nothing is open."""
