"""A worker: takes its even share of the partitions and runs them; finds the other workers through the
cluster.

With n live workers each aims at partitions / n. Who holds more gives some back, who holds less takes free
ones; nobody coordinates. A worker that dies loses its leases within `LEASE_MS`; its name leaves the list in
the same time.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Callable

import msgspec
from redis.exceptions import RedisError

from tradewind import RedisCluster, clock
from tradewind.engine.house import House, decode_rules
from tradewind.engine.house_store import load_house
from tradewind.engine.instruments import Quote, decode_frame, decode_quote
from tradewind.engine.keys import (
    FLEET_CHANNEL,
    FREE,
    HOUSE_CHANNEL,
    LAST_QUOTES_KEY,
    PartitionKeys,
    replace_message,
)
from tradewind.engine.lease import Leases
from tradewind.engine.partition import PartitionRunner
from tradewind.engine.store import Lease

ROUND_S = 0.5  # between two heartbeats, which say who lives; a quarter of the lease
PACE_PER_WORKER_S = 0.0025
PACE_S_MAX = 0.1
SETTLE_S = 3.0  # how long the expected number of workers counts although not all have been seen
HAND_OVER_S_MAX = 2.0
LAST_QUOTES_S_MAX = 1.0  # frames bring every quote anew within a second: no reason to wait longer
# A share must be too large for so long before partitions are given back: a worker that is being replaced and
# the one that takes its place are both on the list for a moment.
SURPLUS_PATIENCE_S = 0.8

logger = logging.getLogger(__name__)


def fair_share(rank: int, workers: int, partitions: int) -> int:
    """How many partitions the worker at `rank` (from 0, by name) aims at: the shares differ by at most
    one.
    """
    return partitions // workers + (1 if rank < partitions % workers else 0)


def pace_s(workers: int, cores: int) -> float:
    """Seconds between two reads of a partition, when `workers` run on `cores` of one machine.

    A worker for each core reads as soon as it can. Where many share a core each batch costs as much as many
    orders, so they wait a moment for larger ones: 2.5 ms for each worker that a core has too many. An
    order that comes after a quiet moment is not held up.
    """
    return min(PACE_S_MAX, PACE_PER_WORKER_S * max(0.0, workers / cores - 1))


def wanted(free: list[int], count: int, rank: int, workers: int, partitions: int) -> list[int]:
    """Which free partitions to try first: each worker begins where the shares of those before it end, so
    that workers who start together do not collide.
    """
    start = sum(fair_share(before, workers, partitions) for before in range(rank))
    return sorted(free, key=lambda partition: (partition - start) % partitions)[:count]


class Worker:
    """One worker process's share of the engine. It is number `index` of `expected` that start together.

    `on_joined` is called once it is on the list of workers, `on_replace` whenever somebody asks, through the
    cluster, to have it replaced by a new one.
    """

    def __init__(
        self,
        client: RedisCluster,
        partitions: int,
        *,
        index: int = 0,
        expected: int = 1,
        on_joined: Callable[[], None] = lambda: None,
        on_replace: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = (
            f"{index:04d}-{os.getpid()}-{secrets.token_hex(4)}"  # the list of workers is in this order
        )
        self._index = index
        self.runners: dict[int, PartitionRunner] = {}
        self._client = client
        self._partitions = partitions
        self._expected = expected
        self._leases = Leases(client, self.name)
        self.house = House()
        self._tasks: dict[PartitionRunner, asyncio.Task[None]] = {}
        self._quotes: dict[str, Quote] = {}
        self._last_frame = b""
        self._channels: dict[str, int] = {}
        self._pace_s = pace_s(expected, os.cpu_count() or 1)
        self._stopping = False
        self._woken = asyncio.Event()  # something to do before the next round is due
        self._surplus_since_s: float | None = None
        self._on_joined = on_joined
        self._on_replace = on_replace
        self._has_joined = False

    # -- life cycle --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `stop` is called, then hand everything over."""
        self._subscription = await self._client.sharded_subscription(self._on_message)
        self._subscription.add([HOUSE_CHANNEL, FLEET_CHANNEL])
        self._settle()
        await self._load_quotes()
        try:
            while not self._stopping:
                try:
                    await self._round()
                except (RedisError, OSError) as error:
                    logger.info("worker %s: %s", self.name, error)
                await self._pause(ROUND_S)
        finally:
            await self._hand_over()

    def stop(self) -> None:
        """Finish what is at hand and hand the partitions over."""
        self._stopping = True
        self._woken.set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()

    async def _hand_over(self) -> None:
        """Leave the list before the others look: they then find what is free in their shares."""
        await self._give_back(list(self.runners))
        try:
            await self._leases.leave()
            await self._tell_free()
        except (RedisError, OSError) as error:
            logger.info("worker %s: leaving the list: %s", self.name, error)
        lost = list(self._tasks.values())  # these may still wait for a shard that does not answer
        for task in lost:
            task.cancel()
        await asyncio.gather(*lost, return_exceptions=True)
        await self._subscription.aclose()

    async def _tell_free(self) -> None:
        """Others look at once instead of at their next round. Who misses the message looks then."""
        await self._client.execute_command("SPUBLISH", FLEET_CHANNEL, FREE)

    # -- sharing -----------------------------------------------------------------------------------

    async def _round(self) -> None:
        """Learn who lives and move towards the fair share. Without an answer everything stays as it is."""
        try:
            names = await self._leases.heartbeat()
        except (RedisError, OSError):
            self._settle()
            raise
        await load_house(self._client, self.house)  # before a partition is taken, and once a round
        if not self._has_joined:
            self._has_joined = True
            self._on_joined()
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._settled_at_s:
            self._expected, self._index = len(names), names.index(self.name)
        workers = max(len(names), self._expected)
        surplus = len(self.runners) - fair_share(self._index, workers, self._partitions)
        if surplus <= 0:
            self._surplus_since_s = None
        elif self._surplus_since_s is None:
            self._surplus_since_s = now_s
        elif now_s >= self._surplus_since_s + SURPLUS_PATIENCE_S:
            await self._give_back(sorted(self.runners)[-surplus:])
            await self._tell_free()
        if surplus < 0:
            await self._take(-surplus, self._index, workers)

    def _settle(self) -> None:
        """For a while the list of workers is not to be trusted: not all have joined, or joined again."""
        self._settled_at_s = asyncio.get_running_loop().time() + SETTLE_S

    async def _take(self, count: int, rank: int, workers: int) -> None:
        held = await self._leases.holders(range(self._partitions), clock.now_ms())
        # Its own whose leases have ended, as after a pause of the process, are renewed, not taken anew.
        free = [p for p in range(self._partitions) if p not in held and p not in self.runners]
        for partition in wanted(free, count, rank, workers, self._partitions):
            lease = await self._leases.acquire(partition)
            if lease is not None and partition not in self.runners:
                self._start(lease)

    def _start(self, lease: Lease) -> None:
        partition = lease.partition
        runner = PartitionRunner(
            self._client, self._leases, lease, self._quotes, self._lost, self._pace_s, self.house
        )
        channel = PartitionKeys(partition).quotes_channel
        self.runners[partition] = runner
        self._channels[channel] = partition
        self._subscription.add([channel])
        task = asyncio.create_task(self._run(runner), name=f"partition {partition}")
        self._tasks[runner] = task
        task.add_done_callback(lambda _task: self._tasks.pop(runner, None))

    async def _run(self, runner: PartitionRunner) -> None:
        try:
            await runner.run()
        except Exception:
            logger.exception("worker %s: partition %d failed", self.name, runner.lease.partition)
            self._lost(runner.lease)

    def _lost(self, lease: Lease) -> None:
        """Somebody else has it, or it failed here: forget it, unless it was taken again meanwhile."""
        runner = self.runners.get(lease.partition)
        if runner is not None and runner.lease == lease:
            runner.stop()
            del self.runners[lease.partition]
            channel = PartitionKeys(lease.partition).quotes_channel
            self._channels.pop(channel, None)
            self._subscription.unsubscribe([channel])

    async def _give_back(self, partitions: list[int]) -> None:
        """Finish the batch at hand, then release the lease, so that the next owner starts from a clean
        cursor.
        """
        runners = [self.runners[partition] for partition in partitions]
        tasks = [self._tasks[runner] for runner in runners if runner in self._tasks]
        for runner in runners:
            self._lost(runner.lease)
        if tasks:
            _, slow = await asyncio.wait(tasks, timeout=HAND_OVER_S_MAX)
            for task in slow:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(
            *(self._leases.release(runner.lease) for runner in runners), return_exceptions=True
        )

    # -- quotes ------------------------------------------------------------------------------------

    async def _load_quotes(self) -> None:
        """The last quotes that were published, so that the first commands need not wait for the next
        frame.
        """
        try:
            last = await self._client.with_options(timeout_s=LAST_QUOTES_S_MAX).execute_command(
                "HVALS", LAST_QUOTES_KEY
            )
        except (RedisError, OSError) as error:
            logger.info("worker %s: the last quotes: %s", self.name, error)
            return
        for data in last:
            try:
                quote = decode_quote(data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                logger.warning(
                    "worker %s: %s has a field that is no quote: %s", self.name, LAST_QUOTES_KEY, error
                )
            else:
                self._quotes.setdefault(quote.symbol, quote)

    def _on_message(self, channel: str, data: bytes) -> None:
        if channel == HOUSE_CHANNEL:
            self.house.take(decode_rules(data))
        elif channel == FLEET_CHANNEL:
            self._on_fleet(data)
        else:
            self._on_quotes(channel, data)

    def _on_fleet(self, data: bytes) -> None:
        if data == FREE:
            self._woken.set()
        elif data == replace_message(self.name):
            self._on_replace()

    def _on_quotes(self, channel: str, data: bytes) -> None:
        """A frame comes once for every partition; it is read once."""
        if data != self._last_frame:
            self._frame = decode_frame(data)
            self._last_frame = data
            for quote in self._frame.quotes:
                self._quotes[quote.symbol] = quote
        runner = self.runners.get(self._channels.get(channel, -1))
        if runner is not None:
            runner.take_frame(self._frame)
