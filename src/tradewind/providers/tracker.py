"""Which orders are with a provider, and which of them it is time to ask about.

Plain code: it is told the time, and says what to do. An order whose outcome is not known is asked about, for
as long as it takes; it is never sent again.
"""

from dataclasses import dataclass

from tradewind.providers.orders import ExternalOrder, Report, cancel_requested, reported

ANSWER_S_MAX = 2.0
"""After so long without a word the provider is asked, and again after each further one of twice the time."""
ASK_S_MAX = 30.0


@dataclass
class _Open:
    order: ExternalOrder
    ask_at_s: float
    ask_after_s: float


class Tracker:
    """The open orders of one provider, by their ids. Final ones leave it."""

    def __init__(self, answer_s_max: float = ANSWER_S_MAX) -> None:
        self._answer_s_max = answer_s_max
        self._open: dict[str, _Open] = {}

    def __contains__(self, order_id: str) -> bool:
        return order_id in self._open

    @property
    def open(self) -> list[ExternalOrder]:
        return [entry.order for entry in self._open.values()]

    def find(self, order_id: str) -> ExternalOrder | None:
        """An open order, as it is now."""
        entry = self._open.get(order_id)
        return entry.order if entry is not None else None

    def restore(self, order: ExternalOrder, now_s: float) -> None:
        """The order as it was before a report that could not be dealt with."""
        self._open.pop(order.id, None)
        self.add(order, now_s)

    def add(self, order: ExternalOrder, now_s: float) -> None:
        """An order that is about to be sent, or one of an earlier life, whose outcome is asked for at once.

        :raises ValueError: there is one of this id
        """
        if order.id in self._open:
            raise ValueError(f"order {order.id} is with the provider already")
        self._open[order.id] = _Open(order, now_s + self._answer_s_max, self._answer_s_max)

    def remove(self, order_id: str) -> None:
        """An order that was not sent after all."""
        self._open.pop(order_id, None)

    def cancel(self, order_id: str, now_s: float) -> ExternalOrder:
        """:raises KeyError: no such order is open; :raises IllegalTransition: a cancel is pending"""
        entry = self._open[order_id]
        entry.order = cancel_requested(entry.order)
        self._hear(entry, now_s)
        return entry.order

    def report(self, report: Report, now_s: float) -> ExternalOrder | None:
        """Take a report: the order as it is now, or None if nothing has changed or nobody waits for it.

        :raises ReportRefused: it cannot be; the order stays as it was, and is asked about again
        """
        entry = self._open.get(report.order_id)
        if entry is None:
            return None
        changed = reported(entry.order, report)
        self._hear(entry, now_s)
        if changed is entry.order:
            return None
        entry.order = changed
        if changed.is_final:
            del self._open[changed.id]
        return changed

    def ask_all(self, now_s: float) -> None:
        """Nothing is certain any more, as after a lost connection: ask about every order."""
        for entry in self._open.values():
            entry.ask_at_s = now_s
            entry.ask_after_s = self._answer_s_max

    def due(self, now_s: float) -> list[ExternalOrder]:
        """The orders to ask about now. Each call counts as having asked."""
        due = [entry for entry in self._open.values() if entry.ask_at_s <= now_s]
        for entry in due:
            entry.ask_after_s = min(ASK_S_MAX, 2 * entry.ask_after_s)
            entry.ask_at_s = now_s + entry.ask_after_s
        return [entry.order for entry in due]

    def _hear(self, entry: _Open, now_s: float) -> None:
        entry.ask_after_s = self._answer_s_max
        entry.ask_at_s = now_s + self._answer_s_max
