"""In the place of redis.asyncio.RedisCluster: the same class, calls and values."""

import asyncio
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import DataError, RedisClusterException

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import keys_of_each_shard
from tradewind import RedisCluster, SharedConnectionError


async def test_it_is_redis_pys_class(client: RedisCluster) -> None:
    assert isinstance(client, redis.asyncio.RedisCluster)
    assert await client is client


# The same calls by both clients, and the same values back: text or bytes, RESP2 or RESP3.
CALLS: list[tuple[Any, ...]] = [
    ("SET", "{d}s", "valü"), ("GET", "{d}s"), ("GET", "{d}none"), ("SET", "{d}s", "x", "NX"),
    ("STRLEN", "{d}s"),    ("HSET", "{d}h", "a", 1, "b", 2.5), ("HGETALL", "{d}h"), ("HMGET", "{d}h", "a",
    "z"),
    ("HSCAN", "{d}h", 0),    ("ZADD", "{d}z", 1.5, "m", 2, "n"), ("ZRANGE", "{d}z", 0, -1, "WITHSCORES"),
    ("ZSCORE", "{d}z", "m"),
    ("ZPOPMIN", "{d}z"), ("SADD", "{d}set", "a", "b"), ("SISMEMBER", "{d}set", "a"), ("SMEMBERS", "{d}set"),
    ("RPUSH", "{d}l", "1", "2", "3"), ("LRANGE", "{d}l", 0, -1), ("BLPOP", "{d}l", 1), ("LPOP", "{d}l", 2),
    ("XADD", "{d}x", "1-1", "f", "v"), ("XRANGE", "{d}x", "-", "+"), ("XREAD", "STREAMS", "{d}x", "0"),
    ("XINFO STREAM", "{d}x"), ("XLEN", "{d}x"), ("EXPIRE", "{d}s", 100), ("TYPE", "{d}s"), ("EXISTS", "{d}s"),
    ("GEOADD", "{d}g", 13.36, 38.11, "p"), ("GEOPOS", "{d}g", "p"), ("GEODIST", "{d}g", "p", "p"),
    ("EVAL", "return {KEYS[1], ARGV[1], 7, false}", 1, "{d}e", "v"), ("OBJECT ENCODING", "{d}s"),
    ("MSET", "{d}m1", 1, "{d}m2", 2), ("MGET", "{d}m1", "{d}m2", "{d}m3"), ("INCRBYFLOAT", "{d}f", 1.5),
    ("SETBIT", "{d}bit", 7, 1), ("BITCOUNT", "{d}bit"), ("COPY", "{d}m1", "{d}m4"),
    ("get", "{d}s"), ("CLUSTER KEYSLOT", "{d}s"), ("PING",), ("DBSIZE",), ("CONFIG GET", "maxmemory-policy"),
]  # fmt: skip


@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("protocol", [2, 3, None], ids=["resp2", "resp3", "default"])
async def test_the_same_values_as_redis_py(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, protocol: int | None, decode: bool
) -> None:
    options: dict[str, Any] = {"protocol": protocol, "decode_responses": decode}
    ours = make_client(clean_cluster.nodes[0].port, **options)
    answers = [await _answer(ours, call) for call in CALLS]
    await ours.flushall(target_nodes=RedisCluster.PRIMARIES)
    async with redis.asyncio.RedisCluster(
        host="127.0.0.1", port=clean_cluster.nodes[0].port, **options
    ) as theirs:
        expected = [await _answer(theirs, call) for call in CALLS]
    for call, answer, value in zip(CALLS, answers, expected, strict=True):
        assert answer == value, call
        assert type(answer) is type(value), call


async def _answer(client: redis.asyncio.RedisCluster, call: tuple[Any, ...]) -> Any:
    return await client.execute_command(*call)


async def test_the_command_methods(client: RedisCluster) -> None:
    assert await client.set("m", 1, ex=10, nx=True) is True
    assert await client.set("m", 2, nx=True) is None
    assert await client.set("m", 2, xx=True, get=True) == "1"
    assert await client.get("m") == "2"
    assert await client.incrby("m", 5) == 7
    assert await client.hset("mh", mapping={"a": 1}) == 1
    assert await client.hgetall("mh") == {"a": "1"}
    assert await client.zadd("mz", {"a": 1, "b": 2}) == 2
    assert await client.zrange("mz", 0, -1, withscores=True) == [("a", 1.0), ("b", 2.0)]
    assert await client.xadd("mx", {"f": "v"}, id="5-0") == "5-0"
    assert await client.xread({"mx": 0}) == [["mx", [("5-0", {"f": "v"})]]]
    assert await client.xread({"mx": "$"}, block=10) == []
    assert (await client.info("replication", target_nodes=client.get_default_node()))["role"] == "master"
    assert await client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert await client.time(target_nodes=client.get_default_node())


