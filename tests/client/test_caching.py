"""Reads from memory: races with what servers tell, on a scripted server; and what real servers make of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import DataError, ResponseError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.fake_server import HOST, FakeServer, array, bulk
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually
from tradewind import RedisCluster
from tradewind.client.cache import CacheOptions
from tradewind.client.errors import DeadlineExceeded

KEY = "{cache}:key"


def told(*keys: str) -> bytes:
    """The push message of a server whose keys have changed."""
    return b">2\r\n" + bulk("invalidate") + (array(*map(bulk, keys)) if keys else b"_\r\n")


# -- races ---------------------------------------------------------------------------------------------------


async def _asked(
    make_client: MakeClient, answer: Callable[[list[bytes]], bytes | None], **options: Any
) -> tuple[list[Any], FakeServer]:
    """What two reads get, one after the other, and the server that they asked."""
    async with FakeServer(answer) as server:
        client = make_client(server.port, protocol=3, **options)
        view = client.cached()
        replies = await asyncio.gather(view.get("a"), return_exceptions=True)
        replies += await asyncio.gather(view.get("a"), return_exceptions=True)
        await client.aclose()
        return replies, server


@pytest.mark.parametrize(
    ("reply", "asked"),
    [
        (bulk("1"), 1),
        (told("a") + bulk("1"), 2),
        (bulk("1") + told("a"), 2),
        (told() + bulk("1"), 2),
        (bulk("1") + told(), 2),
        (told("b", "c") + bulk("1") + told("d"), 1),
        (b"_\r\n", 1),
    ],
    ids=["untold", "before", "after", "all-before", "all-after", "others", "missing-key"],
)
@pytest.mark.parametrize("decode_responses", [False, True])
async def test_what_a_server_tells_around_a_reply_wins(
    make_client: MakeClient, reply: bytes, asked: int, decode_responses: bool
) -> None:
    replies, server = await _asked(
        make_client,
        lambda request: reply if request[0] == b"GET" else None,
        decode_responses=decode_responses,
    )
    value = None if reply == b"_\r\n" else "1" if decode_responses else b"1"
    assert replies == [value, value]
    assert server.count(b"GET") == asked


async def test_the_word_stands_right_before_each_read(make_client: MakeClient) -> None:
    _, server = await _asked(
        make_client, lambda request: told("a") + bulk("1") if request[0] == b"GET" else None
    )
    words = [b" ".join(request[:3]) for request in server.requests]
    assert words[words.index(b"CLIENT TRACKING ON") :] == [
        b"CLIENT TRACKING ON", b"CLIENT CACHING YES", b"GET a", b"CLIENT CACHING YES", b"GET a",
    ]  # fmt: skip


@pytest.mark.parametrize("word", [b"TRACKING", b"CACHING"])
async def test_what_a_server_will_not_tell_of_is_not_kept(make_client: MakeClient, word: bytes) -> None:
    def answer(request: list[bytes]) -> bytes | None:
        if request[0] == b"CLIENT" and request[1] in (word, b"CACHING"):
            return b"-NOPERM this user has no permissions\r\n"
        return bulk("1") if request[0] == b"GET" else None

    replies, server = await _asked(make_client, answer)
    assert replies == [b"1", b"1"]
    assert server.count(b"GET") == 2


async def test_errors_are_not_kept(make_client: MakeClient) -> None:
    replies, server = await _asked(
        make_client, lambda request: b"-WRONGTYPE no\r\n" if request[0] == b"GET" else None
    )
    assert [type(reply) for reply in replies] == [ResponseError, ResponseError]
    assert server.count(b"GET") == 2


async def test_what_was_read_over_a_lost_connection_is_dropped(make_client: MakeClient) -> None:
    async with FakeServer(lambda request: bulk("1") if request[0] == b"GET" else None) as server:
        client = make_client(server.port, protocol=3)
        view = client.cached()
        assert [await view.get("a") for _ in range(3)] == [b"1"] * 3
        assert server.count(b"GET") == 1
        server.drop_all()
        await eventually(lambda: not client.stats().cache.entries)
        assert [await view.get("a") for _ in range(3)] == [b"1"] * 3
        assert server.count(b"GET") == 2
        assert server.requests.count([b"CLIENT", b"TRACKING", b"ON", b"OPTIN"]) == 2
        await client.aclose()


async def test_one_fetch_serves_all_who_wait_whoever_gives_up(make_client: MakeClient) -> None:
    async with FakeServer(lambda request: bulk("1") if request[0] == b"GET" else None) as server:
        proxy = FaultProxy(server.port)
        await proxy.start()
        client = make_client(server.port, protocol=3, address_remap=lambda _address: (HOST, proxy.port))
        await client.set("b", "1")
        proxy.silent_down = True
        first, second, *others = [asyncio.create_task(client.cached().get("a")) for _ in range(100)]
        impatient = asyncio.create_task(client.with_options(timeout_s=0.1, cache_ttl_s=60).get("a"))
        await eventually(lambda: server.count(b"GET") == 1)
        first.cancel()
        second.cancel()
        with pytest.raises(DeadlineExceeded, match="waited for another caller's"):
            await impatient
        assert not any(other.done() for other in others)
        proxy.reset_all()
        proxy.heal()
        assert await asyncio.gather(*others) == [b"1"] * 98
        assert server.count(b"GET") == 2, "once more, since the connection ended"
        await client.aclose()
        await proxy.stop()


async def test_a_fetch_that_was_given_up_by_its_only_caller_is_kept(make_client: MakeClient) -> None:
    async with FakeServer(lambda request: bulk("1") if request[0] == b"GET" else None) as server:
        client = make_client(server.port, protocol=3)
        await client.set("b", "1")
        read = asyncio.create_task(client.cached().get("a"))
        await asyncio.sleep(0)
        read.cancel()
        await eventually(lambda: client.stats().cache.entries == 1)
        assert await client.cached().get("a") == b"1"
        assert server.count(b"GET") == 1
        await client.aclose()


# -- real servers --------------------------------------------------------------------------------------------


@pytest.fixture
def reader(make_client: MakeClient, clean_cluster: EmbeddedCluster) -> RedisCluster:
    return make_client(clean_cluster.nodes[0].port, protocol=3, decode_responses=True)


@pytest.fixture
def writer(make_client: MakeClient, clean_cluster: EmbeddedCluster) -> RedisCluster:
    return make_client(clean_cluster.nodes[0].port, decode_responses=True)


async def test_what_others_write_is_told(reader: RedisCluster, writer: RedisCluster) -> None:
    view = reader.cached()
    await writer.hset("hash", mapping={"field": "1"})
    await writer.set(KEY, "1")
    assert [await view.get(KEY) for _ in range(10)] == ["1"] * 10
    assert [await view.hgetall("hash") for _ in range(10)] == [{"field": "1"}] * 10
    assert reader.stats().cache.hits == 18
    changes: list[tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]], Any]] = [
        (lambda: writer.set(KEY, "2"), lambda: view.get(KEY), "2"),
        (lambda: writer.hset("hash", "field", "2"), lambda: view.hgetall("hash"), {"field": "2"}),
        (lambda: writer.pexpire(KEY, 1), lambda: view.get(KEY), None),
        (lambda: writer.flushall(target_nodes=RedisCluster.PRIMARIES), lambda: view.hgetall("hash"), {}),
    ]
    for change, read, value in changes:
        await read()
        await change()

        async def is_told(read: Callable[[], Awaitable[Any]] = read, value: Any = value) -> bool:
            return bool(await read() == value)

        await eventually(is_told)


async def test_own_writes_are_seen_at_once(reader: RedisCluster) -> None:
    view = reader.cached()
    ways: list[Callable[[str], Awaitable[Any]]] = [
        lambda value: reader.set(KEY, value),
        lambda value: view.set(KEY, value),
        lambda value: reader.durable().set(KEY, value),
        lambda value: reader.mset({KEY: value, "{cache}:other": value}),
        lambda value: reader.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, KEY, value),
        lambda value: reader.pipeline().set(KEY, value).execute(),
        lambda value: reader.pipeline(transaction=True).set(KEY, value).execute(),
    ]
    for number in range(20):
        for way, write in enumerate(ways):
            await write(f"{way}:{number}")
            assert await view.get(KEY) == f"{way}:{number}"
        reader.post("SET", KEY, "posted")
        assert await view.get(KEY) == "posted"


async def test_only_what_was_asked_for_is_kept(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    options = CacheOptions(prefixes=("config:",), entries_max=3, ttl_s=30.0)
    client = make_client(clean_cluster.nodes[0].port, protocol=3, cache=options)
    await client.mset_nonatomic({f"config:{number}": number for number in range(5)})
    for _ in range(3):
        assert await client.get("config:0") == b"0"
        assert await client.get("other:0") is None
        await client.ttl("config:0")
        await client.exists("config:0")
    assert (client.stats().cache.entries, client.stats().cache.hits) == (1, 2)
    for number in range(5):
        await client.get(f"config:{number}")
    assert (client.stats().cache.entries, client.stats().cache.evictions) == (3, 2)


async def test_a_reply_is_kept_no_longer_than_its_caller_wants(reader: RedisCluster) -> None:
    await reader.cached(ttl_s=60).get(KEY)
    misses = reader.stats().cache.misses
    began_s = time.monotonic()

    async def is_asked_again() -> bool:
        await reader.cached(ttl_s=0.05).get(KEY)
        return reader.stats().cache.misses > misses

    await eventually(is_asked_again)
    assert time.monotonic() - began_s > 0.02


async def test_a_key_that_cannot_be_told_in_the_encoding_of_replies_is_not_kept(reader: RedisCluster) -> None:
    view = reader.cached()
    await reader.set(b"\xff\xfe", "1")
    assert [await view.get(b"\xff\xfe") for _ in range(3)] == ["1"] * 3
    assert reader.stats().cache.entries == 0


async def test_resp2_and_single_servers_say_that_they_cannot(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    port = clean_cluster.nodes[0].port
    with pytest.raises(DataError, match="RESP3 only: pass protocol=3"):
        make_client(port, protocol=2).cached()
    with pytest.raises(DataError, match="RESP3 only: pass protocol=3"):
        RedisCluster("127.0.0.1", port, protocol=2, cache=CacheOptions())
    with pytest.raises(DataError, match="must be positive"):
        make_client(port, protocol=3).cached(ttl_s=0)


class Counters:
    """Keys that several clients count up, and what has been acknowledged when."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self.acknowledged: dict[str, list[tuple[float, int, RedisCluster]]] = {key: [] for key in keys}
        self.reads = self.writes = 0

    async def write(self, client: RedisCluster, key: str) -> None:
        value = await client.incr(key)
        self.acknowledged[key].append((time.monotonic(), value, client))
        self.writes += 1

    async def read(self, client: RedisCluster, key: str, bound_s: float) -> None:
        now_s = time.monotonic()
        least = max(
            (value for at_s, value, by in self.acknowledged[key] if by is client or at_s < now_s - bound_s),
            default=0,
        )
        value = int(await client.cached(ttl_s=60).get(key) or 0)
        self.reads += 1
        assert value >= least, f"{key} is {value}: {least} was acknowledged before"


@pytest.mark.timeout(120)
async def test_20_000_reads_and_writes_of_two_clients_show_nothing_old(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    """Own writes at once, the other's after at most half a second."""
    clients = [make_client(clean_cluster.nodes[0].port, protocol=3) for _ in range(2)]
    counters = Counters([f"counter:{number}" for number in range(20)])

    async def work(number: int) -> None:
        client = clients[number % 2]
        for turn in range(1000):
            key = counters.keys[(number * 7 + turn * 3) % len(counters.keys)]
            if turn % 10 == number % 10:
                await counters.write(client, key)
            await counters.read(client, key, bound_s=0.5)

    await asyncio.gather(*(work(number) for number in range(20)))
    assert counters.reads == 20_000
    assert counters.writes == 2_000
    assert sum(client.stats().cache.hits for client in clients) > 5_000
