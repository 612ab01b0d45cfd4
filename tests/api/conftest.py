"""A whole system for each file: worker processes, quotes, and `tradewind api` as users run it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.waiting import eventually
from tradewind import RedisCluster, clock
from tradewind.api.keys import make_key, store_key
from tradewind.embedded import EmbeddedCluster
from tradewind.embedded.ports import free_ports
from tradewind.embedded.survey import Admin
from tradewind.engine.instruments import Quote, QuoteFrame, encode_frame, encode_quote
from tradewind.engine.keys import LAST_QUOTES_KEY, PartitionKeys
from tradewind.ops.worker_command import URL_VARIABLE

PARTITIONS = 4
READY_S_MAX = 30.0
EURUSD = Quote("EURUSD", 112_120, 112_130, 0)


@dataclass
class Api:
    """The process under test. `tokens` are by what they may do."""

    url: str
    cluster: EmbeddedCluster
    process: "subprocess.Popen[bytes]"
    workers: "subprocess.Popen[bytes]"
    tokens: dict[str, str] = field(default_factory=dict)

    def client(self, token: str | None = "all", **options: Any) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.tokens.get(token, token)}"} if token else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20, **options)

    async def quote(self) -> None:
        """A fresh quote, to every partition."""
        quote = Quote(EURUSD.symbol, EURUSD.bid, EURUSD.ask, clock.now_ms())
        async with RedisCluster.from_url(self.cluster.url) as client:
            await client.execute_command("HSET", LAST_QUOTES_KEY, quote.symbol, encode_quote(quote))
            for partition in range(PARTITIONS):
                frame = encode_frame(QuoteFrame(quote.time_ms, [quote]))
                await client.spublish(PartitionKeys(partition).quotes_channel, frame)


@contextmanager
def another_api(api: Api, *words: str | int | Path, scheme: str = "http") -> Iterator[Api]:
    """A second process over the same engine, which a test may end. Listening inside."""
    port = free_ports(1)[0]
    with program(api.cluster.url, "api", "--port", port, *words, output=subprocess.PIPE) as process:
        assert process.stderr is not None
        with process.stderr:
            assert process.stderr.readline().startswith(b"listening on "), process.poll()
            url = f"{scheme}://127.0.0.1:{port}"
            yield Api(url, api.cluster, process, api.workers, api.tokens)


@contextmanager
def program(
    cluster_url: str, *words: str | int | Path, output: int = subprocess.DEVNULL
) -> Iterator["subprocess.Popen[bytes]"]:
    """`tradewind WORDS` on the cluster, ended in order. `output`: where its stderr goes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tradewind", *map(str, words)],
        env=os.environ | {URL_VARIABLE: cluster_url},
        stderr=output,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@pytest.fixture(scope="module")
def api(cluster: EmbeddedCluster) -> Iterator[Api]:
    asyncio.run(_empty(cluster))
    port = free_ports(1)[0]
    with ExitStack() as stack:
        workers = stack.enter_context(
            program(cluster.url, "worker", "--count", 2, "--partitions", PARTITIONS)
        )
        asyncio.run(eventually(lambda: _is_opened(cluster.url), READY_S_MAX))
        process = stack.enter_context(program(cluster.url, "api", "--port", port))
        running = Api(f"http://127.0.0.1:{port}", cluster, process, workers)
        asyncio.run(_prepare(running))
        yield running


async def _empty(cluster: EmbeddedCluster) -> None:
    for port, role in (await cluster.roles()).items():
        if role == "primary":
            async with Admin(port) as admin:
                await admin.ask("FLUSHALL")


async def _is_opened(url: str) -> bool:
    async with RedisCluster.from_url(url) as client:
        return bool(await client.exists("tw:{engine}:settings"))


async def _prepare(api: Api) -> None:
    async with RedisCluster.from_url(api.cluster.url) as client:
        for name, scopes, accounts, rate in (
            ("all", ["read", "trade", "admin"], ["*"], 100_000),
            ("reader", ["read"], ["*"], 1_000),
            ("desk", ["read", "trade"], ["desk-*", "alice"], 1_000),
            ("slow", ["read"], ["*"], 1),
        ):
            key, api.tokens[name] = make_key(name, scopes, accounts, rate)
            await store_key(client, key)
    await eventually(lambda: _is_ready(api), READY_S_MAX)


async def _is_ready(api: Api) -> bool:
    try:
        async with api.client("all") as http:
            ready = (await http.get("/health/ready")).status_code == 200
            return ready and (await http.get("/v1/instruments")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
async def http(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    """With a key that may do everything, and a fresh quote."""
    await api.quote()
    async with api.client() as client:
        yield client


async def funded(http: httpx.AsyncClient, account: str) -> str:
    """The account, opened, with 10,000 dollars."""
    opened = await http.post("/v1/accounts", json={"account": account, "id": "open"})
    assert opened.status_code == 200, opened.text
    paid = await http.post("/v1/accounts/deposit", json={"account": account, "id": "pay", "amount": 10**6})
    assert paid.status_code == 200, paid.text
    return account


def order(account: str, id: str, **changes: Any) -> dict[str, Any]:
    return {"account": account, "id": id, "symbol": "EURUSD", "side": "buy", "volume": 10_000} | changes


def problem_of(response: httpx.Response) -> dict[str, Any]:
    """The body, which must be a problem that tells the status it came with."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    body: dict[str, Any] = json.loads(response.content)
    assert body["status"] == response.status_code
    assert body["title"] and body["detail"] and body["code"]
    return body
