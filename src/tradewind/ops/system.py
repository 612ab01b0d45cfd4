"""Everything that a run needs before it can trade: servers, engine, workers, and our own end of it.

    servers -> function library and partitions -> workers own all partitions -> order desk -> API

Entered on one stack, so that a failure or an interrupt at any point undoes what was done before it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster, Supervisor
from tradewind.engine.desk import OrderDesk
from tradewind.engine.keys import PartitionKeys
from tradewind.engine.opening import open_engine
from tradewind.feed.ticks import TickFileSummary
from tradewind.ops.api_process import ApiProcess, demo_key
from tradewind.ops.cluster_url import client_of
from tradewind.ops.connections import OWN_MAX
from tradewind.ops.journal import Journal
from tradewind.ops.workers import WorkerProcesses

JOURNAL_FOLDER = "journals"
SEED = 1

Say = Callable[[str], None]


@dataclass(frozen=True)
class UpOptions:
    """What `tradewind up` was asked for; see its help."""

    workers: int = 50
    accounts: int = 5_000
    rate: int = 2_000
    seconds: float | None = None
    tick_files: Sequence[TickFileSummary] = ()
    speed: float = 1.0
    crash_at_s: float | None = None
    kill_primary_at_s: float | None = None
    data: Path | None = None
    server: Path | None = None
    url: str | None = None
    api_port: int | None = 0
    seed: int = SEED


@dataclass
class System:
    """A running system. `shards` has the partitions by the primary that owned them at the start."""

    run: str
    options: UpOptions
    client: RedisCluster
    partitions: int
    shards: dict[str, list[int]]
    workers: WorkerProcesses
    desk: OrderDesk
    journal: Journal
    cluster: EmbeddedCluster | None
    api: ApiProcess | None


@asynccontextmanager
async def running_system(run: str, options: UpOptions, say: Say) -> AsyncIterator[System]:
    """Start it all; undo it all afterwards, in reverse."""
    async with AsyncExitStack() as stack:
        cluster = None
        if options.url is None:
            cluster = EmbeddedCluster(options.data, options.server, progress=say)
            await stack.enter_async_context(cluster)
            await stack.enter_async_context(_supervised(cluster, say))
        url = options.url or (cluster.url if cluster else "")
        client = client_of(url, max_connections=OWN_MAX)
        stack.push_async_callback(client.aclose)
        say("loading the function library")
        partitions = await open_engine(client)

        workers = WorkerProcesses(url, options.workers, partitions)
        stack.push_async_callback(workers.stop)
        say(f"starting {options.workers} workers")
        await workers.start()
        await workers.wait_until_ready(client, say)

        journal = _journal(run, options.data)
        stack.callback(journal.close)
        desk = OrderDesk(client, partitions)
        stack.push_async_callback(desk.aclose)
        await desk.start()
        api = None if options.api_port is None else ApiProcess(url, options.api_port, say)
        if api is not None:
            stack.push_async_callback(api.stop)
            key = await demo_key(client, run, options.data)  # before the API: it reads keys once a second
            await api.start()
            say(f"API on {api.address}, key {key}")
        shards = _shards(client, partitions)
        yield System(run, options, client, partitions, shards, workers, desk, journal, cluster, api)
        say("stopping")


@asynccontextmanager
async def _supervised(cluster: EmbeddedCluster, say: Say) -> AsyncIterator[None]:
    """Servers that end meanwhile are replaced: a shard whose replica is gone takes no durable writes."""
    task = asyncio.create_task(Supervisor(cluster, say).run(), name="supervisor")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _journal(run: str, data: Path | None) -> Journal:
    """Kept beside the servers' data; without a data folder it has no name and goes with us."""
    return Journal() if data is None else Journal(data / JOURNAL_FOLDER / f"{run}.jsonl")


def _shards(client: RedisCluster, partitions: int) -> dict[str, list[int]]:
    shards: dict[str, list[int]] = {}
    for partition in range(partitions):
        node = client.get_node_from_key(PartitionKeys(partition).cursor)
        shards.setdefault(node.name if node else "?", []).append(partition)
    return shards
