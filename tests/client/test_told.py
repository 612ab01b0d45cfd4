"""What callers are told: every error is counted, once, and of a class that they know."""

import asyncio
import dataclasses
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, ResponseError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import key_in_slot_range
from tests.support.fake_server import HANG_UP, HOST, SILENCE, FakeServer
from tests.support.waiting import eventually
from tradewind import (
    ClientClosed,
    DeadlineExceeded,
    NodeUnavailable,
    OutcomeUnknown,
    Overloaded,
    RedisCluster,
    SlotNotServed,
)
from tradewind.client.command import Command
from tradewind.client.node import Node

UNSERVED = key_in_slot_range(8192, 16383)
NOBODY_LISTENS = 1  # a port on which nothing can be


def answering(name: bytes, answer: bytes) -> FakeServer:
    return FakeServer(lambda request: answer if request[0] == name else None)


async def errors_of(client: RedisCluster, *calls: Any) -> list[type]:
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [type(result) for result in results]


async def test_a_write_without_answer_and_one_without_room_are_counted(make_client: MakeClient) -> None:
    async with answering(b"INCRBY", SILENCE) as server:
        client = make_client(server.port, socket_timeout=0.2, in_flight_max=1)
        await client
        assert await errors_of(client, client.incr("a"), client.incr("a")) == [OutcomeUnknown, Overloaded]
        assert client.stats().errors == {"OutcomeUnknown": 1, "Overloaded": 1}


async def test_a_read_without_answer_is_counted(make_client: MakeClient) -> None:
    async with answering(b"GET", SILENCE) as server:
        client = make_client(server.port, socket_timeout=0.2)
        await client
        assert await errors_of(client, client.get("a")) == [DeadlineExceeded]
        assert client.stats().errors == {"DeadlineExceeded": 1}


@pytest.mark.parametrize("durable", [False, True])
async def test_a_write_whose_connection_ended_is_counted_once(make_client: MakeClient, durable: bool) -> None:
    async with answering(b"INCRBY", HANG_UP) as server:
        client = make_client(server.port)
        view = client.durable() if durable else client
        await client
        assert await errors_of(client, view.incrby("a", 1)) == [OutcomeUnknown]
        assert client.stats().errors == {"OutcomeUnknown": 1}


async def test_a_node_that_cannot_be_reached_is_counted(make_client: MakeClient) -> None:
    async with FakeServer() as server:
        rows = server.slots((0, 8191, HOST, server.port), (8192, 16383, HOST, NOBODY_LISTENS))
        server.answer = lambda request: rows if request[0] == b"CLUSTER" else None
        client = make_client(server.port, socket_timeout=0.3)
        await client
        calls = [client.get(UNSERVED), client.durable().set(UNSERVED, 1)]
        assert await errors_of(client, *calls) == [NodeUnavailable] * 2
        errors = dict(client.stats().errors)
        assert errors.pop("NodeUnavailable") == 2
        assert set(errors) == {"ConnectionError"}  # what the dials met


async def test_a_slot_without_owner_is_counted(make_client: MakeClient) -> None:
    async with FakeServer() as server:
        rows = server.slots((0, 8191, HOST, server.port))
        server.answer = lambda request: rows if request[0] == b"CLUSTER" else None
        client = make_client(server.port, socket_timeout=0.2, require_full_coverage=False)
        await client
        assert await errors_of(client, client.get(UNSERVED)) == [SlotNotServed]
        assert client.stats().errors == {"SlotNotServed": 1}


async def test_a_durable_write_is_counted_once_whoever_tells_its_caller_first(
    make_client: MakeClient,
) -> None:
    """The first is on its way when its deadline passes, the second has no room; later the barrier fails."""
    async with answering(b"WAIT", SILENCE) as server:
        client = make_client(server.port, socket_timeout=0.2)
        durable = client.durable(lanes=1)
        await client
        first = asyncio.ensure_future(durable.incrby("a", 1))
        while not server.count(b"WAIT"):
            await asyncio.sleep(0.01)
        assert await errors_of(client, first, durable.incrby("a", 1)) == [OutcomeUnknown, Overloaded]
        server.drop_all()
        await asyncio.sleep(0.05)
        assert client.stats().errors == {"OutcomeUnknown": 1, "Overloaded": 1}


