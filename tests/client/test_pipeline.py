"""Pipelines: many calls written down, then made together, each on its own way."""

import asyncio
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import DataError, RedisClusterException, ResponseError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle
from tradewind import RedisCluster


def fill(pipe: Any) -> Any:
    """Calls with options and callbacks of their own, all in one slot."""
    pipe.set("{p}s", "valü").get("{p}s").get("{p}none").set("{p}s", "x", nx=True).set("{p}s", 1, get=True)
    pipe.hset("{p}h", mapping={"a": 1, "b": 2.5}).hgetall("{p}h").hmget("{p}h", "a", "z").hscan("{p}h")
    pipe.zadd("{p}z", {"m": 1.5, "n": 2}).zrange("{p}z", 0, -1, withscores=True).zscore("{p}z", "m")
    pipe.zpopmin("{p}z").sadd("{p}set", "a").sismember("{p}set", "a").smembers("{p}set")
    pipe.rpush("{p}l", "1", "2").lpush("{p}s", 1).lrange("{p}l", 0, -1).lpop("{p}l")
    pipe.xadd("{p}x", {"f": "v"}, id="1-1").xrange("{p}x").xread({"{p}x": 0}).xinfo_stream("{p}x")
    pipe.expire("{p}s", 100).type("{p}s").exists("{p}s").delete("{p}l")
    pipe.geoadd("{p}g", (13.36, 38.11, "p")).geopos("{p}g", "p").incrbyfloat("{p}f", 1.5)
    pipe.eval("return {KEYS[1], 7, false}", 1, "{p}e").object("ENCODING", "{p}s")
    return pipe.execute_command("MGET", "{p}s", "{p}none")


@pytest.mark.parametrize("transaction", [False, True], ids=["plain", "transaction"])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("protocol", [2, 3], ids=["resp2", "resp3"])
async def test_the_same_results_as_redis_pys(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, protocol: int, decode: bool, transaction: bool
) -> None:
    options: dict[str, Any] = {"protocol": protocol, "decode_responses": decode}
    ours = make_client(clean_cluster.nodes[0].port, **options)
    results = await fill(ours.pipeline(transaction=transaction)).execute(raise_on_error=False)
    await ours.flushall(target_nodes=RedisCluster.PRIMARIES)
    async with redis.asyncio.RedisCluster(
        host="127.0.0.1", port=clean_cluster.nodes[0].port, **options
    ) as theirs:
        # Not as a transaction: there some of these fail in redis-py ("attached to a different loop").
        expected = await fill(theirs.pipeline()).execute(raise_on_error=False)
    for index, (result, value) in enumerate(zip(results, expected, strict=True)):
        assert type(result) is type(value), index
        assert result == value or isinstance(value, ResponseError), index


async def test_pipelines(client: RedisCluster) -> None:
    async with client.pipeline() as pipe:
        pipe.set("p:a", 1).set("p:b", 2).get("p:a").get("p:b").hset("p:h", "f", "v").hgetall("p:h")
        assert len(pipe) == 6
        assert bool(pipe)
        assert await pipe.execute() == [True, True, "1", "2", 1, {"f": "v"}]
        assert await pipe.execute() == []
        pipe.mset_nonatomic({"p:x": 1, "p:y": 2}).delete("p:x", "p:y")
        assert await pipe.execute() == [True, True, 1, 1]


async def test_a_pipeline_keeps_the_order_of_one_key(client: RedisCluster) -> None:
    pipe = client.pipeline()
    for number in range(5000):
        pipe.rpush("p:list", number)
    await pipe.execute()
    assert await client.lrange("p:list", 0, -1) == [str(number) for number in range(5000)]


async def test_an_error_in_a_pipeline_names_its_command_and_harms_no_other(client: RedisCluster) -> None:
    await client.set("p:text", "x")
    pipe = client.pipeline().set("p:1", 1).lpush("p:text", 1).set("p:2", 2)
    with pytest.raises(
        ResponseError, match=r"Command # 2 \(LPUSH p:text 1\) of pipeline caused error: WRONGTYPE"
    ):
        await pipe.execute()
    assert await client.mget_nonatomic("p:1", "p:2") == ["1", "2"]
    pipe.set("p:1", 1).lpush("p:text", 1)
    first, second = await pipe.execute(raise_on_error=False)
    assert first is True
    assert isinstance(second, ResponseError)


