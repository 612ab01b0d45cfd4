"""`tradewind rollout` as an operator runs it, while orders come in."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.clients import check_idle
from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.desk import OrderDesk
from tradewind.engine.keys import WORKERS_KEY
from tradewind.engine.messages import Answer, Deposit, OpenAccount
from tradewind.engine.opening import open_engine
from tradewind.ops.workers import survey

TRADEWIND = Path(sys.executable).parent / "tradewind"
PARTITIONS = 8
WORKERS = 3

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


@pytest.fixture
async def client(clean_cluster: EmbeddedCluster) -> AsyncIterator[RedisCluster]:
    client = RedisCluster.from_url(clean_cluster.url)
    await open_engine(client, PARTITIONS)
    yield client
    await check_idle(client)
    await client.aclose()


@asynccontextmanager
async def workers(client: RedisCluster, url: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        TRADEWIND, "worker", "--count", str(WORKERS), "--url", url,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:

        async def ready() -> bool:
            return await survey(client, PARTITIONS) == (WORKERS, PARTITIONS)

        async with asyncio.timeout(60):
            while not await ready():
                await asyncio.sleep(0.1)
        yield
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


async def rollout(url: str) -> tuple[int | None, bytes, str]:
    process = await asyncio.create_subprocess_exec(
        TRADEWIND, "rollout", "--url", url, "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode, out, err.decode()


async def test_every_worker_is_replaced_and_no_order_is_lost_or_refused(client: RedisCluster, clean_cluster):
    async with workers(client, clean_cluster.url):
        desk = OrderDesk(client, PARTITIONS)
        await desk.start()
        accounts = [f"A{number}" for number in range(16)]
        for account in accounts:
            await desk.submit(OpenAccount(account=account, id="open"))
        before = set(await client.execute_command("ZRANGE", WORKERS_KEY, 0, -1))
        stop = asyncio.Event()

        async def deposits(account: str) -> list[Answer]:
            told = []
            while not stop.is_set():
                told.append(await desk.submit(Deposit(account=account, id=f"d{len(told)}", amount=1)))
                await asyncio.sleep(0.01)
            return told

        tasks = [asyncio.create_task(deposits(account)) for account in accounts]
        code, out, err = await rollout(clean_cluster.url)
        stop.set()
        told = await asyncio.gather(*tasks)
        await desk.aclose()
        assert code == 0, err
        assert json.loads(out)["replaced"] == WORKERS
        assert f"{WORKERS} of {WORKERS} workers replaced" in err
        after = set(await client.execute_command("ZRANGE", WORKERS_KEY, 0, -1))
        assert len(after) == WORKERS
        assert not before & after
        for answers in told:
            assert [answer.balance for answer in answers] == list(range(1, len(answers) + 1))


async def test_without_workers_it_says_so(client: RedisCluster, clean_cluster):
    code, _, err = await rollout(clean_cluster.url)
    assert code == 1
    assert "no workers run" in err
