"""The stream has every event of its account once, in order, from the number that was asked for."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.api.conftest import Api, funded, order
from tradewind.api import stream, tail
from tradewind.api.tail import Subscriber

ORDERS = 30


@asynccontextmanager
async def streaming(api: Api, query: str, token: str = "all") -> AsyncIterator[ClientConnection]:
    url = f"{api.url.replace('http', 'ws', 1)}/v1/events?{query}"
    headers = {"Authorization": f"Bearer {api.tokens.get(token, token)}"}
    async with connect(url, additional_headers=headers, proxy=None) as socket:
        yield socket


async def take(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(30):
        return [json.loads(await socket.recv()) for _ in range(count)]


async def test_what_happened_and_what_happens_come_once_and_in_order(
    api: Api, http: httpx.AsyncClient
) -> None:
    account = await funded(http, "streamed")
    await funded(http, "not-streamed")

    async def place() -> None:
        for number in range(ORDERS):
            for name in (account, "not-streamed"):
                await http.post("/v1/orders", json=order(name, f"o-{number}", volume=1_000))

    placing = asyncio.create_task(place())
    async with streaming(api, f"account={account}") as socket:
        seen = await take(socket, ORDERS + 2)
    await placing
    kept = (await http.get("/v1/events", params={"account": account, "limit": 1_000})).json()["events"]
    assert seen == kept
    middle = seen[10]["sequence"]
    async with streaming(api, f"account={account}&after={middle}") as socket:
        assert await take(socket, len(seen) - 11) == seen[11:]


async def test_two_sockets_share_a_partition_and_each_has_its_account(
    api: Api, http: httpx.AsyncClient
) -> None:
    for name in ("pair-1", "pair-2"):
        await funded(http, name)
    async with (
        streaming(api, "account=pair-1") as one,
        streaming(api, "account=pair-1") as same,
        streaming(api, "account=pair-2") as two,
    ):
        for socket in (one, same, two):
            await take(socket, 2)
        for name in ("pair-1", "pair-2"):
            await http.post("/v1/orders", json=order(name, "o-1"))
        [first], [again], [other] = [await take(socket, 1) for socket in (one, same, two)]
    assert first == again
    assert (first["event"]["account"], other["event"]["account"]) == ("pair-1", "pair-2")


@pytest.mark.parametrize(
    ("query", "token", "code"),
    [
        ("account=a", "wrong", 4401),
        ("account=not-of-the-desk", "desk", 4403),
        ("account=a&after=-1", "all", 4400),
        ("acount=a", "all", 4400),
    ],
)
async def test_a_stream_that_is_not_allowed_is_closed_with_the_reason(
    api: Api, query: str, token: str, code: int
) -> None:
    async with streaming(api, query, token) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), 10)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, bool(closed.value.rcvd.reason)) == (code, True)


async def test_a_client_that_does_not_read_costs_a_bounded_number_of_events() -> None:
    slow = Subscriber("slow")
    for sequence in range(tail.EVENTS_WAITING_MAX + 5):
        slow.push(sequence, b"{}")
    assert slow.is_too_slow
    assert len(await slow.next(1.0)) == tail.EVENTS_WAITING_MAX


async def test_a_quiet_stream_has_heartbeats(api: Api, http: httpx.AsyncClient) -> None:
    account = await funded(http, "quiet")
    async with streaming(api, f"account={account}") as socket:
        events = await take(socket, 2)
        async with asyncio.timeout(stream.HEARTBEAT_S * 3):
            beat = json.loads(await socket.recv())
    assert beat["heartbeat"]
    assert beat["sequence"] >= events[-1]["sequence"]