async def test_a_command_that_cannot_be_sent_harms_no_other(client: RedisCluster) -> None:
    pipe = client.pipeline().set("p:1", 1).set("p:2", object()).execute_command("MGET", "p:1", "p:2")
    first, second, third = await pipe.execute(raise_on_error=False)
    assert first is True
    assert isinstance(second, DataError)
    assert isinstance(third, RedisClusterException)


async def test_commands_for_named_nodes(client: RedisCluster) -> None:
    async with client.pipeline() as pipe:
        primaries = client.get_primaries()
        pipe.execute_command("CLUSTER MYID", target_nodes=primaries[0])
        pipe.execute_command("PING", target_nodes=RedisCluster.PRIMARIES).set("p:1", 1)
        pipe.execute_command("BLPOP", "p:none", 0.01)
        name, pong, done, nothing = await pipe.execute()
    assert len(name) == 40
    assert (pong, done, nothing) == (True, True, None)


async def test_the_limits_hold_for_pipelines(clean_cluster: EmbeddedCluster, make_client: MakeClient) -> None:
    client = make_client(clean_cluster.nodes[0].port, in_flight_max=8)
    await client
    pipe = client.pipeline()
    for number in range(2000):
        pipe.incr(f"p:{number % 100}")
    running = asyncio.create_task(pipe.execute())
    highest = 0
    while not running.done():
        highest = max(highest, *(node.in_flight for node in client.stats().nodes))
        await asyncio.sleep(0)
    assert sorted(running.result()) == sorted(list(range(1, 21)) * 100)
    assert 0 < highest <= 8
    assert client.stats().waits > 1000


async def test_a_pipeline_makes_no_task_for_a_command(client: RedisCluster) -> None:
    await client.set("p:a", 1)
    pipe = client.pipeline()
    for number in range(1000):
        pipe.set(f"p:{number}", 1).zrange("p:z", 0, -1, withscores=True).delete(f"p:{number}")
    before = len(asyncio.all_tasks())
    running = asyncio.create_task(pipe.execute())
    most = 0
    while not running.done():
        most = max(most, len(asyncio.all_tasks()))
        await asyncio.sleep(0)
    assert most <= before + 3
    assert len(running.result()) == 3000


async def test_a_long_pipeline_does_not_hold_up_the_loop(client: RedisCluster) -> None:
    await client
    pipe = client.pipeline()
    for number in range(5000):
        pipe.set(f"p:{number}", 1)
    running = asyncio.create_task(pipe.execute())
    turns = 0
    while not running.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 10


async def test_a_cancelled_pipeline_gives_up_all_of_its_commands(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(clean_cluster.nodes[0].port, in_flight_max=4)
    await client
    pipe = client.pipeline()
    for number in range(500):
        pipe.set(f"p:{number}", 1).execute_command("BLPOP", f"p:list:{number % 3}", 5)
    running = asyncio.create_task(pipe.execute())
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await check_idle(client)
    assert len(pipe) == 0
    assert await client.set("p:after", 1) is True


async def test_views_keep_their_options_in_pipelines(client: RedisCluster) -> None:
    assert await client.durable().pipeline().set("p:a", 1).incr("p:a").execute() == [True, 2]
    assert await client.with_options(timeout_s=3, idempotent=True).pipeline().incr("p:a").execute() == [3]


@pytest.mark.parametrize("name", ["mget", "evalsha", "publish", "flushall", "keys"])
async def test_what_redis_pys_pipeline_refuses(client: RedisCluster, name: str) -> None:
    with pytest.raises(RedisClusterException, match=f"Calling pipelined function {name} is blocked"):
        getattr(client.pipeline(), name)()
    pipe = client.pipeline()
    for refused in (pipe.watch("a"), pipe.unwatch(), pipe.discard()):
        with pytest.raises(RedisClusterException, match="not supported outside of transactional context"):
            await refused
    with pytest.raises(RedisClusterException, match="not supported outside of transactional context"):
        pipe.multi()
    with pytest.raises(RedisClusterException, match="shard_hint"):
        client.pipeline(shard_hint="x")
