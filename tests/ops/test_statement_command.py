"""`tradewind statement` as a user runs it."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.engine.partition_runs import place, running
from tests.support.clients import check_idle
from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.messages import CloseAll
from tradewind.engine.opening import open_engine

TRADEWIND = Path(sys.executable).parent / "tradewind"


@pytest.fixture
async def client(clean_cluster: EmbeddedCluster):
    client = RedisCluster.from_url(clean_cluster.url)
    await open_engine(client, 1)
    yield client
    await check_idle(client)
    await client.aclose()


async def tradewind(cluster: EmbeddedCluster, *words: str, code: int = 0) -> tuple[str, str]:
    process = await asyncio.create_subprocess_exec(
        TRADEWIND, "statement", *words, "--url", cluster.url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == code, (out, err)
    return out.decode(), err.decode()


async def test_a_statement_of_an_account_that_traded(client: RedisCluster, clean_cluster):
    async with running(client) as run:
        await run.fund("A1", "A2", amount=100_000)
        assert (await run.ask(place("A1", "p", 10_000))).status == "filled"
        closed = await run.ask(CloseAll(account="A1", id="c"))
    told = json.loads((await tradewind(clean_cluster, "A1", "--json"))[0])
    assert (told["opening_balance"], told["closing_balance"]) == (0, closed.balance)
    assert told["totals"]["closed_profit"] == closed.profit
    table, _ = await tradewind(clean_cluster, "A1")
    assert "closing balance" in table and "1,000.00" in table
    later = json.loads((await tradewind(clean_cluster, "A1", "--from", "2100-01-01", "--json"))[0])
    assert later["lines"] == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(("nobody",), "no event names account nobody"), (("A1", "--from", "soon"), "--from soon")],
)
async def test_what_makes_no_sense_is_refused(client, clean_cluster, words: tuple[str, ...], complaint: str):
    assert complaint in (await tradewind(clean_cluster, *words, code=1))[1]
