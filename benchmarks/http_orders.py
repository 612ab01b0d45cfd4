"""Orders through HTTP: `tradewind up` with a quiet load of its own, and as many requests as its API answers.

    python -m benchmarks.http_orders [--workers 2] [--seconds 10] [--runs 5]

A closed loop: each connection sends a request, waits for the answer, sends the next. The client is a bare
asyncio protocol with requests made beforehand, so that it costs little beside what is measured.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import uvloop

from tradewind.embedded.ports import free_ports

ACCOUNTS: Final = 2_000
START_S_MAX: Final = 60.0
END_S_MAX: Final = 60.0
BULK: Final = 100
SINGLE_CONNECTIONS: Final = 256
BULK_CONNECTIONS: Final = 32
HEAD_END: Final = b"\r\n\r\n"


@dataclass
class Counts:
    """What one run of the load saw. Latency is of a request, from its last byte sent to the answer's."""

    statuses: Counter[int] = field(default_factory=Counter)
    orders: int = 0
    latencies_ms: list[float] = field(default_factory=list)


class Caller(asyncio.Protocol):
    """One connection, one request at a time, until `until_s`."""

    def __init__(self, requests: Iterator[bytes], orders: int, counts: Counts, until_s: float) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._orders = orders
        self._counts = counts
        self._until_s = until_s
        self._received = b""
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # of uvloop, which is no subclass
        self._send()

    def _send(self) -> None:
        self._sent_s = time.monotonic()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(HEAD_END)
        if head_end < 0:
            return
        head = self._received[:head_end].lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self._received) < head_end + len(HEAD_END) + length:
            return
        self._take(int(head[9:12]), self._received[head_end:])
        self._received = b""
        if time.monotonic() < self._until_s:
            self._send()
        else:
            self._transport.close()

    def _take(self, status: int, body: bytes) -> None:
        self._counts.statuses[status] += 1
        self._counts.latencies_ms.append((time.monotonic() - self._sent_s) * 1000)
        if status == 200:  # each order in it: decided, and on a replica
            self._counts.orders += body.count(b'"sequence":') if self._orders > 1 else 1

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set_result(error)


def requests(token: str, run: str, bulk: int) -> Iterator[bytes]:
    """Market orders over all accounts, buys and sells in turn, under ids of their own."""
    path = "/v1/orders/bulk" if bulk > 1 else "/v1/orders"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    ).encode()
    number = 0
    while True:
        orders = []
        for _ in range(bulk):
            account, side = f"A{number % ACCOUNTS:06d}", ("buy", "sell")[number // ACCOUNTS % 2]
            orders.append(
                f'{{"account":"{account}","id":"{run}-{number}","symbol":"EURUSD",'
                f'"side":"{side}","volume":1000}}'
            )
            number += 1
        body = (f'{{"orders":[{",".join(orders)}]}}' if bulk > 1 else orders[0]).encode()
        yield head + str(len(body)).encode() + HEAD_END + body


async def offer(port: int, token: str, run: str, bulk: int, connections: int, seconds: float) -> Counts:
    """As much as `connections` get answered in `seconds`."""
    counts, made = Counts(), requests(token, run, bulk)
    loop, until_s = asyncio.get_running_loop(), time.monotonic() + seconds
    callers = await asyncio.gather(
        *(
            loop.create_connection(lambda: Caller(made, bulk, counts, until_s), "127.0.0.1", port)
            for _ in range(connections)
        )
    )
    await asyncio.gather(*(caller.ended for _, caller in callers))
    return counts


def figures(counts: Counts, seconds: float) -> dict[str, Any]:
    latencies = sorted(counts.latencies_ms)
    return {
        "orders_per_s": round(counts.orders / seconds),
        "requests": len(latencies),
        "statuses": dict(counts.statuses),
        "p50_ms": round(latencies[len(latencies) // 2], 1),
        "p99_ms": round(latencies[len(latencies) * 99 // 100], 1),
    }


async def measure(workers: int, seconds: float, runs: int) -> list[dict[str, Any]]:
    """Both kinds of requests in turn, on one system; its audit at the end must be clean."""
    with tempfile.TemporaryDirectory(prefix="tradewind-http-") as folder:
        data, [port] = Path(folder) / "data", free_ports(1)
        words = f"up --workers {workers} --accounts {ACCOUNTS} --rate 1 --api-port {port} --json".split()
        system = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tradewind", *words, "--data", str(data),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert system.stderr is not None
        async with asyncio.timeout(START_S_MAX):
            while b"orders/s" not in (line := await system.stderr.readline()):
                assert line, "the system ended before it traded"
        token = (data / "api.key").read_text().strip()
        results = []
        for number in range(runs):
            for bulk, connections in ((1, SINGLE_CONNECTIONS), (BULK, BULK_CONNECTIONS)):
                counts = await offer(port, token, f"r{number}-{bulk}", bulk, connections, seconds)
                results.append({"orders_in_a_request": bulk, **figures(counts, seconds)})
                print(json.dumps(results[-1]), file=sys.stderr, flush=True)
        system.terminate()
        async with asyncio.timeout(END_S_MAX):
            report, _ = await system.communicate()
        audit = json.loads(report)["audit"]
        print(f"audit clean: {audit['clean']}, {audit['events']:,} events", file=sys.stderr)
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Orders a second through the HTTP API.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    results = uvloop.run(measure(given.workers, given.seconds, given.runs))
    for bulk in (1, BULK):
        rates = [one["orders_per_s"] for one in results if one["orders_in_a_request"] == bulk]
        print(f"{bulk} in a request: {statistics.median(rates):,.0f} orders/s, median of {sorted(rates)}")


if __name__ == "__main__":
    main()
