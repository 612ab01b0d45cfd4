"""Pipelines of one caller, redis-py's and Tradewind's: `python -m benchmarks.pipelines [SIZES...]`."""

import asyncio
import statistics
import sys
import time
from typing import Any

import redis.asyncio

from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster

SIZES = (10, 100, 1000)
RUNS = 5
SECONDS = 1.0
VALUE = "x" * 100
CLIENTS: dict[str, Any] = {"redis-py": redis.asyncio.RedisCluster, "Tradewind": RedisCluster}


async def measure(client: Any, size: int, *, transaction: bool) -> tuple[float, float]:
    """Commands a second, and microseconds of this process's CPU for each."""
    tag = "{p}" if transaction else ""
    done, started_s, cpu_s = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started_s < SECONDS:
        pipe = client.pipeline(transaction=transaction)
        for number in range(0, size, 2):
            pipe.set(f"{tag}key:{number}", VALUE).get(f"{tag}key:{number}")
        done += len(await pipe.execute())
    elapsed_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    return done / elapsed_s, cpu_s / done * 1e6


async def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or SIZES
    print(f"{'commands':>9} {'kind':<12} {'client':<10} {'commands/s':>11} {'CPU us/command':>15}")
    async with EmbeddedCluster() as cluster:
        for size in sizes:
            for transaction in (False, True):
                await compare(cluster, size, transaction=transaction)


async def compare(cluster: EmbeddedCluster, size: int, *, transaction: bool) -> None:
    """Both clients in turn, several times: when the machine drifts, it drifts for both."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in CLIENTS}
    for _ in range(RUNS):
        for name, kind in CLIENTS.items():
            async with kind.from_url(cluster.url) as client:
                await client.ping()
                runs[name].append(await measure(client, size, transaction=transaction))
    for name, figures in runs.items():
        rate, cpu_us = (statistics.median(column) for column in zip(*figures, strict=True))
        label = "transaction" if transaction else "pipeline"
        print(f"{size:>9} {label:<12} {name:<10} {rate:>11,.0f} {cpu_us:>15.1f}")


if __name__ == "__main__":
    asyncio.run(main())