async def test_commands_over_several_slots(client: RedisCluster) -> None:
    values = {f"multi:{number}": str(number) for number in range(50)}
    assert all(await client.mset_nonatomic(values))
    assert await client.mget_nonatomic(list(values)) == list(values.values())
    assert await client.exists(*values) == 50
    assert await client.touch(*values) == 50
    assert await client.unlink(*list(values)[:10]) == 10
    assert await client.delete(*values) == 40
    with pytest.raises(RedisClusterException, match="same key slot"):
        await client.mget("multi:1", "multi:2")


async def test_nodes_as_redis_py_shows_them(client: RedisCluster) -> None:
    await client
    assert (len(client.get_nodes()), len(client.get_primaries()), len(client.get_replicas())) == (6, 3, 3)
    node = client.get_node_from_key("k")
    assert node is not None
    assert node in client.get_primaries()
    assert client.get_node(node_name=node.name) is node
    assert client.get_node(host=node.host, port=node.port) is node
    assert client.get_node_from_key("k", replica=True) in client.get_replicas()
    assert client.keyslot("k") == 7629
    assert client.get_default_node() in client.get_primaries()
    client.set_default_node(client.get_primaries()[1])
    assert client.get_default_node() is client.get_primaries()[1]
    assert client.get_connection_kwargs()["decode_responses"] is True
    assert set(client.nodes_manager.startup_nodes) == {node.name for node in client.get_nodes()}


async def test_target_nodes(client: RedisCluster) -> None:
    await client
    assert await client.ping(target_nodes=RedisCluster.ALL_NODES) is True
    primaries = client.get_primaries()
    sizes = await client.dbsize(target_nodes=primaries)
    assert sizes == 0
    reply = await client.execute_command("CLUSTER MYID", target_nodes=primaries[0])
    assert len(reply) == 40
    infos = await client.info("server", target_nodes={node.name: node for node in primaries})
    assert set(infos) == {node.name for node in primaries}
    assert set(await client.client_id(target_nodes=RedisCluster.REPLICAS)) == {
        n.name for n in client.get_replicas()
    }
    with pytest.raises(TypeError, match="target_nodes"):
        await client.ping(target_nodes=7)


async def test_keys_and_scans_cover_every_shard(client: RedisCluster) -> None:
    names = {f"scan:{number}" for number in range(300)}
    await asyncio.gather(*(client.set(name, 1) for name in names))
    assert {key async for key in client.scan_iter("scan:*", count=50)} == names
    assert set(await client.keys("scan:*", target_nodes=RedisCluster.PRIMARIES)) == names
    assert await client.dbsize(target_nodes=RedisCluster.PRIMARIES) == 300
    assert await client.dbsize() < 300  # of the default node alone, as in redis-py
    await client.flushall()
    assert await client.dbsize(target_nodes=RedisCluster.PRIMARIES) == 0
    assert await client.publish("nobody", "x") == 0


@pytest.mark.parametrize(
    "call",
    [("MULTI",), ("multi",), ("WATCH", "a"), ("SUBSCRIBE", "c"), ("SELECT", 1), ("WAIT", 1, 0),
     ("CLIENT", "REPLY", "OFF"),     ("CLIENT", b"TRACKING", "ON"), ("CLIENT REPLY", "OFF"), ("HELLO", 3),
     ("RESET",), ("MONITOR",),
     ("SCRIPT", "DEBUG", "YES")],
    ids=str,
)  # fmt: skip
async def test_what_would_harm_others_on_the_connection_is_refused(
    client: RedisCluster, call: tuple[Any, ...]
) -> None:
    with pytest.raises(SharedConnectionError, match="many callers share"):
        await client.execute_command(*call, target_nodes=RedisCluster.RANDOM)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_value_that_does_not_decode_harms_nobody_else(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, protocol: int
) -> None:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True, protocol=protocol)
    await client.set("{u}bytes", b"\xff\xfe")
    await client.set("{u}text", "fine")
    results = await asyncio.gather(
        *(client.get(f"{{u}}{'bytes' if n % 3 == 0 else 'text'}") for n in range(300)), return_exceptions=True
    )
    assert all(isinstance(result, UnicodeDecodeError) for result in results[::3])
    assert all(result == "fine" for index, result in enumerate(results) if index % 3)
    assert (await client.dump("{u}text"))[:1] == b"\0"
    assert sum(node.connections_lost for node in client.stats().nodes) == 0


