"""What the tests of the embedded cluster ask of the machine and of the servers."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from redis.asyncio import RedisCluster

from tradewind.embedded import EmbeddedCluster

WAIT_S = 10.0


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.02)


def guardian_of(cluster: EmbeddedCluster) -> int:
    return int((cluster.folder / "cluster.lock").read_text())


def processes_of(cluster: EmbeddedCluster) -> list[int]:
    return [guardian_of(cluster), *(node.pid for node in cluster.nodes)]


def pids_in(folder: Path) -> Iterator[int]:
    """The processes whose working folder is in `folder`: its servers."""
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "cwd").readlink().is_relative_to(folder):
                yield int(process.name)
        except OSError:
            continue


async def write_keys(cluster: EmbeddedCluster, count: int) -> None:
    host, port = cluster.startup_nodes[0]
    async with RedisCluster(host=host, port=port) as client:
        await asyncio.gather(*(client.set(f"key-{number}", number) for number in range(count)))


async def read_keys(cluster: EmbeddedCluster, count: int) -> list[int]:
    host, port = cluster.startup_nodes[0]
    async with RedisCluster(host=host, port=port) as client:
        values = await asyncio.gather(*(client.get(f"key-{number}") for number in range(count)))
    return [int(value) for value in values if value is not None]
