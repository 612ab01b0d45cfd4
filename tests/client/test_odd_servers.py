"""Servers that say odd things: redirects to nowhere, garbage, silence, and reasons not to be ready."""

import asyncio
import re
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import ClusterDownError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.fake_server import HANG_UP, HOST, SILENCE, FakeServer, _Connection, bulk
from tests.support.proxy import FaultProxy, ProxiedCluster
from tradewind import (
    ClientClosed,
    ClusterNotReady,
    DeadlineExceeded,
    OutcomeUnknown,
    RedisCluster,
    SlotNotServed,
)
from tradewind.embedded.ports import free_ports


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer() as fake:
        yield fake


class Replies:
    """Gives these answers to GET, INCR and SET, one after the other; then the default."""

    def __init__(self, *replies: bytes) -> None:
        self.left = list(replies)

    def __call__(self, request: list[bytes]) -> bytes | None:
        if request[0] in (b"GET", b"INCR", b"SET", b"INCRBY") and self.left:
            return self.left.pop(0)
        return None


# -- redirects -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["", "?", HOST])
async def test_a_redirect_without_a_host_means_the_same_host(
    server: FakeServer, make_client: MakeClient, host: str
) -> None:
    async with FakeServer() as other:
        other.answer = Replies(bulk("there"))
        server.answer = Replies(b"-MOVED 866 %s:%d\r\n" % (host.encode(), other.port))
        assert await make_client(server.port).get("hello") == b"there"


async def test_a_redirect_to_itself_is_tried_again_with_pauses(
    server: FakeServer, make_client: MakeClient
) -> None:
    moved = b"-MOVED 866 %s:%d\r\n" % (HOST.encode(), server.port)
    server.answer = Replies(moved, moved, moved, bulk("here"))
    client = make_client(server.port)
    assert await client.get("hello") == b"here"
    assert client.stats().retries == 3


async def test_redirects_in_a_circle_end_at_the_deadline_and_say_so(
    server: FakeServer, make_client: MakeClient
) -> None:
    async with FakeServer() as other:
        others = b"-MOVED 866 %s:%d\r\n" % (HOST.encode(), other.port)
        ours = b"-MOVED 866 %s:%d\r\n" % (HOST.encode(), server.port)
        server.answer = lambda request: others if request[0] in (b"GET", b"INCRBY") else None
        other.answer = lambda request: ours if request[0] in (b"GET", b"INCRBY") else None
        client = make_client(server.port, socket_timeout=0.5)
        await client
        for call in (client.get("hello"), client.incr("hello")):
            with pytest.raises(
                RedisConnectionError, match=r"redirected .* MovedError .*; it was not executed"
            ):
                await call
        asked = server.count(b"GET") + other.count(b"GET")
        assert 5 < asked < 40, "a circle must not be run at full speed"
        assert server.count(b"CLUSTER") + other.count(b"CLUSTER") < 8


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"-MOVED 99999 127.0.0.1:1\r\n", "slot 99999, which does not exist"),
        (b"-MOVED 866\r\n", "MOVED 866"),
        (b"-MOVED x 127.0.0.1:1\r\n", "MOVED x"),
        (b"-MOVED 866 127.0.0.1:port\r\n", "MOVED 866 127.0.0.1:port"),
        (b"-ASK\r\n", "ASK"),
    ],
)
async def test_a_garbage_redirect_is_that_callers_error(
    server: FakeServer, make_client: MakeClient, reply: bytes, message: str
) -> None:
    server.answer = Replies(reply)
    client = make_client(server.port)
    with pytest.raises(ResponseError, match=message):
        await client.get("hello")
    assert await client.set("hello", 1)


@pytest.mark.parametrize("port", [1, 99999])
async def test_a_redirect_to_a_place_that_does_not_exist_is_mended_by_the_next_map(
    server: FakeServer, make_client: MakeClient, port: int
) -> None:
    server.answer = Replies(b"-MOVED 866 127.0.0.1:%d\r\n" % port, bulk("back"))
    client = make_client(server.port)
    assert await client.get("hello") == b"back"


async def test_a_burst_of_redirects_causes_one_refresh(server: FakeServer, make_client: MakeClient) -> None:
    async with FakeServer() as other:
        moved = b"-MOVED 866 %s:%d\r\n" % (HOST.encode(), other.port)
        server.answer = lambda request: moved if request[0] == b"SET" else None
        other.answer = lambda request: other.slots() if request[0] == b"CLUSTER" else None
        client = make_client(server.port)
        await client
        assert all(await asyncio.gather(*(client.set("hello", number) for number in range(1000))))
        assert client.stats().redirects_moved == 1000
        assert server.count(b"CLUSTER") + other.count(b"CLUSTER") <= 3


