"""Orders over HTTP take effect once, whatever is repeated, and a refusal says why."""

import asyncio

import httpx
import pytest

from tests.api.conftest import Api, funded, order, problem_of


async def test_an_order_is_filled_and_its_position_is_there(http: httpx.AsyncClient) -> None:
    account = await funded(http, "filled")
    answer = (await http.post("/v1/orders", json=order(account, "o-1"))).json()
    assert (answer["status"], answer["price"], answer["volume"]) == ("filled", 112_130, 10_000)
    positions = (await http.get("/v1/positions", params={"account": account})).json()["positions"]
    assert [one["position"] for one in positions] == [answer["position"]]
    state = (await http.get("/v1/accounts", params={"account": account})).json()
    assert (state["balance"], state["positions"]) == (10**6, 1)
    assert state["equity"] == state["balance"] + positions[0]["profit"]
    assert state["free_margin"] == state["equity"] - state["used_margin"]
    closed = await http.post(
        "/v1/positions/close", json={"account": account, "id": "c-1", "position": answer["position"]}
    )
    assert closed.json()["balance"] == 10**6 + positions[0]["profit"]


async def test_the_same_id_and_body_get_the_same_answer_and_another_body_a_409(
    http: httpx.AsyncClient,
) -> None:
    account = await funded(http, "repeated")
    first, again = [await http.post("/v1/orders", json=order(account, "o-1")) for _ in range(2)]
    assert (first.status_code, first.content) == (again.status_code, again.content)
    other = problem_of(await http.post("/v1/orders", json=order(account, "o-1", volume=20_000)))
    assert (other["status"], other["code"]) == (409, "duplicate_id")
    kept = await http.get("/v1/answers", params={"account": account, "id": "o-1"})
    assert kept.json() == first.json()
    state = (await http.get("/v1/accounts", params={"account": account})).json()
    assert state["positions"] == 1


async def test_an_order_rests_is_amended_and_cancelled(http: httpx.AsyncClient) -> None:
    account = await funded(http, "resting")
    limit = order(account, "l-1", kind="limit", price=110_000)
    answer = (await http.post("/v1/orders", json=limit)).json()
    assert answer["status"] == "accepted"
    change = {"account": account, "id": "a-1", "order": answer["order"], "price": 109_000}
    assert (await http.post("/v1/orders/amend", json=change)).json()["status"] == "accepted"
    [resting] = (await http.get("/v1/orders", params={"account": account})).json()["orders"]
    assert (resting["client_id"], resting["price"]) == ("l-1", 109_000)
    cancel = {"account": account, "id": "x-1", "order": answer["order"]}
    assert (await http.post("/v1/orders/cancel", json=cancel)).json()["status"] == "done"
    late = problem_of(await http.post("/v1/orders/cancel", json=cancel | {"id": "x-2"}))
    assert (late["status"], late["code"]) == (409, "too_late_to_cancel")
    assert (await http.get("/v1/orders", params={"account": account})).json()["orders"] == []


async def test_a_refusal_has_the_engines_code_and_numbers(http: httpx.AsyncClient) -> None:
    account = await funded(http, "refused")
    body = problem_of(await http.post("/v1/orders", json=order(account, "big", volume=10_000_000)))
    assert (body["status"], body["code"]) == (422, "insufficient_margin")
    assert any(character.isdigit() for character in body["detail"])
    assert body["answer"]["reason"] == "insufficient_margin"
    unknown = problem_of(await http.post("/v1/orders", json=order("nobody", "o-1")))
    assert (unknown["status"], unknown["code"]) == (404, "unknown_account")
    assert problem_of(await http.get("/v1/answers", params={"account": account, "id": "big"})) == body


