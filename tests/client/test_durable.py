"""Durable writes: acknowledged means replicated, and nothing else is ever called success."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import DataError, ResponseError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient, MakeRedis
from tests.support.clients import tally
from tests.support.fake_server import HANG_UP, SILENCE, FakeServer
from tests.support.proxy import ProxiedCluster
from tests.support.server import Server
from tests.support.waiting import eventually
from tradewind import ClientClosed, NodeUnavailable, OutcomeUnknown, Overloaded, RedisCluster
from tradewind.client.calls import CallOptions
from tradewind.embedded.survey import Admin


async def test_many_writers_share_few_barriers(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port, max_connections=4, decode_responses=True)
    durable = client.durable()
    before = await _waits(clean_cluster)
    results = await asyncio.gather(*(durable.incr(f"d:{number % 50}") for number in range(3000)))
    assert sorted(results) == sorted(list(range(1, 61)) * 50)
    barriers = await _waits(clean_cluster) - before
    assert barriers < 300, f"{barriers} barriers for 3000 writes"
    assert all(node.connections <= 4 for node in client.stats().nodes)
    assert await client.get("d:1") == "60"


async def _waits(cluster: EmbeddedCluster) -> int:
    count = 0
    for node in cluster.nodes:
        async with Admin(node.port) as admin:
            stats = await admin.ask("INFO", "commandstats")
            count += int(stats.get("cmdstat_wait", {}).get("calls", 0))
    return count


async def test_reads_and_errors_are_as_ever(client: RedisCluster) -> None:
    durable = client.durable()
    await durable.set("d:text", "x")
    assert await durable.get("d:text") == "x"
    assert await durable.hset("d:h", mapping={"a": 1}) == 1
    assert await durable.hgetall("d:h") == {"a": "1"}
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await durable.lpush("d:text", 1)
    results = await asyncio.gather(
        *(durable.lpush("d:text", 1) if n % 2 else durable.incr("d:n") for n in range(100)),
        return_exceptions=True,
    )
    assert tally(results) == {"answered": 50, "ResponseError": 50}


async def test_more_replicas_than_there_are_is_never_success(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True)
    with pytest.raises(OutcomeUnknown, match="1 of 2 replicas confirmed it"):
        await client.durable(replicas=2).set("d:two", 1)
    assert await client.get("d:two") == "1"


async def test_a_write_that_is_redirected_alone_fails_nobody_in_its_batch(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True)
    await client
    router = client._router
    assert router is not None
    wrong = router.nodes.owners[client.keyslot("d:0")]
    moved = {f"d:{n}" for n in range(100) if router.nodes.owners[client.keyslot(f"d:{n}")] is not wrong}
    for key in moved:
        router.nodes.owners[client.keyslot(key)] = wrong
    results = await asyncio.gather(*(client.durable().incr(f"d:{n}") for n in range(100)))
    assert results == [1] * 100
    assert client.stats().redirects_moved == len(moved)


async def test_a_stopped_replica_makes_outcomes_unknown_and_never_success(
    own_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(own_cluster.nodes[0].port, decode_responses=True)
    durable = client.durable()
    await durable.set("d:a", 1)
    primary = await own_cluster.primary_of("d:a")
    (replica,) = await own_cluster.replicas_of(primary)
    await own_cluster.kill(replica, signal.SIGSTOP)
    try:
        results = await asyncio.gather(*(durable.incr("d:a") for _ in range(20)), return_exceptions=True)
        assert tally(results) == {"OutcomeUnknown": 20}
        assert "0 of 1 replicas confirmed it within 1000 ms" in str(results[0])
        # More than the barriers can take until the deadline: these were never sent.
        hasty = client.durable(timeout_s=1.5)
        results = await asyncio.gather(*(hasty.incr("d:a") for _ in range(2000)), return_exceptions=True)
        assert set(tally(results)) == {"OutcomeUnknown", "Overloaded"}
        before = int(await client.get("d:a") or 0)
        assert before <= 21 + tally(results)["OutcomeUnknown"]
        # Who does not ask for replicas is not held up.
        assert await client.set("d:b", 1) is True
    finally:
        await own_cluster.kill(replica, signal.SIGCONT)

    await eventually(lambda: _succeeds(durable.incr("d:a")))


async def _succeeds(call: Awaitable[object]) -> bool:
    (result,) = await asyncio.gather(call, return_exceptions=True)
    return not isinstance(result, BaseException)


def _fake_barrier(reply: bytes) -> FakeServer:
    return FakeServer(lambda request: {b"WAIT": reply, b"SET": b"+OK\r\n"}.get(request[0]))


@pytest.mark.parametrize(
    ("barrier", "message"),
    [
        (b":0\r\n", "0 of 1 replicas confirmed it"),
        (b"-UNBLOCKED force unblock from blocking operation\r\n", "UNBLOCKED"),
        (b"-ERR WAIT cannot be used with replica instances\r\n", "cannot be used with replica"),
        (b"+OK\r\n", "invalid literal"),
        (b"$-1\r\n", "0 of 1 replicas"),
        (HANG_UP, "connection lost"),
    ],
    ids=["none", "unblocked", "replica", "odd", "null", "lost"],
)
async def test_only_a_counted_barrier_is_success(
    make_client: MakeClient, barrier: bytes, message: str
) -> None:
    async with _fake_barrier(barrier) as server:
        client = make_client(server.port)
        for view in (client.durable(), client.durable(idempotent=True)):
            with pytest.raises(OutcomeUnknown, match=message):
                await view.set("a", 1)
        assert server.count(b"SET") == 2, "what was sent is never sent again, for WAIT would not cover it"


async def test_a_barrier_that_never_answers_is_given_up(make_client: MakeClient) -> None:
    async with _fake_barrier(SILENCE) as server:
        client = make_client(server.port, socket_timeout=0.2)
        with pytest.raises(OutcomeUnknown, match="not confirmed by 1 replicas before its deadline"):
            await client.durable().set("a", 1)
        await eventually(lambda: sum(node.dedicated for node in client.stats().nodes) == 0)


async def test_a_write_behind_a_full_barrier_keeps_its_deadline_and_was_not_sent(
    make_client: MakeClient,
) -> None:
    async with _fake_barrier(SILENCE) as server:
        client = make_client(server.port, max_connections=3, socket_timeout=0.3)
        first = asyncio.create_task(client.durable(lanes=1).set("a", 1))
        await eventually(lambda: server.count(b"WAIT") == 1)
        with pytest.raises(Overloaded, match=r"waited .* for a batch"):
            await client.durable(lanes=1, timeout_s=0.1).set("b", 1)
        with pytest.raises(OutcomeUnknown):
            await first
        assert server.count(b"SET") == 1


async def test_a_dead_node_is_said_to_be_unavailable(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap)
        await client
        for proxy in network.proxies.values():
            proxy.refuse = True
        with pytest.raises(NodeUnavailable):
            await client.durable(timeout_s=0.4).set("a", 1)
        network.heal()
        assert await client.durable().set("a", 1)


async def test_cancelled_writers_hold_up_nobody(client: RedisCluster) -> None:
    durable = client.durable()
    writers = [asyncio.create_task(durable.incr("d:c")) for _ in range(1000)]
    await asyncio.sleep(0.001)
    for writer in writers[::3]:
        writer.cancel()
    results = await asyncio.gather(*writers, return_exceptions=True)
    assert set(tally(results)) <= {"answered", "CancelledError"}
    assert tally(results)["answered"] >= 666
    assert await durable.incr("d:c") >= 667


async def test_single_writes_one_after_the_other_are_never_left_waiting(client: RedisCluster) -> None:
    """Each ends a worker of the batch just when the next write comes."""
    durable = client.durable(lanes=1, timeout_s=1.0)
    for _ in range(500):
        await asyncio.gather(durable.incr("d:s"), durable.incr("d:s"))
    assert await client.get("d:s") == "1000"


async def test_closing_tells_those_who_wait_and_those_on_their_way(make_client: MakeClient) -> None:
    async with _fake_barrier(SILENCE) as server:
        client = make_client(server.port, max_connections=3)
        sent = asyncio.create_task(client.durable(lanes=1).set("a", 1))
        await eventually(lambda: server.count(b"WAIT") == 1)
        waiting = asyncio.create_task(client.durable(lanes=1).set("b", 1))
        await asyncio.sleep(0)
        await client.aclose()
        with pytest.raises(OutcomeUnknown):
            await sent
        with pytest.raises(ClientClosed):
            await waiting


# -- what is made from a view --------------------------------------------------------------------------------


async def _read_and_write(pipe: Any) -> None:
    await pipe.get("d:w")
    pipe.multi()
    pipe.set("d:w", 1)


WAYS_TO_WRITE: dict[str, Callable[[Any], Awaitable[object]]] = {
    "other options": lambda view: view.with_options(timeout_s=5).set("d:w", 1),
    "durable again": lambda view: view.durable().set("d:w", 1),
    "lock": lambda view: view.lock("d:w", timeout=5).acquire(),
    "pipeline": lambda view: view.pipeline().set("d:w", 1).execute(),
    "transaction in a pipeline": lambda view: view.pipeline(transaction=True).set("d:w", 1).execute(),
    "transaction": lambda view: view.transaction(_read_and_write, "d:w"),
    "of a view of it": lambda view: view.with_options(timeout_s=5).pipeline().set("d:w", 1).execute(),
}


@pytest.mark.parametrize("way", WAYS_TO_WRITE)
async def test_what_is_made_from_a_durable_view_is_durable(client: RedisCluster, way: str) -> None:
    view = client.durable(replicas=5)
    with pytest.raises(OutcomeUnknown, match="1 of 5 replicas confirmed it"):
        await WAYS_TO_WRITE[way](view)


@pytest.mark.parametrize("way", WAYS_TO_WRITE)
async def test_also_of_a_single_server(make_redis: MakeRedis, bundled: Server, way: str) -> None:
    view = make_redis(port=bundled.port).durable(replicas=5)
    with pytest.raises(OutcomeUnknown, match="0 of 5 replicas confirmed it"):
        await WAYS_TO_WRITE[way](view)


async def test_a_view_of_a_view_changes_only_what_is_given(client: RedisCluster) -> None:
    view = client.with_options(idempotent=True, read_from="prefer_replica", timeout_s=3).durable(lanes=1)
    expected = CallOptions(
        timeout_s=3, idempotent=True, replicas=1, durable_lanes=1, read_from="prefer_replica"
    )
    assert view.call == expected
    assert view.with_options(timeout_s=2).call == replace(expected, timeout_s=2)
    assert view.durable(2, idempotent=False).call == replace(expected, replicas=2, idempotent=False)
    assert client.durable().call == CallOptions(replicas=1), "the client has none of its views' options"


async def test_a_view_has_nothing_that_would_lose_its_options(client: RedisCluster) -> None:
    view = client.durable()
    for send in (view.post, view.send_unanswered):
        with pytest.raises(DataError, match="call it on the client itself"):
            send("SET", "d:w", 1)
    for name in ("execute_call", "get_redis_connection", "no_such_name"):
        with pytest.raises(AttributeError, match="use the client itself"):
            getattr(view, name)
    assert view.get_nodes() == client.get_nodes()
    assert view.encoder is client.encoder
