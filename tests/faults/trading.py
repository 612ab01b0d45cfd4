"""The whole system under load on a cluster that is about to break, and the audit at the end.

Three worker processes of `tradewind worker`, quotes with a flash crash, orders at a steady rate, all seeded.
Whatever a test does to servers or workers meanwhile: when it is over, every answer that a caller got must be
what the events say, each order once, no event missing, every balance its sum.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import eventually
from tradewind import RedisCluster, clock
from tradewind.embedded import EmbeddedCluster, Supervisor
from tradewind.embedded.cluster import Node
from tradewind.embedded.survey import Admin
from tradewind.engine.keys import PartitionKeys, partition_of
from tradewind.engine.lease import Leases
from tradewind.engine.opening import open_engine
from tradewind.ops.audit import AuditResult, audit
from tradewind.ops.load import Load, open_accounts
from tradewind.ops.mix import Mix, Trader
from tradewind.ops.quotes import quotes_flowing
from tradewind.ops.system import System, UpOptions, running_system
from tradewind.ops.tally import ShardTally, Tally

PARTITIONS = 12
ACCOUNTS = 60
WORKERS = 3
RATE = 400
CRASH_AT_S = 0.7
RUN = "run"

FLOWING_ORDERS = 3
"""So many new acknowledgements of each partition, and the system counts as trading again."""

HEAL_S_MAX = 30.0
"""A bound for the test, not for the system: the machine may be busy with others."""


@dataclass
class Floor:
    """A system that trades. `tally` counts the acknowledgements of each partition."""

    cluster: EmbeddedCluster
    system: System
    tally: Tally

    # -- what the callers see ------------------------------------------------------------------------

    async def trading(self, partitions: Collection[int] = range(PARTITIONS)) -> None:
        """Until each of the partitions has acknowledged orders since this call."""
        before = self.acknowledged(partitions)

        def all_have() -> bool:
            now = self.acknowledged(partitions)
            return all(now[p] >= before[p] + FLOWING_ORDERS for p in partitions)

        await eventually(all_have, HEAL_S_MAX)

    def acknowledged(self, partitions: Collection[int]) -> dict[int, int]:
        return {partition: self.tally.shards[partition].acknowledged for partition in partitions}

    # -- servers -------------------------------------------------------------------------------------

    async def primary(self, chance: random.Random) -> Node:
        """One that is not the first server: new worker processes come in through that one."""
        ports = [port for port, role in (await self.cluster.roles()).items() if role == "primary"]
        port = chance.choice([port for port in ports if port != self.cluster.nodes[0].port])
        return next(node for node in self.cluster.nodes if node.port == port)

    async def partitions_of(self, primary: Node) -> set[int]:
        owners = [await self.cluster.primary_of(PartitionKeys(p).cursor) for p in range(PARTITIONS)]
        return {partition for partition, owner in enumerate(owners) if owner.port == primary.port}

    async def replaced(self, primary: Node, partition: int) -> None:
        """Until another server serves the partition."""

        async def by_another() -> bool:
            return (await self.cluster.primary_of(PartitionKeys(partition).cursor)).port != primary.port

        await eventually(by_another, HEAL_S_MAX)

    async def fail_over(self, primary: Node) -> None:
        """As an operator does it: the replica asks, the primary agrees."""
        partition = min(await self.partitions_of(primary))
        (replica,) = await self.cluster.replicas_of(primary)
        async with Admin(replica.port) as admin:
            await admin.ask("CLUSTER", "FAILOVER")
        await self.replaced(primary, partition)

    # -- worker processes ----------------------------------------------------------------------------

    def worker_pids(self) -> list[int]:
        process = self.system.workers._process
        assert process is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    async def held_by(self, pid: int) -> set[int]:
        """The partitions whose leases the worker process has, by the cluster's word."""
        leases = Leases(self.system.client, "")
        holders = await leases.holders(range(PARTITIONS), clock.now_ms())
        return {partition for partition, name in holders.items() if name.split("-")[1:2] == [str(pid)]}

    async def shared_out(self) -> None:
        """Until living worker processes hold all partitions, each its share."""

        async def even() -> bool:
            pids = self.worker_pids()
            shares = [len(await self.held_by(pid)) for pid in pids]
            return len(pids) == WORKERS and sum(shares) == PARTITIONS and max(shares) - min(shares) <= 1

        await eventually(even, HEAL_S_MAX)


@asynccontextmanager
async def prepared(cluster: EmbeddedCluster, seed: int) -> AsyncIterator[System]:
    """Workers and an order desk on the cluster, nothing asked yet."""
    async with RedisCluster.from_url(cluster.url) as client:
        await open_engine(client, PARTITIONS)
    options = UpOptions(workers=WORKERS, url=cluster.url, seed=seed, crash_at_s=CRASH_AT_S)
    async with running_system(RUN, options, _nothing) as system:
        yield system


@asynccontextmanager
async def trading_floor(
    cluster: EmbeddedCluster, *, seed: int, supervised: bool = False
) -> AsyncIterator[Floor]:
    """A system that trades while inside. At the end it is audited, and found clean."""
    async with prepared(cluster, seed) as system, _supervisor(cluster, supervised):
        names = [f"A{number:03d}" for number in range(ACCOUNTS)]
        await open_accounts(system.desk, system.journal, names, RUN)
        tally = Tally([ShardTally(f"p{partition}") for partition in range(PARTITIONS)])
        async with quotes_flowing(system, _nothing) as quotes:
            traders = [Trader(name, partition_of(name, PARTITIONS)) for name in names]
            mix = Mix(traders, quotes.source.symbols, seed=seed, run=RUN)
            floor = Floor(cluster, system, tally)
            load = Load(system.desk, mix, tally, system.journal, _nothing)
            async with load.offering(RATE):
                await floor.trading()
                yield floor
                await floor.trading()
        result = await audited(system)
        assert result.journal_entries == tally.offered + 2 * ACCOUNTS
        assert tally.acknowledged + tally.unknown == tally.offered


async def audited(system: System) -> AuditResult:
    result = await audit(system.client, PARTITIONS, system.journal.read())
    assert result.clean, result.findings.sentences
    assert result.put_aside == 0
    return result


@asynccontextmanager
async def _supervisor(cluster: EmbeddedCluster, wanted: bool) -> AsyncIterator[None]:
    if not wanted:
        yield
        return
    task = asyncio.create_task(Supervisor(cluster).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _nothing(*_: object) -> None:
    return
