"""The resting orders of one account, how events change them, and how they are stored.

An order's state changes in `Order.after` alone, which asks the table in `orders.py`. An order that has ended
leaves; what became of the last ones is remembered, so that who comes too late to cancel is told so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from tradewind.engine.errors import InconsistentEvent
from tradewind.engine.messages import (
    OrderAccepted,
    OrderAmended,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderKind,
    OrderReduced,
    OrderRejected,
    OrderTriggered,
    Side,
    TimeInForce,
    encode,
)
from tradewind.engine.orders import FINAL_STATES, IllegalTransition, OrderEvent, OrderState, transition

ENDED_ORDERS_KEPT: Final = 100
"""The oldest makes room for the next, in a ring of so many stored fields."""

ORDER_FIELD_PREFIX: Final = "order:"
ENDED_FIELD_PREFIX: Final = "ended:"
ENDED_COUNT_FIELD: Final = "orders_ended"

PENDING_STATES: Final = frozenset({OrderState.PENDING_CANCEL, OrderState.PENDING_REPLACE})


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """`id` is "<partition>-<number of the event that accepted it>", `client_id` the id of its command."""

    id: str
    client_id: str
    symbol: str
    side: Side
    volume: int
    kind: OrderKind
    placed_at_ms: int
    state: OrderState = OrderState.PENDING_NEW
    filled: int = 0
    price: int | None = None
    stop_price: int | None = None
    stop_loss: int | None = None
    take_profit: int | None = None
    time_in_force: TimeInForce = "gtc"
    reduce_only: bool = False
    triggered: bool = False
    expires_at_ms: int | None = None

    @property
    def left(self) -> int:
        return self.volume - self.filled

    @property
    def may_rest(self) -> bool:
        """Whether what cannot be filled at once waits. A market order does not, nor a stop that was met."""
        return self.price is not None and self.time_in_force in ("gtc", "day")

    @property
    def is_waiting_for_stop(self) -> bool:
        return self.stop_price is not None and not self.triggered

    def after(self, *events: OrderEvent, filled: int = 0) -> "Order":
        """The order after these events, in order, with `filled` more units filled.

        :raises InconsistentEvent: the state does not allow one of them
        """
        state = self.state
        try:
            for event in events:
                state = transition(state, event)
        except IllegalTransition as error:
            raise InconsistentEvent(f"order {self.id}: {error}") from error
        return msgspec.structs.replace(self, state=state, filled=self.filled + filled)

    def resumed(self) -> OrderEvent:
        """How it goes on after a replace that was decided or a cancel that was refused."""
        return OrderEvent.RESUME_PARTIALLY_FILLED if self.filled else OrderEvent.RESUME_UNFILLED


class EndedOrder(msgspec.Struct, frozen=True):
    id: str
    state: OrderState


@dataclass(slots=True)
class RestingOrders:
    """`open` by id, the oldest first. `ended` is a ring; `ended_count` says how many have ever ended."""

    open: dict[str, Order] = field(default_factory=dict)
    ended: dict[int, EndedOrder] = field(default_factory=dict)
    ended_count: int = 0

    def ended_state(self, order_id: str) -> OrderState | None:
        """What became of an order that ended lately; None: it rests, or nobody remembers it."""
        return next((one.state for one in self.ended.values() if one.id == order_id), None)

    def accept(self, event: OrderAccepted) -> None:
        if event.order in self.open:
            raise InconsistentEvent(f"account {event.account}: order {event.order} is accepted twice")
        order = accepted_order(event)
        self.open[order.id] = order

    def fill(self, event: OrderFilled | OrderReduced) -> None:
        """Of a resting order; what is filled when it comes never gets here."""
        order = self._find(event.account, event.order)
        if event.volume <= 0 or event.volume + event.left + event.volume_canceled != order.left:
            raise InconsistentEvent(
                f"account {event.account}: order {order.id} has {order.left} units left, "
                f"{event.volume} cannot be filled with {event.left} left"
            )
        if event.volume_canceled:
            self._put(order.after(OrderEvent.FILL_PARTIALLY, OrderEvent.CANCEL, filled=event.volume))
        elif event.left:
            self._put(order.after(OrderEvent.FILL_PARTIALLY, filled=event.volume))
        else:
            self._put(order.after(OrderEvent.FILL, filled=event.volume))

    def trigger(self, event: OrderTriggered) -> None:
        order = self._find(event.account, event.order)
        if not order.is_waiting_for_stop:
            raise InconsistentEvent(f"account {event.account}: order {order.id} cannot be triggered again")
        self._put(msgspec.structs.replace(order.after(OrderEvent.TRIGGER), triggered=True))

    def amend(self, event: OrderAmended) -> None:
        order = self._find(event.account, event.order).after(OrderEvent.REQUEST_REPLACE)
        amended = msgspec.structs.replace(
            order,
            volume=event.volume,
            price=event.price,
            stop_price=event.stop_price,
            stop_loss=event.stop_loss,
            take_profit=event.take_profit,
        )
        is_filled = 0 < event.volume <= order.filled
        self._put(amended.after(OrderEvent.FILL if is_filled else amended.resumed()))

    def reject(self, event: OrderRejected) -> None:
        self._put(self._find(event.account, event.order).after(OrderEvent.REJECT))

    def cancel(self, event: OrderCanceled) -> None:
        self._put(self._find(event.account, event.order).after(OrderEvent.CANCEL))

    def expire(self, event: OrderExpired) -> None:
        self._put(self._find(event.account, event.order).after(OrderEvent.EXPIRE))

    def _find(self, account_id: str, order_id: str) -> Order:
        order = self.open.get(order_id)
        if order is None:
            raise InconsistentEvent(f"account {account_id}: order {order_id} does not rest")
        return order

    def _put(self, order: Order) -> None:
        if order.state not in FINAL_STATES:
            self.open[order.id] = order
            return
        del self.open[order.id]
        self.ended[self.ended_count % ENDED_ORDERS_KEPT] = EndedOrder(order.id, order.state)
        self.ended_count += 1

    # -- as stored ---------------------------------------------------------------------------------

    def to_fields(self) -> dict[str, str]:
        """Fields of the account's hash. An account that never had a resting order has none."""
        fields = {order_field(order.id): order_value(order) for order in self.open.values()}
        return fields | self.ended_fields(0)

    def ended_fields(self, since: int) -> dict[str, str]:
        """The fields that changed since `ended_count` was that."""
        if since == self.ended_count:
            return {}
        first = max(since, self.ended_count - ENDED_ORDERS_KEPT)
        slots = [number % ENDED_ORDERS_KEPT for number in range(first, self.ended_count)]
        fields = {f"{ENDED_FIELD_PREFIX}{slot}": encode(self.ended[slot]).decode() for slot in slots}
        return {ENDED_COUNT_FIELD: str(self.ended_count)} | fields

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> "RestingOrders":
        """Raises ValueError if a field is broken."""
        found = [_decode_order(v) for k, v in fields.items() if k.startswith(ORDER_FIELD_PREFIX)]
        ended = {
            int(name.removeprefix(ENDED_FIELD_PREFIX)): _decode_ended(value)
            for name, value in fields.items()
            if name.startswith(ENDED_FIELD_PREFIX)
        }
        # A hash has no order of its own: orders come back in the order of the events that accepted them.
        resting = {order.id: order for order in sorted(found, key=lambda order: sequence_of(order.id))}
        return cls(resting, ended, int(fields.get(ENDED_COUNT_FIELD, "0")))


def accepted_order(event: OrderAccepted) -> Order:
    order = Order(
        id=event.order,
        client_id=event.cause,
        symbol=event.symbol,
        side=event.side,
        volume=event.volume,
        kind=event.kind,
        placed_at_ms=event.at_ms,
        price=event.price,
        stop_price=event.stop_price,
        stop_loss=event.stop_loss,
        take_profit=event.take_profit,
        time_in_force=event.time_in_force,
        reduce_only=event.reduce_only,
        expires_at_ms=event.expires_at_ms,
    )
    return order.after(OrderEvent.ACCEPT)


def order_field(order_id: str) -> str:
    return ORDER_FIELD_PREFIX + order_id


def order_value(order: Order) -> str:
    return encode(order).decode()


def sequence_of(name: str) -> int:
    """Positions and orders are named "<partition>-<event sequence>"."""
    return int(name.rpartition("-")[2])


_decode_order: Final = msgspec.json.Decoder(Order).decode
_decode_ended: Final = msgspec.json.Decoder(EndedOrder).decode
