"""One tick that stops out every account while others trade: how long until all are closed, and who waits.

`python -m benchmarks.crash [--workers N]` starts servers and workers and prints a JSON object for each run.

Accounts hold positions of different volumes in one symbol; a single quote takes all of them below zero.
Others trade another symbol at a rate all the time. Closed means committed: read from the partitions' events.
"""

import argparse
import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from msgspec.structs import replace

from tradewind import RedisCluster, clock
from tradewind.client.histogram import LatencyHistogram
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.desk import OrderDesk
from tradewind.engine.instruments import Quote, QuoteFrame, encode_frame
from tradewind.engine.keys import PartitionKeys
from tradewind.engine.messages import (
    Answer,
    Command,
    Deposit,
    OpenAccount,
    Place,
    PositionClosed,
    RejectReason,
    decode_event,
)
from tradewind.engine.opening import open_engine
from tradewind.ops.workers import WorkerProcesses

QUOTES_EVERY_S: Final = 0.2
LOOK_S: Final = 0.05
ASKED_AT_ONCE: Final = 1_000
TRIES: Final = 50
CRASH_S_MAX: Final = 60.0
BEFORE_S: Final = 1.0  # the others' latency is looked at from so long before the tick
EVENTS_AT_ONCE: Final = 2_000
BID_BEFORE, BID_AFTER = 110_000, 106_700
SPREAD = 12
OTHER_BID: Final = 130_500
VOLUME: Final = 10_000
# Four positions of 10,000 to 13,000 EUR hold 506 dollars at 1:100, and lose 1,518 in a fall of 3 %.
DEPOSIT_PER_POSITION_CENTS: Final = 16_000
RICH_CENTS: Final = 10**11


@dataclass(frozen=True)
class CrashPlan:
    accounts: int = 5_000
    positions: int = 4
    others: int = 200
    rate: int = 500


class Market:
    """Quotes for every partition, again and again: old ones would stop all trade."""

    def __init__(self, client: RedisCluster, partitions: int) -> None:
        self.bid = BID_BEFORE
        self._client = client
        self._channels = [PartitionKeys(partition).quotes_channel for partition in range(partitions)]

    async def publish(self) -> None:
        now_ms = clock.now_ms()
        quotes = [
            Quote("EURUSD", self.bid, self.bid + SPREAD, now_ms),
            Quote("GBPUSD", OTHER_BID, OTHER_BID + SPREAD, now_ms),
        ]
        frame = encode_frame(QuoteFrame(now_ms, quotes))
        await asyncio.gather(
            *(self._client.execute_command("SPUBLISH", channel, frame) for channel in self._channels)
        )

    async def run(self) -> None:
        while True:
            await self.publish()
            await asyncio.sleep(QUOTES_EVERY_S)


class Others:
    """Accounts that have nothing to do with it, and trade at a rate. Latency counts from when it was due."""

    def __init__(self, desk: OrderDesk, plan: CrashPlan) -> None:
        self.answered: list[tuple[float, float, str]] = []  # due, answered, status
        self._desk = desk
        self._plan = plan
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        started_s, number = time.monotonic(), 0
        while True:
            while number < (time.monotonic() - started_s) * self._plan.rate:
                task = asyncio.create_task(self._offer(number, started_s + number / self._plan.rate))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                number += 1
            await asyncio.sleep(0.002)

    async def _offer(self, number: int, due_s: float) -> None:
        account, side = f"O{number % self._plan.others}", "buy" if number % 2 else "sell"
        order = Place(account=account, id=f"o{number}", symbol="GBPUSD", side=side, volume=1_000)  # type: ignore[arg-type]  # one of the two sides
        answer = await self._desk.submit(order)
        self.answered.append((due_s, time.monotonic(), answer.status))

    async def drain(self) -> None:
        await asyncio.gather(*self._tasks)

    def latency(self, from_s: float, until_s: float) -> LatencyHistogram:
        """Of the orders that were due between two moments of the monotonic clock."""
        histogram = LatencyHistogram()
        for due_s, answered_s, _ in self.answered:
            if from_s <= due_s <= until_s:
                histogram.record(answered_s - due_s)
        return histogram


async def flash_crash(client: RedisCluster, partitions: int, plan: CrashPlan) -> dict[str, Any]:
    """On a cluster whose workers run and that has no accounts yet."""
    desk, market = OrderDesk(client, partitions), Market(client, partitions)
    await desk.start()
    others = Others(desk, plan)
    try:
        async with _running(market.run()):
            await _prepare(desk, plan)
            trail = _Trail(client, partitions)
            await trail.look()
            async with _running(others.run()):
                await asyncio.sleep(2 * BEFORE_S)
                return await _crash(market, trail, others, plan)
    finally:
        await others.drain()
        await desk.aclose()


