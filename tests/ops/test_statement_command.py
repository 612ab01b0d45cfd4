"""`tradewind statement` as a user runs it."""

import json

import pytest

from tests.engine.partition_runs import place, running
from tests.support.clients import check_idle
from tests.support.commands import run_command
from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.keys import PartitionKeys
from tradewind.engine.messages import CloseAll, decode_event
from tradewind.engine.opening import open_engine
from tradewind.trail.errors import StatementTooLong
from tradewind.trail.statement import read_statement
from tradewind.trail.trim import TrimRequest, plan_trim, trim


@pytest.fixture
async def client(clean_cluster: EmbeddedCluster):
    client = RedisCluster.from_url(clean_cluster.url)
    await open_engine(client, 1)
    yield client
    await check_idle(client)
    await client.aclose()


async def tradewind(cluster: EmbeddedCluster, *words: str, code: int = 0) -> tuple[str, str]:
    return await run_command(cluster, "statement", *words, code=code)


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


async def trim_before(client: RedisCluster, sequence: int) -> None:
    request = TrimRequest(before=sequence, keep=0)
    await trim(client, await plan_trim(client, 0, request), request)


async def test_a_statement_goes_on_from_the_checkpoint_and_is_refused_before_it(client, clean_cluster):
    async with running(client) as run:
        await run.fund("A1", "A2", amount=100_000)
        for number in range(3):
            assert (await run.ask(place("A1", f"p{number}", 10_000))).status == "filled"
        closed = await run.ask(CloseAll(account="A1", id="c"))
    whole = json.loads((await tradewind(clean_cluster, "A1", "--json"))[0])
    await trim_before(client, 5)  # the accounts and their deposits
    assert "have been trimmed" in (await tradewind(clean_cluster, "A1", code=1))[1]
    left = await client.execute_command("XRANGE", PartitionKeys(0).events, "-", "+", "COUNT", 1)
    first_ms = decode_event(left[0][1][b"event"]).at_ms
    told = await read_statement(client, 1, "A1", first_ms, first_ms + 10**9)
    assert (told.closing_balance, told.totals["closed_profit"]) == (closed.balance, closed.profit)
    assert [line.amount for line in told.lines] == [
        line["amount"] for line in whole["lines"] if line["kind"] == "closed_profit"
    ]
    with pytest.raises(StatementTooLong, match="the limit is 2"):
        await read_statement(client, 1, "A1", first_ms, first_ms, events_max=2)
    last = int(await client.hget(PartitionKeys(0).cursor, "sequence"))
    await trim_before(client, last + 1)
    assert "have been trimmed" in (await tradewind(clean_cluster, "A1", code=1))[1], "nothing is left to tell"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(("nobody",), "no event names account nobody"), (("A1", "--from", "soon"), "--from soon")],
)
async def test_what_makes_no_sense_is_refused(client, clean_cluster, words: tuple[str, ...], complaint: str):
    assert complaint in (await tradewind(clean_cluster, *words, code=1))[1]
