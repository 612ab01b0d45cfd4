"""What of each account must be written since it was last handed over for a commit."""

from dataclasses import dataclass, field

from tradewind.engine.account import Account, position_field, position_value, scalar_fields
from tradewind.engine.messages import Event, OrderFilled, PositionClosed, PositionProtected, PositionsClosedBy
from tradewind.engine.resting import order_field, order_value


@dataclass(slots=True)
class _Before:
    """The account as last handed over, as far as it has changed since. Empty scalars: it did not exist."""

    scalars: dict[str, str]
    positions: dict[str, bool] = field(default_factory=dict)
    """Positions that changed, and whether they existed before."""
    orders: dict[str, bool] = field(default_factory=dict)
    """The same of resting orders."""
    ended_count: int = 0


class Changes:
    def __init__(self) -> None:
        self._before: dict[str, _Before] = {}

    def note(self, account: Account | None, event: Event) -> None:
        """To be called with the account as it is before the event; None if the event opens it."""
        before = self._before.get(event.account)
        if before is None:
            before = self._before[event.account] = _Before(scalar_fields(account) if account else {})
            if account is not None:
                before.ended_count = account.orders.ended_count
        if type(event) is OrderFilled:
            before.positions[event.position] = False
        elif type(event) is PositionClosed or type(event) is PositionProtected:
            before.positions.setdefault(event.position, True)
        elif type(event) is PositionsClosedBy:
            before.positions.setdefault(event.position, True)
            before.positions.setdefault(event.by, True)
        order_id: str = getattr(event, "order", "")
        if order_id and account is not None:
            before.orders.setdefault(order_id, order_id in account.orders.open)

    def take(self, account: Account) -> tuple[dict[str, str], list[str]]:
        """Fields of the stored hash to set and to delete; the account counts as written from here on."""
        before = self._before.pop(account.id, None)
        if before is None:
            return {}, []
        scalars = scalar_fields(account)
        to_set = {name: value for name, value in scalars.items() if before.scalars.get(name) != value}
        to_set |= account.orders.ended_fields(before.ended_count)
        to_delete = [name for name in before.scalars if name not in scalars]
        for position_id, existed in before.positions.items():
            position = account.positions.get(position_id)
            if position is not None:
                to_set[position_field(position_id)] = position_value(position)
            elif existed:
                to_delete.append(position_field(position_id))
        for order_id, existed in before.orders.items():
            order = account.orders.open.get(order_id)
            if order is not None:
                to_set[order_field(order_id)] = order_value(order)
            elif existed:
                to_delete.append(order_field(order_id))
        return to_set, to_delete