async def test_ask_is_followed_once_with_asking_right_before_it(
    server: FakeServer, make_client: MakeClient
) -> None:
    async with FakeServer() as other:
        server.answer = Replies(b"-ASK 866 %s:%d\r\n" % (HOST.encode(), other.port), bulk("ours"))
        other.answer = Replies(bulk("theirs"))
        client = make_client(server.port)
        assert await client.get("hello") == b"theirs"
        assert await client.get("hello") == b"ours"
        assert [request[0] for request in other.requests][-2:] == [b"ASKING", b"GET"]
        assert client.stats().redirects_ask == 1


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal",
    ["TRYAGAIN Multiple keys request", "CLUSTERDOWN The cluster is down", "LOADING loading the dataset",
     "MASTERDOWN Link", "READONLY You can't write",
     "BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
     "ERR max number of clients reached",
     "UNBLOCKED force unblock from blocking operation"],
)  # fmt: skip
async def test_what_was_refused_unexecuted_is_tried_again_also_writes(
    server: FakeServer, make_client: MakeClient, refusal: str
) -> None:
    server.answer = Replies(*[f"-{refusal}\r\n".encode()] * 3, b":1\r\n")
    client = make_client(server.port)
    assert await client.incr("hello") == 1
    assert client.stats().retries == 3


@pytest.mark.parametrize(
    ("refusal", "error"), [("READONLY no", ReadOnlyError), ("CLUSTERDOWN no", ClusterDownError)]
)
async def test_a_refusal_that_lasts_is_the_answer_at_the_deadline(
    server: FakeServer, make_client: MakeClient, refusal: str, error: type[Exception]
) -> None:
    server.answer = lambda request: f"-{refusal}\r\n".encode() if request[0] == b"SET" else None
    client = make_client(server.port, socket_timeout=0.3)
    await client
    begun = time.monotonic()
    with pytest.raises(error):
        await client.set("hello", 1)
    assert time.monotonic() - begun <= 0.4
    assert server.count(b"SET") < 30


# -- lost replies and garbage --------------------------------------------------------------------------------


async def test_a_lost_reply_repeats_reads_and_leaves_writes_unknown(
    server: FakeServer, make_client: MakeClient
) -> None:
    def lose_the_first_of_each(request: list[bytes]) -> bytes | None:
        if request[0] in (b"GET", b"INCRBY", b"SET") and request[0] not in seen:
            seen.add(request[0])
            return HANG_UP
        return {b"GET": bulk("v"), b"INCRBY": b":1\r\n"}.get(request[0])

    seen: set[bytes] = set()
    server.answer = lose_the_first_of_each
    client = make_client(server.port)
    assert await client.get("hello") == b"v"
    with pytest.raises(OutcomeUnknown, match=r"INCRBY was sent .* it may have run, once"):
        await client.incr("hello")
    assert server.count(b"INCRBY") == 1
    assert await client.with_options(idempotent=True).set("hello", 1) is True
    assert server.count(b"SET") == 2


async def test_retry_always_is_redis_pys_way(server: FakeServer, make_client: MakeClient) -> None:
    def lose_the_first(request: list[bytes]) -> bytes | None:
        if request[0] == b"INCRBY" and server.count(b"INCRBY") == 1:
            return HANG_UP
        return b":2\r\n" if request[0] == b"INCRBY" else None

    server.answer = lose_the_first
    assert await make_client(server.port, retry="always").incr("hello") == 2
    assert server.count(b"INCRBY") == 2


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 200 OK\r\n\r\n", b"*1\r\n" * 100_000, b"*4000000000\r\n"])
async def test_garbage_is_one_lost_connection(
    server: FakeServer, make_client: MakeClient, garbage: bytes
) -> None:
    server.answer = Replies(garbage, bulk("v"))
    client = make_client(server.port)
    assert await client.get("hello") == b"v"
    assert sum(node.connections_lost for node in client.stats().nodes) == 1


async def test_connections_that_end_at_once_are_not_made_in_a_storm(
    server: FakeServer, make_client: MakeClient
) -> None:
    server.answer = lambda request: HANG_UP if request[0] == b"GET" else None
    client = make_client(server.port, socket_timeout=1.0)
    with pytest.raises(RedisConnectionError):
        await client.get("hello")
    assert server.connections_made < 30


# -- ready, or why not ---------------------------------------------------------------------------------------


async def test_refused_is_a_reason(make_client: MakeClient) -> None:
    first, second = free_ports(2)
    client = make_client(first, startup_nodes=[redis_node(second)], socket_connect_timeout=0.3)
    begun = time.monotonic()
    with pytest.raises(ClusterNotReady, match=r"Connect call failed|refused") as failure:
        await client
    assert time.monotonic() - begun < 1.0
    assert set(failure.value.reasons) == {f"127.0.0.1:{first}", f"127.0.0.1:{second}"}
    assert re.search(r"\(waited 0\.\d\d s, \d+ tries\)$", str(failure.value))


