"""A provider behind a FIX 4.4 session: orders out, reports in, questions where an outcome is not known."""

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tradewind.providers.errors import ProviderUnavailable, ReportRefused
from tradewind.providers.fix import orders as fix_orders
from tradewind.providers.fix.connection import PAUSE_S_MIN, Connection, Place, stamp
from tradewind.providers.fix.frames import Fields
from tradewind.providers.fix.session import SessionSettings
from tradewind.providers.orders import ExternalOrder, Kind, Report
from tradewind.providers.provider import OnChange
from tradewind.providers.tracker import ANSWER_S_MAX, Tracker

LOOK_S = 0.1
SENT_KEPT_MAX = 10_000  # numbers of sent orders, for a reject that names nothing but the number

logger = logging.getLogger(__name__)


class FixProvider:
    """A `Provider`. One process per session: the file `numbers` is its own."""

    def __init__(
        self,
        place: Place,
        settings: SessionSettings,
        numbers: Path,
        on_change: OnChange,
        *,
        answer_s_max: float = ANSWER_S_MAX,
        pause_s_min: float = PAUSE_S_MIN,
    ) -> None:
        self.refused: list[str] = []
        """Reports that cannot be, in words; the last ones. A person must look."""
        self.queries = 0
        self._connection = Connection(
            place, settings, numbers, self._on_message, self._ask_all, pause_s_min=pause_s_min
        )
        self._tracker = Tracker(answer_s_max)
        self._on_change = on_change
        self._sent: dict[int, str] = {}
        self._asker: asyncio.Task[None] | None = None

    @property
    def is_active(self) -> bool:
        """Whether there is a session, so that orders are taken."""
        return self._connection.is_active

    @property
    def open(self) -> list[ExternalOrder]:
        """Orders whose outcome is not final."""
        return self._tracker.open

    async def start(self) -> None:
        self._connection.start()
        self._asker = asyncio.create_task(self._ask(), name="fix queries")

    async def send(self, order: ExternalOrder) -> None:
        """:raises ValueError: an order of this id is open already"""
        self._tracker.add(order, time.monotonic())
        try:
            number = await self._connection.send(*fix_orders.new_order(order, stamp()))
        except ProviderUnavailable:
            self._tracker.remove(order.id)
            raise
        except OSError as error:  # perhaps sent: it is asked about after the next logon
            logger.info("order %s: %s", order.id, error)
            return
        self._sent[number] = order.id
        if len(self._sent) > SENT_KEPT_MAX:
            del self._sent[next(iter(self._sent))]

    async def cancel(self, order_id: str) -> None:
        if not self.is_active:
            raise ProviderUnavailable(f"order {order_id} was not canceled: {self._connection.last_end}")
        order = self._tracker.cancel(order_id, time.monotonic())
        with suppress(OSError):  # perhaps sent: it is asked about
            await self._connection.send(*fix_orders.cancel(order, stamp()))

    async def reconcile(self, orders: Iterable[ExternalOrder]) -> None:
        for order in orders:
            if order.id not in self._tracker and not order.is_final:
                self._tracker.add(order, time.monotonic() - ANSWER_S_MAX)

    async def close(self) -> None:
        if self._asker is not None:
            self._asker.cancel()
            await asyncio.gather(self._asker, return_exceptions=True)
        await self._connection.close()

    # -- what is not known ---------------------------------------------------------------------------

    async def _ask_all(self) -> None:
        self._tracker.ask_all(time.monotonic())

    async def _ask(self) -> None:
        """Ask about every order that nothing was heard of for long. Never send it again."""
        while True:
            await asyncio.sleep(LOOK_S)
            if not self.is_active:
                continue
            for order in self._tracker.due(time.monotonic()):
                self.queries += 1
                with suppress(OSError, ProviderUnavailable):
                    await self._connection.send(*fix_orders.query(order))

    # -- what is told --------------------------------------------------------------------------------

    async def _on_message(self, message: Fields) -> None:
        try:
            report = self._rejected(message) or fix_orders.report_of(message)
            if report is None:
                return
            before = self._tracker.find(report.order_id)
            changed = self._tracker.report(report, time.monotonic())
        except ReportRefused as error:
            logger.error("%s", error)
            self.refused = [*self.refused[-99:], str(error)]
            return
        if before is None:
            logger.info("report of order %s, which is not open here: %s", report.order_id, report)
        elif changed is not None:
            try:
                await self._on_change(changed)
            except BaseException:
                self._tracker.restore(before, time.monotonic())  # the report comes again
                raise

    def _rejected(self, message: Fields) -> Report | None:
        """A message of ours that the provider could not take names only its number: nothing was done."""
        kind = message.get(35)
        number = message.get(45, "")
        is_order = message.get(372) == "D"
        if kind not in ("3", "j") or not is_order or not number.isdigit() or int(number) not in self._sent:
            return None
        return Report(self._sent[int(number)], Kind.REJECTED, text=message.get(58, ""))