async def _crash(market: Market, trail: "_Trail", others: Others, plan: CrashPlan) -> dict[str, Any]:
    tick_s = time.monotonic()
    market.bid = BID_AFTER
    await market.publish()
    wanted = plan.accounts * plan.positions
    while trail.closed < wanted and time.monotonic() < tick_s + CRASH_S_MAX:
        await asyncio.sleep(LOOK_S)
        await trail.look()
    closed_s = time.monotonic()
    await asyncio.sleep(BEFORE_S)
    latency = others.latency(tick_s - BEFORE_S, closed_s)
    return {
        **asdict(plan),
        "closed": trail.closed,
        "seconds": round(closed_s - tick_s, 3),
        "out_of_order": trail.out_of_order(),
        "others_p50_ms": latency.percentile_ms(50),
        "others_p99_ms": latency.percentile_ms(99),
        "others_max_ms": latency.max_ms,
        "others_rejected": sum(status == "rejected" for *_, status in others.answered),
    }


class _Trail:
    """The stop-outs of all partitions, as far as they are committed."""

    def __init__(self, client: RedisCluster, partitions: int) -> None:
        self.closed = 0
        self._client = client
        self._profits: defaultdict[str, list[int]] = defaultdict(list)
        self._after = dict.fromkeys((PartitionKeys(each).events for each in range(partitions)), "-")

    async def look(self) -> None:
        await asyncio.gather(*map(self._read, list(self._after)))

    async def _read(self, key: str) -> None:
        while True:
            found: Sequence[Any] = await self._client.execute_command(
                "XRANGE", key, self._after[key], "+", "COUNT", EVENTS_AT_ONCE
            )
            for id, fields in found:
                self._after[key] = f"({id.decode()}"
                event = decode_event(fields[b"event"])
                if isinstance(event, PositionClosed) and event.reason == "stop_out":
                    self.closed += 1
                    self._profits[event.account].append(event.profit)
            if len(found) < EVENTS_AT_ONCE:
                return

    def out_of_order(self) -> int:
        """Accounts whose largest loss was not closed first, and so on."""
        return sum(profits != sorted(profits) for profits in self._profits.values())


async def _prepare(desk: OrderDesk, plan: CrashPlan) -> None:
    names = [(f"C{number}", DEPOSIT_PER_POSITION_CENTS * plan.positions) for number in range(plan.accounts)]
    rich = [(f"O{number}", RICH_CENTS) for number in range(plan.others)]
    await _ask_all(desk, [OpenAccount(account=name, id="open") for name, _ in names + rich])
    await _ask_all(desk, [Deposit(account=name, id="fund", amount=cents) for name, cents in names + rich])
    await _ask_all(
        desk,
        [
            Place(account=name, id=f"p{n}", symbol="EURUSD", side="buy", volume=VOLUME + 1_000 * n)
            for name, _ in names
            for n in range(plan.positions)
        ],
    )


async def _ask_all(desk: OrderDesk, commands: Sequence[Command]) -> None:
    """So many at a time. Raises RuntimeError for one that is refused."""
    waiting = iter(commands)

    async def asker() -> None:
        for command in waiting:
            answer = await _answer(desk, command)
            if answer.status == "rejected":
                raise RuntimeError(f"{command} was refused: {answer.text}")

    async with asyncio.TaskGroup() as group:
        for _ in range(ASKED_AT_ONCE):
            group.create_task(asker())


async def _answer(desk: OrderDesk, command: Command) -> Answer:
    """Where the first quotes have not come yet, ask again under another id."""
    for attempt in range(TRIES):
        asked = replace(command, id=f"{command.id}.{attempt}")
        answer = await desk.submit(asked)
        if answer.reason is not RejectReason.NO_QUOTE:
            break
        await asyncio.sleep(QUOTES_EVERY_S)
    return answer


@asynccontextmanager
async def _running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _measure(workers: int, plan: CrashPlan) -> dict[str, Any]:
    """On servers and workers of its own."""
    async with EmbeddedCluster() as cluster, RedisCluster.from_url(cluster.url) as client:
        partitions = await open_engine(client)
        processes = WorkerProcesses(cluster.url, workers, partitions)
        try:
            await processes.start()
            await processes.wait_until_ready(client, lambda _text: None)
            return {"workers": workers, **await flash_crash(client, partitions, plan)}
        finally:
            await processes.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__)
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--accounts", type=int, default=CrashPlan.accounts)
    parser.add_argument("--rate", type=int, default=CrashPlan.rate, help="orders of the others a second")
    parser.add_argument("--runs", type=int, default=1)
    given = parser.parse_args()
    plan = CrashPlan(accounts=given.accounts, rate=given.rate)
    for _ in range(given.runs):
        print(json.dumps(asyncio.run(_measure(given.workers, plan))), flush=True)


if __name__ == "__main__":
    main()