async def test_arguments_that_cannot_be_sent_are_the_callers_mistake(client: RedisCluster) -> None:
    for value in ({"a": 1}, None, object()):
        with pytest.raises(DataError):
            await client.set("a", value)  # type: ignore[arg-type]
    with pytest.raises(
        RedisClusterException, match=r"^No way to dispatch this command to Redis Cluster\. Missing"
    ):
        await client.execute_command("GET")


async def test_bytes_like_arguments_are_sent_as_bytes(client: RedisCluster) -> None:
    for kind in (bytes, bytearray, memoryview):
        assert await client.set(kind(b"a"), kind(b"view"))  # type: ignore[arg-type]
        assert await client.get(kind(b"a")) == "view"  # type: ignore[arg-type]
        await client.hset("h", kind(b"field"), kind(b"v"))  # type: ignore[arg-type]
        assert await client.hmget("h", kind(b"field")) == ["v"]  # type: ignore[arg-type]


async def test_other_encodings(clean_cluster: EmbeddedCluster, make_client: MakeClient) -> None:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True, encoding="latin-1")
    await client.set("enc:ü", "ü")
    assert await client.get("enc:ü") == "ü"
    raw = make_client(clean_cluster.nodes[0].port)
    assert await raw.get("enc:ü".encode("latin-1")) == "ü".encode("latin-1")


async def test_from_url(clean_cluster: EmbeddedCluster) -> None:
    async with RedisCluster.from_url(f"{clean_cluster.url}?decode_responses=yes", lanes=1) as client:
        assert isinstance(client, RedisCluster)
        assert await client.set("url", "1") is True
        assert await client.get("url") == "1"


async def test_views_keep_their_options_in_what_is_made_from_them(client: RedisCluster) -> None:
    durable = client.durable()
    assert await durable.set("view:a", 1) is True
    assert await durable.mset_nonatomic({f"view:{n}": n for n in range(20)}) == [True] * 20
    assert await durable.delete(*(f"view:{n}" for n in range(20))) == 20
    assert await durable.pipeline().set("view:b", 1).incr("view:b").execute() == [True, 2]
    assert await durable.register_script("return redis.call('INCR', KEYS[1])")(keys=["view:b"]) == 3
    assert repr(durable).startswith("<CallOptions(")
    for call in (durable.blpop(["view:l"], 1), durable.flushall()):
        with pytest.raises(DataError, match="cannot be durable"):
            await call


async def test_stats_and_reprs_are_readable(client: RedisCluster) -> None:
    assert client.stats().nodes == ()
    assert repr(client) == "<RedisCluster nodes=0 connections=0 in_flight=0 waiting=0>"
    keys = keys_of_each_shard(await client.initialize())
    await asyncio.gather(*(client.set(key, 1) for key in keys.values()))
    stats = client.stats()
    assert stats.slots_covered == 16384
    assert {node.role for node in stats.nodes} == {"primary", "replica"} or {"primary"}
    assert stats.connections == {node.name: node.connections for node in stats.nodes}
    assert repr(client) == f"<RedisCluster nodes={len(stats.nodes)} connections=3 in_flight=0 waiting=0>"
    router = client._router
    assert router is not None
    node = next(iter(router.nodes))
    assert repr(node).startswith(f"<Node {node.name} ")
    with pytest.raises(AttributeError):
        stats.commands = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "words",
    [
        ("CLIENT REPLY SKIP",),
        ("client reply", "off"),
        ("CLIENT", bytearray(b"REPLY"), "SKIP"),
        (" SELECT 3",),
        ("SCRIPT DEBUG YES",),
    ],
    ids=str,
)
async def test_a_command_that_would_disturb_others_is_refused_however_it_is_spelled(
    client: RedisCluster, words: tuple[Any, ...]
) -> None:
    with pytest.raises(SharedConnectionError):
        await client.execute_command(*words, target_nodes=RedisCluster.RANDOM)
