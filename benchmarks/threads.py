"""Blocking clients side by side, SET and GET from threads: `python -m benchmarks.threads [THREADS...]`."""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import redis

from tradewind import threads
from tradewind.embedded import EmbeddedCluster

THREADS = (1, 8, 50, 200)
RUNS = 3
SECONDS = 2.0
KEYS = 20_000
VALUE = "x" * 100
POOL = 1000
CLIENTS: dict[str, Callable[..., Any]] = {"redis-py": redis.RedisCluster, "Tradewind": threads.RedisCluster}


def measure(make: Callable[[], Any], count: int) -> tuple[float, float]:
    """Commands a second, and microseconds of this process's CPU for each."""
    with make() as client, ThreadPoolExecutor(count) as pool:
        client.set("warm", VALUE)
        started_s, cpu_s = time.perf_counter(), time.process_time()
        done = sum(pool.map(lambda number: use(client, number, started_s + SECONDS), range(count)))
        elapsed_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    return done / elapsed_s, cpu_s / done * 1e6


def use(client: Any, number: int, until_s: float) -> int:
    """SET and GET in turn, each waited for."""
    done = 0
    while time.perf_counter() < until_s:
        key = f"key:{(number * 7919 + done) % KEYS}"
        client.set(key, VALUE)
        client.get(key)
        done += 2
    return done


async def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or THREADS
    async with EmbeddedCluster() as cluster:
        await asyncio.to_thread(compare, cluster.nodes[0].port, counts)


def compare(port: int, counts: list[int] | tuple[int, ...]) -> None:
    print(f"{'threads':>8} {'client':<10} {'commands/s':>11} {'CPU us/command':>15}   median of {RUNS}")
    for count in counts:
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in CLIENTS}
        for _ in range(RUNS):
            for name, kind in CLIENTS.items():
                make: Callable[[], Any] = partial(kind, host="127.0.0.1", port=port, max_connections=POOL)
                runs[name].append(measure(make, count))
        for name, figures in runs.items():
            rate, cpu_us = (statistics.median(column) for column in zip(*figures, strict=True))
            print(f"{count:>8} {name:<10} {rate:>11,.0f} {cpu_us:>15.1f}")


if __name__ == "__main__":
    asyncio.run(main())
