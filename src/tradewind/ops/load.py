"""Offers orders: at a rate, whatever the answers do (open loop), or as fast as they are taken, bounded.

At a rate, the latency of an order counts from the moment it was due, so that a stalled system cannot hide
behind a load that waits for it (coordinated omission).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from redis.exceptions import RedisError

from tradewind import ClientClosed, OutcomeUnknown, Overloaded
from tradewind.engine.desk import OrderDesk
from tradewind.engine.messages import Answer, Command, Deposit, OpenAccount, RejectReason
from tradewind.ops.errors import OpsError, OrderFailed, StartFailed
from tradewind.ops.journal import Journal
from tradewind.ops.mix import DEPOSIT_CENTS, LEVERAGE, Mix
from tradewind.ops.tally import Tally

IN_FLIGHT_MAX = 50_000
"""At a rate: orders offered and not answered. Beyond it new ones wait, and their latency counts meanwhile."""

CALLERS = 4_000
"""Without a rate: orders in flight. Measured with 50 workers on 2 cores: 6,400 orders a second of 2,000
callers, 8,700 of 5,000, whose orders wait twice as long.
"""

OPENING_MAX = 1_000
"""Accounts being opened at once."""

PACE_S = 0.002
"""How often the open loop looks what is due."""

DRAIN_S_MAX = 35.0
"""A little more than the desk's own deadline, at which an order's outcome counts as unknown."""


class Load:
    """Hands the orders of a mix to the desk; counts the answers and writes them to the journal.

    Every order ends as acknowledged, unknown, or not sent. `on_failure` is called at the first error that is
    none of these; `offering` raises it at its end.
    """

    def __init__(
        self, desk: OrderDesk, mix: Mix, tally: Tally, journal: Journal, on_failure: Callable[[], None]
    ) -> None:
        self._desk = desk
        self._mix = mix
        self._tally = tally
        self._journal = journal
        self._orders: set[asyncio.Task[None]] = set()
        self._on_failure = on_failure
        self._failure: Exception | None = None

    @asynccontextmanager
    async def offering(self, rate: int) -> AsyncIterator[None]:
        """Offer `rate` orders a second while inside, 0: as fast as possible. All have ended at the end.

        :raises JournalUnwritable: an outcome could not be kept
        :raises OrderFailed: an error that is no outcome
        """
        stop = asyncio.Event()
        self._tally.started_s = time.monotonic()
        task = asyncio.create_task(self._at_rate(rate, stop) if rate else self._flat_out(stop), name="load")
        patience_s = 0.0
        try:
            yield
            patience_s = DRAIN_S_MAX
        finally:
            stop.set()
            if not patience_s:
                task.cancel()
            await asyncio.wait([task])
            await self._drain(patience_s)
        task.result()
        if isinstance(self._failure, OpsError):
            raise self._failure
        if self._failure is not None:
            kind = type(self._failure).__name__
            raise OrderFailed(f"an order met an error: {kind}: {self._failure}") from self._failure

    async def _at_rate(self, rate: int, stop: asyncio.Event) -> None:
        """Start what is due; look again shortly after. Never waits for an answer."""
        started_s = time.monotonic()
        number = 0
        while not stop.is_set():
            due = int((time.monotonic() - started_s) * rate) + 1
            while number < due and len(self._orders) < IN_FLIGHT_MAX:
                task = asyncio.create_task(self._offer(started_s + number / rate))
                self._orders.add(task)
                task.add_done_callback(self._orders.discard)
                number += 1
            await asyncio.sleep(PACE_S)

    async def _flat_out(self, stop: asyncio.Event) -> None:
        """A fixed number of callers, each with one order after the other."""

        async def caller() -> None:
            while not stop.is_set():
                await self._offer(time.monotonic())

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller())

    async def _offer(self, due_s: float) -> None:
        """One order to its end. An error that is no outcome must not vanish with its task."""
        try:
            trader, command = self._mix.next()
            self._tally.offered += 1
            answer = await self._outcome(command)
            if answer is None:
                return
            self._tally.answered(trader.shard, due_s, answer)
            self._journal.add(command, answer)
            self._mix.learn(trader, command, answer)
        except Exception as error:
            if self._failure is None:
                self._failure = error
                self._on_failure()

    async def _outcome(self, command: Command) -> Answer | None:
        """The answer; None, and counted as what it is, without one."""
        try:
            return await self._desk.submit(command)
        except (Overloaded, ClientClosed) as error:
            self._tally.not_sent += 1
            self._tally.errors[type(error).__name__] += 1
        except BaseException as error:  # also when it is cancelled: it may have been handed in
            self._tally.unknown += 1
            self._tally.errors[type(error).__name__] += 1
            self._journal.add(command, None)
            if not isinstance(error, OutcomeUnknown):
                raise
        return None

    async def _drain(self, patience_s: float) -> None:
        """Wait for the answers; those that have not come by then stay unknown."""
        if self._orders:
            await asyncio.wait(self._orders, timeout=patience_s)
        for task in list(self._orders):
            task.cancel()
        await asyncio.gather(*self._orders, return_exceptions=True)


async def open_accounts(desk: OrderDesk, journal: Journal, accounts: Iterable[str], run: str) -> int:
    """Open and fund every account; those that exist stay as they are. Returns how many are new.

    :raises StartFailed: the engine refused one, or did not answer
    :raises JournalUnwritable: an answer could not be kept
    """
    waiting = iter(accounts)
    opened = 0

    async def opener() -> None:
        nonlocal opened
        for account in waiting:
            is_new = await _open_account(desk, journal, account, run)
            opened += is_new

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(OPENING_MAX):
                group.create_task(opener())
    except ExceptionGroup as errors:
        raise _first_reason(errors) from None
    return opened


def _first_reason(errors: ExceptionGroup) -> Exception:
    """Why opening failed; the other openers met the same, or were stopped by it."""
    error = errors.exceptions[0]
    return StartFailed(f"accounts cannot be opened: {error}") if isinstance(error, RedisError) else error


async def _open_account(desk: OrderDesk, journal: Journal, account: str, run: str) -> bool:
    opening = OpenAccount(account=account, id=f"{run}-open", leverage=LEVERAGE)
    answer = await desk.submit(opening)
    journal.add(opening, answer)
    if answer.reason is RejectReason.ACCOUNT_EXISTS:
        return False
    deposit = Deposit(account=account, id=f"{run}-fund", amount=DEPOSIT_CENTS)
    funded = await desk.submit(deposit)
    journal.add(deposit, funded)
    for refused in (answer, funded):
        if refused.status == "rejected":
            raise StartFailed(f"account {account} cannot be opened: {refused.text}")
    return True
