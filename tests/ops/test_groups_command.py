"""`tradewind groups` as an operator runs it."""

import json

import pytest

from tests.engine.partition_runs import running
from tests.support.clients import check_idle
from tests.support.commands import run_command
from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.house_store import load_house
from tradewind.engine.messages import OpenAccount
from tradewind.engine.opening import open_engine


@pytest.fixture
async def client(clean_cluster: EmbeddedCluster):
    client = RedisCluster.from_url(clean_cluster.url)
    await open_engine(client, 1)
    yield client
    await check_idle(client)
    await client.aclose()


async def groups(cluster: EmbeddedCluster, *words: str, code: int = 0) -> tuple[str, str]:
    return await run_command(cluster, "groups", *words, code=code)


async def test_accounts_are_opened_on_the_terms_that_were_set(client: RedisCluster, clean_cluster):
    await groups(clean_cluster, "set", "vip", '{"leverage": 30, "forgives_debt": true}')
    assert (await groups(clean_cluster, "list"))[0] == (
        "default: as built in\nvip: leverage 30, forgives_debt True\n"
    )
    assert json.loads((await groups(clean_cluster, "list", "--json"))[0])["vip"]["leverage"] == 30
    async with running(client) as run:
        refused = await run.ask(OpenAccount(account="A1", id="early", group="vip"))
        assert refused.reason == "unknown_group"
        await load_house(client, run.house)
        assert (await run.ask(OpenAccount(account="A1", id="open", group="vip"))).status == "done"
        assert run.runner._book.accounts["A1"].leverage == 30
        await run.audit()


@pytest.mark.parametrize(
    "terms", ['{"leverage": 501}', '{"leverag": 1}', "[]", "{", '{"stop_out_percent": 200}']
)
async def test_terms_that_make_no_sense_are_refused(clean_cluster, terms: str):
    assert "group vip" in (await groups(clean_cluster, "set", "vip", terms, code=1))[1]
