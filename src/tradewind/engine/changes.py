"""What of each account must be written since it was last handed over for a commit."""

from dataclasses import dataclass, field

from tradewind.engine.account import Account, position_field, position_value, scalar_fields
from tradewind.engine.messages import Event, OrderFilled, PositionClosed


@dataclass(slots=True)
class _Before:
    """The account as last handed over, as far as it has changed since. Empty scalars: it did not exist."""

    scalars: dict[str, str]
    positions: dict[str, bool] = field(default_factory=dict)
    """Positions that changed, and whether they existed before."""


class Changes:
    def __init__(self) -> None:
        self._before: dict[str, _Before] = {}

    def note(self, account: Account | None, event: Event) -> None:
        """To be called with the account as it is before the event; None if the event opens it."""
        before = self._before.get(event.account)
        if before is None:
            before = self._before[event.account] = _Before(scalar_fields(account) if account else {})
        if type(event) is OrderFilled:
            before.positions[event.position] = False
        elif type(event) is PositionClosed:
            before.positions.setdefault(event.position, True)

    def take(self, account: Account) -> tuple[dict[str, str], list[str]]:
        """Fields of the stored hash to set and to delete; the account counts as written from here on."""
        before = self._before.pop(account.id, None)
        if before is None:
            return {}, []
        scalars = scalar_fields(account)
        to_set = {name: value for name, value in scalars.items() if before.scalars.get(name) != value}
        to_delete = [name for name in before.scalars if name not in scalars]
        for position_id, existed in before.positions.items():
            position = account.positions.get(position_id)
            if position is not None:
                to_set[position_field(position_id)] = position_value(position)
            elif existed:
                to_delete.append(position_field(position_id))
        return to_set, to_delete
