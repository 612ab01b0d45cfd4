"""Statements over HTTP."""

import httpx

from tests.api.conftest import PARTITIONS, Api, funded, order, problem_of
from tradewind import RedisCluster
from tradewind.engine.keys import PartitionKeys, partition_of
from tradewind.trail.trim import TrimRequest, plan_trim, trim


async def traded(http: httpx.AsyncClient, account: str) -> int:
    """What closing a position brought."""
    await funded(http, account)
    opened = (await http.post("/v1/orders", json=order(account, "o"))).json()
    close = {"account": account, "id": "c", "position": opened["position"]}
    profit: int = (await http.post("/v1/positions/close", json=close)).json()["profit"]
    return profit


async def test_a_statement_sums_up_what_changed_the_balance(http: httpx.AsyncClient) -> None:
    profit = await traded(http, "stated")
    told = (await http.get("/v1/accounts/stated/statement")).json()
    assert (told["account"], told["opening_balance"], told["closing_balance"]) == (
        "stated",
        0,
        10**6 + profit,
    )
    assert [(line["kind"], line["amount"]) for line in told["lines"]] == [
        ("deposits", 10**6),
        ("closed_profit", profit),
    ]
    deposited_ms, closed_ms = (line["at_ms"] for line in told["lines"])
    later = {"from": deposited_ms + 1, "until": closed_ms + 1}
    told = (await http.get("/v1/accounts/stated/statement", params=later)).json()
    assert (told["from_ms"], told["until_ms"]) == (later["from"], later["until"])
    assert (told["opening_balance"], told["totals"]["deposits"]) == (10**6, 0)
    before = (await http.get("/v1/accounts/stated/statement", params={"until": deposited_ms})).json()
    assert (before["lines"], before["closing_balance"]) == ([], 0)


async def test_what_cannot_be_stated_is_refused(api: Api, http: httpx.AsyncClient) -> None:
    assert problem_of(await http.get("/v1/accounts/nobody/statement"))["code"] == "not_found"
    for query in ("from=soon", "until=-1", "account=other", "from=1&from=2", "to=7"):
        assert problem_of(await http.get(f"/v1/accounts/stated/statement?{query}"))["code"] == "malformed", (
            query
        )
    async with api.client("desk") as desk:
        assert problem_of(await desk.get("/v1/accounts/foreign/statement"))["code"] == "forbidden"


async def test_a_time_whose_events_were_trimmed_is_gone(api: Api, http: httpx.AsyncClient) -> None:
    await traded(http, "trimmed")
    partition = partition_of("trimmed", PARTITIONS)
    async with RedisCluster.from_url(api.cluster.url) as client:
        last = int(await client.hget(PartitionKeys(partition).cursor, "sequence"))
        request = TrimRequest(before=last + 1, keep=0)
        await trim(client, await plan_trim(client, partition, request), request)
    gone = problem_of(await http.get("/v1/accounts/trimmed/statement"))
    assert (gone["status"], gone["code"]) == (410, "trimmed")
