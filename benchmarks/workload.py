"""One client under the workload, in a process of its own: prints its figures as one JSON line.

    python -m benchmarks.workload tradewind --ports 7100 7101 7102 7103 7104 7105 --tasks 1000

A closed loop: each of the tasks sends a command, waits for its reply and sends the next, alternately
SET and GET of 100 bytes on 20,000 random keys, until all of them together have sent `--ops`.
"""

import argparse
import asyncio
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop

from benchmarks.contenders import CONTENDERS, Client
from benchmarks.measurement import Measurement
from tradewind.embedded.survey import Admin

KEYS = 20_000
ACCOUNTS = 100_000
STRIDE = 7_919  # prime, so that neighbouring tasks are on keys far apart
VALUE = "x" * 100
STATUS = Path("/proc/self/status")


@dataclass
class Workload:
    """Commands that are left to send, and what became of those that were sent."""

    client: Client
    left: int
    keys: list[str]
    latencies_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    async def caller(self, number: int) -> None:
        while self.left > 0:
            self.left -= 1
            number += 1
            key = self.keys[number * STRIDE % len(self.keys)]
            start_s = time.perf_counter()
            try:
                if number & 1:
                    await self.client.set(key, VALUE)
                else:
                    await self.client.get(key)
            except Exception as error:
                self.errors[type(error).__name__] += 1
                await asyncio.sleep(0)  # a client that fails at once must not keep the others from running
            else:
                self.latencies_s.append(time.perf_counter() - start_s)


def keys() -> list[str]:
    source = random.Random(1)
    return [f"acct:{source.randrange(ACCOUNTS)}" for _ in range(KEYS)]


async def measure(name: str, ports: Sequence[int], tasks: int, ops: int, pool: int) -> Measurement:
    """Only commands that succeeded count as done; the connections are counted before the client closes."""
    async with CONTENDERS[name].open(ports[0], pool) as client:
        memory_mb_idle = memory_mb()
        load = Workload(client, ops, keys())
        await client.get("warm")
        cpu_s, start_s = cpu_seconds(), time.perf_counter()
        await asyncio.gather(*(load.caller(number) for number in range(tasks)))
        wall_s, cpu_s = time.perf_counter() - start_s, cpu_seconds() - cpu_s
        connections = [await connections_at(port) for port in ports]
    done = len(load.latencies_s)
    load.latencies_s.sort()
    return Measurement(
        client=name,
        version=CONTENDERS[name].version,
        pool=pool,
        tasks=tasks,
        ops=done,
        ops_per_s=round(done / wall_s, 1),
        cpu_us_per_op=round(cpu_s / max(done, 1) * 1e6, 1),
        p50_ms=percentile_ms(load.latencies_s, 50),
        p99_ms=percentile_ms(load.latencies_s, 99),
        max_ms=percentile_ms(load.latencies_s, 100),
        errors=dict(load.errors.most_common()),
        connections=connections,
        memory_mb_idle=memory_mb_idle,
        memory_mb_max=memory_mb(),
    )


def percentile_ms(ordered_s: Sequence[float], percent: float) -> float | None:
    """None when nothing was measured."""
    if not ordered_s:
        return None
    return round(ordered_s[min(len(ordered_s) - 1, int(percent / 100 * len(ordered_s)))] * 1_000, 2)


def cpu_seconds() -> float:
    """User and system time of this process, every thread of it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_mb() -> float:
    """The most this process had resident until now."""
    # Linux hands ru_maxrss of the parent on to its children; VmHWM is the process's own.
    if STATUS.exists():
        kib = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")).split()[1]
        return round(int(kib) / 1_024, 1)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


async def connections_at(port: int) -> int:
    """Connections of clients that the server lists, without the one that asks."""
    async with Admin(port) as admin:
        listed: str = await admin.ask("CLIENT", "LIST", "TYPE", "normal")
        return len(listed.splitlines()) - 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workload", description=__doc__)
    parser.add_argument("client", choices=CONTENDERS)
    parser.add_argument(
        "--ports", type=int, nargs="+", required=True, help="of every server; the first is dialled"
    )
    parser.add_argument("--tasks", type=int, default=1_000)
    parser.add_argument("--ops", type=int, default=100_000)
    parser.add_argument("--pool", type=int, default=1_000)
    given = parser.parse_args()
    result = uvloop.run(measure(given.client, given.ports, given.tasks, given.ops, given.pool))
    print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
