"""Who has no key, a wrong one, or one for other things, gets nothing and changes nothing."""

import json
import subprocess
import sys

import httpx
import pytest

from tests.api.conftest import Api, funded, order, problem_of
from tests.support.waiting import eventually
from tradewind.api.errors import KeyRefused
from tradewind.api.keys import make_key, matching
from tradewind.api.limits import TokenBucket


def keys_command(api: Api, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tradewind", "keys", *words, "--url", api.cluster.url],
        capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("token", [None, "", "tw_0_0", "tw_" + "0" * 16 + "_" + "0" * 64])
async def test_without_a_known_key_nothing_is_answered(api: Api, token: str | None) -> None:
    async with api.client(token) as http:
        response = await http.get("/v1/instruments")
    assert problem_of(response)["code"] == "unauthorized"
    assert response.headers["www-authenticate"] == "Bearer"


async def test_a_key_does_what_its_scopes_and_accounts_say(api: Api, http: httpx.AsyncClient) -> None:
    await funded(http, "desk-1")
    await funded(http, "other")
    async with api.client("reader") as reader, api.client("desk") as desk:
        assert (await reader.get("/v1/accounts", params={"account": "other"})).status_code == 200
        assert problem_of(await reader.post("/v1/orders", json=order("other", "1")))["code"] == "forbidden"
        assert (await desk.post("/v1/orders", json=order("desk-1", "1"))).status_code == 200
        assert problem_of(await desk.post("/v1/orders", json=order("other", "1")))["status"] == 403
        assert problem_of(await desk.get("/v1/events", params={"account": "other"}))["status"] == 403
        opening = {"account": "desk-2", "id": "open"}
        assert problem_of(await desk.post("/v1/accounts", json=opening))["status"] == 403
        mixed = {"orders": [order("desk-1", "2"), order("other", "2")]}
        items = (await desk.post("/v1/orders/bulk", json=mixed)).json()["answers"]
        assert [item["status"] for item in items] == [200, 403]


async def test_a_key_that_asks_too_much_is_told_when_to_come_back(api: Api) -> None:
    async with api.client("slow") as http:
        responses = [await http.get("/v1/instruments") for _ in range(4)]
    refused = [response for response in responses if response.status_code == 429]
    assert refused
    assert problem_of(refused[0])["code"] == "rate_limited"
    assert int(refused[0].headers["retry-after"]) >= 1


async def test_keys_are_made_listed_and_revoked_by_the_command_line(api: Api) -> None:
    token = keys_command(api, "create", "clerk", "--scopes", "read").strip()

    async def status() -> int:
        async with api.client(token) as http:
            return (await http.get("/v1/instruments")).status_code

    async def is_known() -> bool:
        return await status() == 200

    async def is_refused() -> bool:
        return await status() == 401

    await eventually(is_known)
    listed = keys_command(api, "list", "--json")
    [clerk] = [key for key in json.loads(listed) if key["name"] == "clerk"]
    assert clerk["scopes"] == ["read"]
    assert token.rpartition("_")[2] not in listed
    keys_command(api, "revoke", clerk["id"])
    await eventually(is_refused)


def test_a_key_is_found_by_its_token_alone() -> None:
    key, token = make_key("one", ["read"], ["*"], 1)
    assert matching({key.id: key}, token) is key
    assert matching({key.id: key}, token[:-1] + ("0" if token[-1] != "0" else "1")) is None
    assert matching({}, token) is None
    assert token.rpartition("_")[2] not in repr(key)


@pytest.mark.parametrize(
    ("scopes", "accounts", "rate"),
    [
        ([], ["*"], 1),
        (["write"], ["*"], 1),
        (["read"], ["a b"], 1),
        (["read"], ["*a"], 1),
        (["read"], ["*"], 0),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(scopes: list[str], accounts: list[str], rate: int) -> None:
    with pytest.raises(KeyRefused):
        make_key("name", scopes, accounts, rate)


def test_a_bucket_gives_its_rate_and_a_burst_of_two_seconds() -> None:
    bucket = TokenBucket(10, now_s=0.0)
    assert [bucket.take(1, 0.0) for _ in range(20)] == [0.0] * 20
    assert bucket.take(1, 0.0) == pytest.approx(0.1)
    assert bucket.take(1, 0.1) == 0.0
    assert bucket.take(1_000, 2.0) > 0.0
    assert bucket.take(1_000, 2.2) == 0.0  # more than it holds: when it is full, and then it owes
    assert bucket.take(1, 2.2) > 90.0
