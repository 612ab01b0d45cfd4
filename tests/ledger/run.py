"""One ledger run: servers, workers, quotes, random clients, the faults of a plan one round after the other,
and the checker.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ledger.checker import Verdict, check
from tests.ledger.clients import Clients
from tests.ledger.faults import Site
from tests.ledger.orders import GROUPS
from tests.ledger.plan import Plan, Round
from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster, Supervisor
from tradewind.engine.house_store import set_group
from tradewind.engine.opening import open_engine
from tradewind.ops.quotes import quotes_flowing
from tradewind.ops.system import Say, System, UpOptions, running_system

NODE_TIMEOUT_MS = 1_000
MEMORY_BYTES_MAX = 4 << 30
CRASH_AT_S = 3.0
SETTLE_S_MAX = 90.0


@dataclass(frozen=True)
class Report:
    plan: Plan
    seconds: float
    verdict: Verdict


async def run(plan: Plan, partitions: int, say: Say, history: Path | None = None) -> Report:
    """Returns what the checker found. `history`: a folder, which must be empty, for the clients' histories.

    :raises ClientFailed: the clients were left without answers
    :raises AssertionError: the system did not heal after a fault
    """
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tradewind-ledger-") as name:
        folder = history or Path(name)
        async with _cluster(say) as cluster, _system(cluster, plan, partitions, say) as system:
            ports = [node.port for node in cluster.nodes]
            clients = Clients(
                ports, partitions, folder, seed=plan.seed, clients=plan.clients, callers=plan.callers
            )
            try:
                faults_ended_ns = await _trade(plan, system, cluster, clients, say)
            finally:
                await clients.aclose()
            say(f"checking {clients.told} answers")
            verdict = await check(system.client, partitions, sorted(folder.iterdir()), faults_ended_ns)
    return Report(plan, time.monotonic() - began_s, verdict)


@asynccontextmanager
async def _cluster(say: Say) -> AsyncIterator[EmbeddedCluster]:
    """Six servers; who ends is replaced and started again."""
    cluster = EmbeddedCluster(node_timeout_ms=NODE_TIMEOUT_MS, memory_bytes_max=MEMORY_BYTES_MAX)
    async with cluster:
        task = asyncio.create_task(Supervisor(cluster, say).run(), name="supervisor")
        try:
            yield cluster
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _system(cluster: EmbeddedCluster, plan: Plan, partitions: int, say: Say) -> AsyncIterator[System]:
    async with RedisCluster.from_url(cluster.url) as client:
        await open_engine(client, partitions)
        for terms in GROUPS:
            await set_group(client, terms)
    options = UpOptions(workers=plan.workers, url=cluster.url, seed=plan.seed, crash_at_s=CRASH_AT_S)
    async with running_system(f"ledger-{plan.seed}", options, say) as system:
        yield system


async def _trade(plan: Plan, system: System, cluster: EmbeddedCluster, clients: Clients, say: Say) -> int:
    """Returns when the last fault was over, by `time.monotonic_ns`."""
    async with quotes_flowing(system, lambda: None):
        await clients.start()
        site = Site(cluster, system.client, system.partitions, system.workers.pid, plan.workers, clients)
        for number, round in enumerate(plan.rounds, 1):
            await clients.until_told(round.at_told)
            await _break(site, round, lambda text, number=number: say(f"round {number}: {text}"))
        await clients.until_told(plan.orders)
        faults_ended_ns = time.monotonic_ns()
        say(f"{clients.told} answers; settling {clients.unknown} unknown outcomes")
        await clients.settle(SETTLE_S_MAX)
    return faults_ended_ns


async def _break(site: Site, round: Round, say: Callable[[str], None]) -> None:
    began_s = time.monotonic()
    told = site.clients.told
    say(f"{', '.join(fault.name for fault in round.faults)} after {told} answers")
    await site.strike(round.faults)
    await site.whole()
    say(f"whole after {time.monotonic() - began_s:.1f} s and {site.clients.told - told} answers")