async def test_a_blocking_caller_without_a_connection_is_counted(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port, max_connections=2)
    client._timeouts = dataclasses.replace(client._timeouts, blocking_margin_s=0.1)
    await client
    calls = [client.blpop(["{told}list"], 1), client.blpop(["{told}list"], 0.1)]
    assert await errors_of(client, *calls) == [type(None), Overloaded]
    assert client.stats().errors == {"Overloaded": 1}


async def test_what_the_server_says_is_counted_whether_the_call_blocks_or_not(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port)
    await client.set("{told}text", "x")
    calls = [client.lpop("{told}text"), client.blpop(["{told}text"], 1)]
    assert await errors_of(client, *calls) == [ResponseError] * 2
    assert client.stats().errors == {"ResponseError": 2}


async def test_who_has_gone_is_not_counted(make_client: MakeClient) -> None:
    async with answering(b"GET", SILENCE) as server:
        client = make_client(server.port, socket_timeout=0.2)
        await client
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.get("a")
        await asyncio.sleep(0.4)
        assert not client.stats().errors


async def test_a_connection_that_ended_before_a_durable_write_was_sent_is_no_internal_error(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeServer() as server:
        client = make_client(server.port, socket_timeout=0.3)
        await client
        assert client._router is not None
        (node,) = client._router.nodes.primaries()
        acquire = node.dedicated.acquire

        async def acquire_lost(deadline_s: float) -> Any:
            lane = await acquire(deadline_s)
            lane.close(RedisConnectionError("gone"))
            return lane

        monkeypatch.setattr(node.dedicated, "acquire", acquire_lost)
        with pytest.raises(NodeUnavailable, match="INCRBY: its connection ended before it was sent") as told:
            await client.durable().incrby("a", 1)
        assert type(told.value) is NodeUnavailable
        assert client.stats().errors == {"NodeUnavailable": 1}
        assert not server.count(b"INCRBY")


async def test_an_error_behind_the_sending_does_not_send_again(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what cannot be packed takes the long way, which says why."""
    async with FakeServer(lambda request: b":1\r\n" if request[0] == b"INCRBY" else None) as server:
        client = make_client(server.port)
        await client
        submit = Node.submit_plain

        def submit_and_fail(node: Node, command: Command) -> None:
            submit(node, command)
            raise TypeError("behind the sending")

        with monkeypatch.context() as patch:
            patch.setattr(Node, "submit_plain", submit_and_fail)
            with pytest.raises(TypeError, match="behind the sending"):
                await client.incrby("a", 1)
        assert await client.incrby("b", 1) == 1  # answered behind whatever was sent before
        assert [request[1] for request in server.requests if request[0] == b"INCRBY"] == [b"a", b"b"]
        with pytest.raises(DataError, match="convert the argument"):
            await client.execute_command("SET", "a", object())


async def test_what_was_sent_before_is_not_said_to_be_unsent(make_client: MakeClient) -> None:
    """Its connection ends, and there is never another one: the first try may have run."""
    async with answering(b"SET", HANG_UP) as server:
        client = make_client(server.port)
        await client
        told = asyncio.ensure_future(client.with_options(timeout_s=0.5, idempotent=True).set("a", "1"))
        await eventually(lambda: server.count(b"SET") == 1)
        server.answer = lambda request: HANG_UP if request[0] == b"HELLO" else None
        with pytest.raises(DeadlineExceeded, match="SET was sent before, and its reply was lost"):
            await told


@pytest.mark.parametrize("answer", [SILENCE, b"-LOADING from disk\r\n"], ids=["dials", "pauses"])
async def test_closing_tells_a_blocking_caller_who_is_not_connected(
    make_client: MakeClient, answer: bytes
) -> None:
    name = b"HELLO" if answer == SILENCE else b"BLPOP"
    async with FakeServer() as server:
        client = make_client(server.port)
        await client
        server.answer = lambda request: answer if request[0] == name else None
        blocked = asyncio.ensure_future(client.blpop(["a"], timeout=30))
        await eventually(lambda: server.count(name) >= (2 if answer == SILENCE else 6))
        await client.aclose()
        for _ in range(20):
            await asyncio.sleep(0)
        assert blocked.done()
        with pytest.raises(ClientClosed):
            await blocked
