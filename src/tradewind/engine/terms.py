"""The terms of an order: whether its prices fit its kind, its protection its side, and its trading day."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tradewind.engine.checks import Refusal
from tradewind.engine.keys import DAY_MS
from tradewind.engine.messages import BUY, PRICE_MAX, OrderKind, Place, RejectReason, Side
from tradewind.engine.resting import Order

TRADING_DAY_ENDS_AFTER_MIDNIGHT_MS: Final = 0
"""When the trading day ends: so long after midnight, UTC."""

_NEEDED: Final[Mapping[OrderKind, tuple[bool, bool]]] = MappingProxyType(
    {"market": (False, False), "limit": (True, False), "stop": (False, True), "stop_limit": (True, True)}
)
"""Whether an order of a kind has a price, and whether it has a stop price."""


def trading_day_end_ms(now_ms: int) -> int:
    """The next end of a trading day, later than now."""
    shift = TRADING_DAY_ENDS_AFTER_MIDNIGHT_MS
    return ((now_ms - shift) // DAY_MS + 1) * DAY_MS + shift


def order_of(command: Place, order_id: str, now_ms: int) -> Order:
    """The order that a command asks for, under the id that it gets if it rests."""
    return Order(
        id=order_id,
        client_id=command.id,
        symbol=command.symbol,
        side=command.side,
        volume=command.volume,
        kind=command.kind,
        placed_at_ms=now_ms,
        price=command.price,
        stop_price=command.stop_price,
        stop_loss=command.stop_loss,
        take_profit=command.take_profit,
        time_in_force=command.time_in_force,
        reduce_only=command.reduce_only,
        expires_at_ms=trading_day_end_ms(now_ms) if command.time_in_force == "day" else None,
    )


def check_prices(order: Order) -> None:
    """An order has the prices that its kind needs, and no other."""
    if order.kind == "market" and order.price is None and order.stop_price is None:
        return  # the usual case, without more ado
    prices = (order.price, order.stop_price)
    if tuple(price is not None for price in prices) != _NEEDED[order.kind] or not all(
        price is None or 1 <= price <= PRICE_MAX for price in prices
    ):
        given = f"a {order.kind} order with price {order.price} and stop_price {order.stop_price}"
        raise Refusal(RejectReason.INVALID_PRICE, given)


def check_protection(order: Order, closing_price: int) -> None:
    """Of an order without a price of its own, as it would close now; else as from its own price."""
    if order.stop_loss is None and order.take_profit is None:
        return
    if order.reduce_only:
        raise Refusal(RejectReason.INVALID_PROTECTION, "a reduce-only order opens nothing to protect")
    reference = order.stop_price if order.price is None else order.price
    check_levels(
        order.side, order.stop_loss, order.take_profit, closing_price if reference is None else reference
    )


def check_levels(side: Side, stop_loss: int | None, take_profit: int | None, price: int) -> None:
    """The stop-loss is where a position loses, as seen from `price`, and the take-profit where it gains."""
    below, above = (stop_loss, take_profit) if side == BUY else (take_profit, stop_loss)
    if (below is not None and not 0 < below < price) or (
        above is not None and not price < above <= PRICE_MAX
    ):
        given = f"a {side} at {price} with stop_loss {stop_loss} and take_profit {take_profit}"
        raise Refusal(RejectReason.INVALID_PROTECTION, given)


def amended_level(now: int | None, asked: int | None) -> int | None:
    """A stop_loss or take_profit after a change: None leaves it as it is, 0 takes it off."""
    if asked is None:
        return now
    return asked or None
