"""One run of the whole system: start, trade, stop in order, audit.

The end, in order: orders stop, answers come in, quotes stop, the API stops, audit, workers hand over, servers
stop.
"""

import asyncio
import itertools
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tradewind import clock
from tradewind.engine.keys import PartitionKeys, partition_of
from tradewind.ops.audit import audit
from tradewind.ops.connections import ConnectionCounts, limit_per_node
from tradewind.ops.journal import earlier_journals, read_journal
from tradewind.ops.load import Load, open_accounts
from tradewind.ops.memory import MEMORY_SHARE_MAX, memory_share
from tradewind.ops.mix import Mix, Trader
from tradewind.ops.quotes import Quotes, quotes_flowing
from tradewind.ops.report import Failover, Report, build
from tradewind.ops.system import Say, System, UpOptions, running_system
from tradewind.ops.tally import ShardTally, Tally
from tradewind.ops.workers import survey

LINE_EVERY_S = 1.0
AUDIT_SAYS_EVERY = 16


class Up:
    """One run. `say` gets each step while it starts and ends; `live` one line a second in between."""

    def __init__(self, options: UpOptions, *, say: Say, live: Say) -> None:
        self._options = options
        self._say = say
        self._live = live
        self._stop = asyncio.Event()
        self._offering = False
        self._told_opening = 0
        self._connections = ConnectionCounts()
        self._failover: Failover | None = None

    async def run(self) -> Report:
        """Start, trade until the time is up or somebody interrupts, stop, audit. Returns the report."""
        run = f"{clock.now_ms():x}{secrets.token_hex(2)}"
        with _on_signals(self._interrupted):
            async with running_system(run, self._options, self._say) as system:
                traders = await self._accounts(system)
                tally = Tally([ShardTally(name) for name in system.shards])
                async with quotes_flowing(system, self._stop.set) as quotes:
                    mix = Mix(traders, quotes.source.symbols, seed=self._options.seed, run=run)
                    load = Load(system.desk, mix, tally, system.journal, self._stop.set)
                    await self._trade(load, system, tally)
                return await self._conclude(system, quotes, tally)

    def _interrupted(self, task: "asyncio.Task[Any]") -> None:
        """While orders are offered: end in order. While starting or ending: undo what there is."""
        if self._offering and not self._stop.is_set():
            self._stop.set()
        else:
            task.cancel()

    async def _accounts(self, system: System) -> list[Trader]:
        names = [f"A{number:06d}" for number in range(self._options.accounts)]
        self._say(f"opening {len(names)} accounts")
        opened = await open_accounts(system.desk, system.journal, names, system.run)
        self._told_opening = len(names) + opened  # a new account is funded, too
        self._say(f"{opened} accounts opened, {len(names) - opened} were there")
        shard_of = {
            partition: index
            for index, partitions in enumerate(system.shards.values())
            for partition in partitions
        }
        return [Trader(name, shard_of[partition_of(name, system.partitions)]) for name in names]

    # -- trading ---------------------------------------------------------------------------------------

    async def _trade(self, load: Load, system: System, tally: Tally) -> None:
        """Offer orders until told to stop."""
        self._say("trading")
        monitor = asyncio.create_task(self._watch(system, tally), name="monitor")
        killer = asyncio.create_task(self._kill_primary(system, tally), name="kill primary")
        try:
            self._offering = True
            async with load.offering(self._options.rate):
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._options.seconds):
                        await self._stop.wait()
                self._stop.set()
                self._say(f"waiting for {tally.in_flight} answers")
        finally:
            for task in (monitor, killer):
                task.cancel()
            results = await asyncio.gather(monitor, killer, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _watch(self, system: System, tally: Tally) -> None:
        """One line a second. The end of the worker processes is the end of the run."""
        loop = asyncio.get_running_loop()
        due_s = looked_s = loop.time()
        acknowledged = 0
        try:
            while True:
                due_s += LINE_EVERY_S
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                system.workers.check()
                seen, _ = await asyncio.gather(
                    survey(system.client, system.partitions), self._connections.sample(system.client)
                )
                rate = (tally.acknowledged - acknowledged) / (loop.time() - looked_s)
                acknowledged, looked_s = tally.acknowledged, loop.time()
                self._live(self._line(system, tally, rate, seen))
                share = await memory_share(system.client)
                if share >= MEMORY_SHARE_MAX and not self._stop.is_set():
                    self._say(
                        f"the servers' memory is {share:.0%} full of events and answers: ending in order"
                    )
                    self._stop.set()
        except Exception:
            self._stop.set()
            raise

    def _line(self, system: System, tally: Tally, rate: float, seen: tuple[int, int]) -> str:
        window, counts = tally.take_window(), self._connections
        alive, owned = ("?" if number < 0 else str(number) for number in seen)
        limit = limit_per_node(self._options.workers, system.partitions)
        return (
            f"{rate:7,.0f} orders/s  p50 {window.percentile_ms(50):6.1f} ms  "
            f"p99 {window.percentile_ms(99):7.1f} ms  "
            f"in flight {tally.in_flight:5d}  waiting {system.client.stats().waiting:4d}  "
            f"connections/node {max(counts.now.values(), default=0):3d} of {limit}  "
            f"workers {alive}/{self._options.workers}  partitions {owned}/{system.partitions}"
        )

    async def _kill_primary(self, system: System, tally: Tally) -> None:
        """The primary of partition 0's shard, without warning."""
        if self._options.kill_primary_at_s is None or system.cluster is None:
            return
        await asyncio.sleep(self._options.kill_primary_at_s)
        node = await system.cluster.primary_of(PartitionKeys(0).cursor)
        shard = next(name for name, partitions in system.shards.items() if 0 in partitions)
        await system.cluster.kill(node)
        self._failover = Failover(self._options.kill_primary_at_s, shard, time.monotonic())
        tally.watch_from(self._failover.killed_s)
        self._live(f"killed the primary on port {node.port} (kill -9)")

    # -- the end ---------------------------------------------------------------------------------------

    async def _conclude(self, system: System, quotes: Quotes, tally: Tally) -> Report:
        if system.api is not None:
            self._say("stopping the API")
            await system.api.stop()
        path = system.journal.path
        earlier = [] if path is None else earlier_journals(path)
        self._say(f"audit, with the journals of {len(earlier)} earlier runs" if earlier else "audit")
        result = await audit(
            system.client,
            system.partitions,
            system.journal.read(),
            told=self._told_opening + tally.acknowledged + tally.unknown,
            earlier=itertools.chain.from_iterable(map(read_journal, earlier)),
            window=quotes.stop_out_window,
            progress=self._audited,
        )
        errors = tally.errors + Counter(system.client.stats().errors)
        self._say("stopping the workers")
        await system.workers.stop()
        return build(
            self._options,
            tally,
            result,
            quotes.crash_ms,
            self._connections,
            connections_limit=limit_per_node(self._options.workers, system.partitions),
            errors=errors + system.workers.errors,
            workers_reported=system.workers.reported,
            failover=self._failover,
            resent=system.desk.resent,
        )

    def _audited(self, done: int) -> None:
        if done % AUDIT_SAYS_EVERY == 0:
            self._say(f"audit: {done} partitions")


@contextmanager
def _on_signals(interrupted: Callable[["asyncio.Task[Any]"], None]) -> Iterator[None]:
    """Call `interrupted` with the current task when the user, or the system, wants an end."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted, task)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