async def test_a_bulk_is_answered_in_order_an_item_for_each(http: httpx.AsyncClient) -> None:
    account = await funded(http, "bulk")
    orders = [order(account, f"b-{number}", volume=1_000 + number % 2) for number in range(100)]
    response = await http.post("/v1/orders/bulk", json={"orders": orders})
    items = response.json()["answers"]
    assert [item["status"] for item in items] == [200, 422] * 50
    assert [item["answer"]["id"] for item in items[::2]] == [one["id"] for one in orders[::2]]
    assert {item["problem"]["code"] for item in items[1::2]} == {"invalid_volume"}
    again = await http.post("/v1/orders/bulk", json={"orders": orders})
    assert again.content == response.content


@pytest.mark.parametrize("count", [0, 1_001])
async def test_a_bulk_of_no_orders_or_too_many_is_refused_whole(http: httpx.AsyncClient, count: int) -> None:
    orders = [order("nobody", f"{number}") for number in range(count)]
    body = problem_of(await http.post("/v1/orders/bulk", json={"orders": orders}))
    assert body["code"] == "malformed"
    assert str(count) in body["detail"]


async def test_many_at_once_of_one_id_make_one_position(http: httpx.AsyncClient) -> None:
    account = await funded(http, "at-once")
    responses = await asyncio.gather(
        *(http.post("/v1/orders", json=order(account, "same")) for _ in range(20))
    )
    assert {response.status_code for response in responses} <= {200, 409}
    answers = {response.content for response in responses if response.status_code == 200}
    assert len(answers) == 1
    codes = {problem_of(response)["code"] for response in responses if response.status_code == 409}
    assert codes <= {"in_progress"}
    assert (await http.get("/v1/accounts", params={"account": account})).json()["positions"] == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "truncated"),
        (b"[]", "object"),
        (b'{"account":"alice"}', "id"),
        (b'{"account":"a b","id":"1","symbol":"EURUSD","side":"buy","volume":1000}', "$.account"),
        (b'{"account":"a","id":"1","symbol":"EURUSD","side":"up","volume":1000}', "$.side"),
        (b'{"account":"a","id":"1","symbol":"EURUSD","side":"buy","volume":1.5}', "$.volume"),
        (b'{"account":"a","id":"1","symbol":"EURUSD","side":"buy","volume":1,"reply_to":"x"}', "reply_to"),
        (b'{"account":"a","id":"1","symbol":"EURUSD","side":"buy","volume":1,"unknown":1}', "unknown"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 100_000, "malformed"),
    ],
)
async def test_a_malformed_body_is_told_what_is_wrong(
    http: httpx.AsyncClient, body: bytes, said: str
) -> None:
    response = await http.post("/v1/orders", content=body, headers={"content-type": "application/json"})
    found = problem_of(response)
    assert (found["status"], found["code"]) == (400, "malformed")
    assert said in found["detail"].lower() or said == found["code"]


async def test_what_is_not_json_and_what_is_too_large_is_refused(http: httpx.AsyncClient) -> None:
    assert problem_of(await http.post("/v1/orders", content=b"{}"))["code"] == "unsupported_media_type"
    large = b" " * (1 << 20) + b"{}"
    response = await http.post("/v1/orders", content=large, headers={"content-type": "application/json"})
    assert problem_of(response)["code"] == "too_large"


async def test_a_path_or_a_method_that_is_not_there_is_a_problem(http: httpx.AsyncClient) -> None:
    assert problem_of(await http.get("/v1/nothing"))["code"] == "not_found"
    refused = await http.delete("/v1/orders")
    assert problem_of(refused)["code"] == "method_not_allowed"
    assert "POST" in refused.headers["allow"]


async def test_events_are_paged_by_their_sequence(http: httpx.AsyncClient, api: Api) -> None:
    account = await funded(http, "paged")
    await http.post("/v1/orders", json=order(account, "o-1"))
    seen, after, is_end = [], 0, False
    while not is_end:
        page = (await http.get("/v1/events", params={"account": account, "after": after, "limit": 1})).json()
        seen += page["events"]
        after, is_end = page["after"], page["is_end"]
    assert [one["event"]["type"] for one in seen] == ["account_opened", "deposited", "order_filled"]
    sequences = [one["sequence"] for one in seen]
    assert sequences == sorted(set(sequences))