def redis_node(port: int) -> ClusterNode:
    return ClusterNode(HOST, port)


async def test_a_dead_first_address_costs_next_to_nothing(
    make_client: MakeClient, cluster: EmbeddedCluster
) -> None:
    (dead,) = free_ports(1)
    startup = [redis_node(dead), redis_node(cluster.nodes[0].port)]
    begun = time.monotonic()
    assert await make_client(dead, startup_nodes=startup).ping()
    assert time.monotonic() - begun < 0.5


async def test_a_silent_first_address_costs_little(make_client: MakeClient, cluster: EmbeddedCluster) -> None:
    silent = FaultProxy(cluster.nodes[0].port)
    await silent.start()
    silent.silent_down = True
    client = make_client(silent.port, startup_nodes=[redis_node(cluster.nodes[0].port)])
    begun = time.monotonic()
    assert await client.ping()
    assert time.monotonic() - begun < 1.0
    await client.aclose()
    await silent.stop()


async def test_a_wrong_password_is_a_reason(make_client: MakeClient, cluster: EmbeddedCluster) -> None:
    client = make_client(
        cluster.nodes[0].port, username="nobody", password="wrong", socket_connect_timeout=0.3
    )
    with pytest.raises(ClusterNotReady, match=r"WRONGPASS|invalid username-password"):
        await client


async def test_a_missing_password_is_a_reason(server: FakeServer, make_client: MakeClient) -> None:
    server.answer = lambda request: b"-NOAUTH HELLO must be called with the client already authenticated\r\n"
    with pytest.raises(ClusterNotReady, match="HELLO must be called"):
        await make_client(server.port, socket_connect_timeout=0.2)


async def test_the_time_and_the_tries_of_a_start_are_those_that_were(
    server: FakeServer, make_client: MakeClient
) -> None:
    server.answer = lambda request: b"-ERR no\r\n" if request[0] == b"CLUSTER" else None
    with pytest.raises(ClusterNotReady, match=r"\(waited 0\.\d\d s, \d+ tries\)"):
        await make_client(server.port, socket_connect_timeout=0.4)


async def test_not_a_cluster_is_a_reason(server: FakeServer, make_client: MakeClient) -> None:
    disabled = b"-ERR This instance has cluster support disabled\r\n"
    server.answer = lambda request: disabled if request[0] == b"CLUSTER" else None
    with pytest.raises(ClusterNotReady, match="cluster support disabled"):
        await make_client(server.port, socket_connect_timeout=0.2)


async def test_silence_is_a_reason(server: FakeServer, make_client: MakeClient) -> None:
    server.answer = lambda request: SILENCE if request[0] == b"CLUSTER" else None
    with pytest.raises(ClusterNotReady, match="not answered before its deadline"):
        await make_client(server.port, socket_connect_timeout=0.3)


@pytest.mark.parametrize("reply", [b"+PONG\r\n", b"*1\r\n:7\r\n", b"*0\r\n", b"$-1\r\n"])
async def test_a_map_that_is_none_is_a_reason(
    server: FakeServer, make_client: MakeClient, reply: bytes
) -> None:
    server.answer = lambda request: reply if request[0] == b"CLUSTER" else None
    with pytest.raises(ClusterNotReady, match=r"in a form that is not understood|knows of no slots"):
        await make_client(server.port, socket_connect_timeout=0.2)


async def test_a_cluster_with_holes_is_not_ready_unless_that_is_enough(
    server: FakeServer, make_client: MakeClient
) -> None:
    server.answer = lambda request: (
        server.slots((0, 9999, HOST, server.port)) if request[0] == b"CLUSTER" else None
    )
    with pytest.raises(ClusterNotReady, match="6384 of 16384 slots have no primary"):
        await make_client(server.port, socket_connect_timeout=0.2)
    client = make_client(server.port, require_full_coverage=False, socket_timeout=0.2)
    assert await client.set("hello", 1)  # slot 866
    with pytest.raises(SlotNotServed, match="slot 12182 had no owner") as failure:
        await client.set("foo", 1)
    assert isinstance(failure.value, ClusterNotReady)
    assert isinstance(failure.value, ClusterDownError)


async def test_a_cluster_that_becomes_ready_in_time_is_waited_for(
    server: FakeServer, make_client: MakeClient
) -> None:
    server.answer = lambda request: (
        server.slots((0, 9999, HOST, server.port))
        if request[0] == b"CLUSTER" and server.count(b"CLUSTER") < 4
        else None
    )
    assert await make_client(server.port).set("foo", 1)


