"""The worker processes of a run: one child of ours that forks them, ended with us whatever happens to us."""

import asyncio
import json
import os
import sys
from collections import Counter
from typing import Any

from redis.exceptions import RedisError

from tradewind import RedisCluster, clock
from tradewind.engine.keys import WORKERS_KEY
from tradewind.engine.lease import Leases
from tradewind.ops.child import end_child
from tradewind.ops.errors import FleetEnded, StartFailed
from tradewind.ops.worker_command import URL_VARIABLE

START_S_MAX = 30.0
LOOK_S = 0.1
END_S_MAX = 15.0
LINE_BYTES_MAX = 1 << 20


class WorkerProcesses:
    """Starts `count` workers on the cluster at `url`. Their standard input is our pipe: its end is theirs."""

    def __init__(self, url: str, count: int, partitions: int) -> None:
        self.count = count
        self.partitions = partitions
        self.errors: Counter[str] = Counter()
        self.reported = 0
        """Workers that ended in order and said what errors they had met."""
        self._url = url
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process that forks them; its children are the workers.

        :raises FleetEnded: they were not started, or have been stopped
        """
        if self._process is None:
            raise FleetEnded("no worker processes run")
        return self._process.pid

    async def start(self) -> None:
        words = ("worker", "--count", self.count, "--partitions", self.partitions)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tradewind", *map(str, words), "--stop-on-eof", "--json"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, URL_VARIABLE: self._url},
            limit=LINE_BYTES_MAX,
            start_new_session=True,  # a terminal's Ctrl-C is for us, who stop them in order
        )
        self._reader = asyncio.create_task(self._read(self._process), name="worker reports")

    async def wait_until_ready(self, client: RedisCluster, progress: Any) -> None:
        """Until all have joined and own all partitions between them.

        :raises StartFailed: not in time
        :raises FleetEnded: they ended
        """
        deadline_s = asyncio.get_running_loop().time() + START_S_MAX
        alive = owned = -1
        while True:
            seen = await survey(client, self.partitions)
            if seen != (alive, owned):
                alive, owned = seen
                progress(
                    f"workers: {alive} of {self.count} joined, {owned} of {self.partitions} partitions owned"
                )
            if alive >= self.count and owned == self.partitions:
                return
            self.check()
            if asyncio.get_running_loop().time() > deadline_s:
                raise StartFailed(
                    f"after {START_S_MAX:g} s {alive} of {self.count} workers have joined and "
                    f"{owned} of {self.partitions} partitions are owned"
                )
            await asyncio.sleep(LOOK_S)

    def check(self) -> None:
        """:raises FleetEnded: the processes have ended"""
        if self._process is not None and self._process.returncode is not None:
            raise FleetEnded(f"the worker processes ended by themselves with code {self._process.returncode}")

    async def stop(self) -> None:
        """Let them hand over and end; kill what does not."""
        process, self._process = self._process, None
        if process is None:
            return
        await end_child(process, END_S_MAX)
        if self._reader is not None:
            await self._reader

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """One line of JSON from each worker that ends in order."""
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                report = json.loads(line)
            except ValueError:
                continue
            self.reported += 1
            self.errors.update(report["errors"])


async def survey(client: RedisCluster, partitions: int) -> tuple[int, int]:
    """How many workers live and how many partitions are owned, by the cluster's word; -1: it gave none."""
    now_ms = clock.now_ms()
    calls = client.with_options(timeout_s=1.0)
    results = await asyncio.gather(
        calls.execute_command("ZCOUNT", WORKERS_KEY, now_ms, "+inf"),
        Leases(client, "").holders(range(partitions), now_ms),
        return_exceptions=True,
    )
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, RedisError | OSError):
            raise result
    alive, holders = results
    return (
        -1 if isinstance(alive, BaseException) else int(alive),
        -1 if isinstance(holders, BaseException) else len(holders),
    )
