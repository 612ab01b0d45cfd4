"""`tradewind worker`: worker processes, forked from this one."""

import asyncio
import json
import os
import signal
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from tradewind import RedisCluster
from tradewind.engine.fleet import Fleet, Parent
from tradewind.engine.opening import open_engine
from tradewind.engine.worker import Worker
from tradewind.ops.cluster_url import client_of
from tradewind.ops.errors import OptionRefused
from tradewind.ops.loop import run_loop

URL_VARIABLE = (
    "TRADEWIND_URL"  # not an argument, which everybody on the machine can read: it may hold a password
)
WORKERS_MAX = 1_000
OTHER_CONNECTIONS = 8  # per node, besides one for each partition that blocks on its commands
PARENT_LOOK_S = 0.5
STOP_S_MAX = 6  # after SIGTERM: then the kernel ends the process


def worker(
    *,
    count: Annotated[int, Parameter(help="Worker processes.")] = 1,
    url: Annotated[
        str, Parameter(env_var=URL_VARIABLE, help="The cluster, as redis://HOST:PORT.")
    ] = "redis://127.0.0.1:6379",
    partitions: Annotated[
        int | None, Parameter(help="Partitions, fixed when a cluster is first opened (then 64).")
    ] = None,
    stop_on_eof: Annotated[
        bool, Parameter(negative="", help="End when standard input ends: with who started it.")
    ] = False,
    as_json: Annotated[
        bool,
        Parameter(name="--json", negative="", help="When a worker ends, one JSON line about it on stdout."),
    ] = False,
) -> int:
    """Run worker processes until SIGTERM or Ctrl-C. Workers that die are started again.

    Workers share the partitions evenly with all other workers of the cluster, wherever those run.
    """
    if not 1 <= count <= WORKERS_MAX:
        raise OptionRefused(f"--count {count}: it must be between 1 and {WORKERS_MAX}")
    fixed = asyncio.run(_open(url, partitions))  # this loop has ended before the first fork
    parent_pid = os.getpid()

    def child(index: int, parent: Parent) -> int:
        return run_loop(_work(url, fixed, index, count, parent, parent_pid, as_json))

    return Fleet(count, child, stop_on_eof=stop_on_eof).run()


async def _open(url: str, partitions: int | None) -> int:
    client = client_of(url)
    try:
        return await open_engine(client, partitions)
    finally:
        await client.aclose()


async def _work(
    url: str, partitions: int, index: int, count: int, parent: Parent, parent_pid: int, as_json: bool
) -> int:
    """The life of worker process `index` of `count`."""
    client = client_of(url, lanes=1, max_connections=partitions + OTHER_CONNECTIONS)
    worker = Worker(
        client,
        partitions,
        index=index,
        expected=count,
        on_joined=parent.joined,
        on_replace=parent.replace_me,
    )

    def stop() -> None:
        signal.alarm(STOP_S_MAX)
        worker.stop()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    orphaned = asyncio.create_task(_stop_without_parent(parent_pid, stop), name="parent watch")
    try:
        await worker.run()
    finally:
        orphaned.cancel()
        if as_json:
            _report(worker.name, client)
        await client.aclose()
    return 0


async def _stop_without_parent(parent_pid: int, stop: Any) -> None:
    while os.getppid() == parent_pid:  # noqa: ASYNC110 - the system tells nobody
        await asyncio.sleep(PARENT_LOOK_S)
    stop()


def _report(name: str, client: RedisCluster) -> None:
    """One write, so that the lines of many workers do not mix."""
    stats = client.stats()
    line = {"worker": name, "commands": stats.commands, "errors": dict(stats.errors)}
    try:
        os.write(sys.stdout.fileno(), json.dumps(line).encode() + b"\n")
    except OSError:
        return  # nobody reads any more