async def test_a_map_with_a_null_host_is_used(server: FakeServer, make_client: MakeClient) -> None:
    server.answer = lambda request: (
        server.slots((0, 16383, None, server.port)) if request[0] == b"CLUSTER" else None
    )
    client = make_client(server.port)
    assert await client.set("foo", 1)
    assert [node.name for node in client.get_nodes()] == [f"{HOST}:{server.port}"]


async def test_ipv6(make_client: MakeClient, own_ipv6_server: int) -> None:
    client = make_client(own_ipv6_server, host="::1")
    assert await client.set("a", 1)
    assert client.get_nodes()[0].name == f"::1:{own_ipv6_server}"


@pytest.fixture
async def own_ipv6_server() -> AsyncIterator[int]:
    fake = FakeServer()
    try:
        listener = await asyncio.get_running_loop().create_server(lambda: _Connection(fake), "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    fake.port = listener.sockets[0].getsockname()[1]
    fake.answer = lambda request: (
        fake.slots((0, 16383, "::1", fake.port)) if request[0] == b"CLUSTER" else None
    )
    yield fake.port
    listener.close()
    fake.drop_all()
    await listener.wait_closed()


# -- life and end --------------------------------------------------------------------------------------------


async def test_who_gives_up_while_the_client_opens_does_not_end_it_for_others(
    make_client: MakeClient, cluster: EmbeddedCluster
) -> None:
    client = make_client(cluster.nodes[0].port)
    callers = [asyncio.create_task(client.ping()) for _ in range(20)]
    await asyncio.sleep(0)
    for caller in callers[:19]:
        caller.cancel()
    await asyncio.gather(*callers[:19], return_exceptions=True)
    assert await callers[19]


async def test_closing_while_it_opens_tells_who_waits(server: FakeServer, make_client: MakeClient) -> None:
    server.answer = lambda request: SILENCE if request[0] == b"CLUSTER" else None
    client = make_client(server.port)
    callers = [asyncio.create_task(client.get("a")) for _ in range(3)]
    await asyncio.sleep(0.02)
    await client.aclose()
    for caller in callers:
        with pytest.raises(ClientClosed):
            await caller


async def test_closing_at_the_first_moment_tells_who_waits(
    server: FakeServer, make_client: MakeClient
) -> None:
    client = make_client(server.port)
    caller = asyncio.create_task(client.get("a"))
    await asyncio.sleep(0)
    await client.aclose()
    with pytest.raises(ClientClosed):
        await caller


async def test_closing_with_work_in_flight_tells_everybody(
    server: FakeServer, make_client: MakeClient
) -> None:
    server.answer = lambda request: SILENCE if request[0] in (b"GET", b"INCRBY") else None
    client = make_client(server.port, in_flight_max=4)
    await client
    callers = [asyncio.create_task(call) for _ in range(4) for call in (client.get("a"), client.incr("a"))]
    await asyncio.sleep(0.02)
    await client.aclose()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [ClientClosed, OutcomeUnknown] * 2 + [ClientClosed] * 4


async def test_it_may_be_used_again_after_it_was_closed(
    make_client: MakeClient, cluster: EmbeddedCluster
) -> None:
    client = make_client(cluster.nodes[0].port)
    for _ in range(3):
        assert await client.set("again", 1)
        await client.aclose()
        await client.aclose()
        assert client.stats().nodes == ()


def test_it_may_be_used_in_one_loop_after_another(cluster: EmbeddedCluster) -> None:
    client = RedisCluster(host=HOST, port=cluster.nodes[0].port)

    async def use() -> bool:
        async with client:
            results = await asyncio.gather(*(client.set("loop", number) for number in range(10)))
        return all(results)

    assert asyncio.run(use())
    assert asyncio.run(use())


async def test_a_slow_command_with_time_left_keeps_its_connection(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap, socket_timeout=0.2)
        await client.set("slow", "v")
        owner = client.get_node_from_key("slow")
        assert owner is not None
        proxy = next(proxy for proxy in network.proxies.values() if proxy.port == owner.port)
        proxy.delay_s = 2.2  # a lane that owed nothing but overdue replies would be given up after 2 s
        slow = asyncio.create_task(client.with_options(timeout_s=5).get("slow"))
        await asyncio.sleep(0)  # it goes first
        with pytest.raises(DeadlineExceeded):
            await client.get("slow")
        assert await slow == b"v"
        assert [node.last_error for node in client.stats().nodes if node.connections_lost] == []


async def test_a_server_that_never_tells_its_commands_is_given_up_in_time(
    server: FakeServer, make_client: MakeClient
) -> None:
    server.answer = lambda request: SILENCE if request[0] == b"COMMAND" else None
    begun = time.monotonic()
    with pytest.raises(ClusterNotReady, match="no node could tell its commands"):
        await make_client(server.port, socket_connect_timeout=0.5)
    assert time.monotonic() - begun < 2.0
