"""Offers orders: at a rate, whatever the answers do (open loop), or as fast as they are taken, bounded.

At a rate, the latency of an order counts from the moment it was due, so that a stalled system cannot hide
behind a load that waits for it (coordinated omission).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from tradewind import OutcomeUnknown
from tradewind.engine.desk import OrderDesk
from tradewind.engine.messages import Answer, Command, Deposit, OpenAccount, RejectReason
from tradewind.ops.errors import StartFailed
from tradewind.ops.journal import Journal
from tradewind.ops.mix import DEPOSIT_CENTS, LEVERAGE, Mix, Trader
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

Observer = Callable[[Trader, Command, Answer], None]


class Load:
    """Hands the orders of a mix to the desk; counts the answers and writes them to the journal."""

    def __init__(self, desk: OrderDesk, mix: Mix, tally: Tally, journal: Journal) -> None:
        self._desk = desk
        self._mix = mix
        self._tally = tally
        self._journal = journal
        self._orders: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def offering(self, rate: int) -> AsyncIterator[None]:
        """Offer `rate` orders a second while inside, 0: as fast as possible. All are answered at the end."""
        stop = asyncio.Event()
        self._tally.started_s = time.monotonic()
        task = asyncio.create_task(self._at_rate(rate, stop) if rate else self._flat_out(stop), name="load")
        try:
            yield
        finally:
            stop.set()
            await task
        await self._drain()

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
        trader, command = self._mix.next()
        self._tally.offered += 1
        try:
            answer = await self._desk.submit(command)
        except OutcomeUnknown as error:
            self._tally.unknown += 1
            self._tally.errors[type(error).__name__] += 1
            self._journal.add(command, None)
            return
        self._tally.answered(trader.shard, due_s, answer)
        self._journal.add(command, answer)
        self._mix.learn(trader, command, answer)

    async def _drain(self) -> None:
        if self._orders:
            await asyncio.wait(self._orders, timeout=DRAIN_S_MAX)
        for task in list(self._orders):
            task.cancel()
        await asyncio.gather(*self._orders, return_exceptions=True)


async def open_accounts(desk: OrderDesk, journal: Journal, accounts: Iterable[str], run: str) -> int:
    """Open and fund every account; those that exist stay as they are. Returns how many are new.

    :raises StartFailed: the engine refused one, or did not answer
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
    except* OutcomeUnknown as errors:
        raise StartFailed(f"accounts cannot be opened: {errors.exceptions[0]}") from None
    return opened


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
