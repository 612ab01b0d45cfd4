"""Pipelines and transactions of `tradewind.Redis`, on the bundled server and on Redis 7.0."""

import asyncio
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import DataError, RedisError, ResponseError, WatchError

from tests.client.test_pipeline import fill
from tests.support.client_fixtures import MakeRedis
from tests.support.proxy import FaultProxy
from tests.support.server import Server
from tradewind import DeadlineExceeded, OutcomeUnknown, Redis


def in_use(client: Redis) -> int:
    """Dedicated connections that somebody holds."""
    assert client._router is not None
    return sum(node.dedicated.count - node.dedicated.idle for node in client._router.nodes)


@pytest.mark.parametrize("transaction", [False, True], ids=["plain", "transaction"])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("protocol", [2, 3], ids=["resp2", "resp3"])
async def test_the_same_results_as_redis_pys(
    server: Server, make_redis: MakeRedis, protocol: int, decode: bool, transaction: bool
) -> None:
    options: dict[str, Any] = {"protocol": protocol, "decode_responses": decode}
    ours = make_redis(server.port, **options)
    results = await fill(ours.pipeline(transaction=transaction)).mget([]).execute(raise_on_error=False)
    await ours.flushall()
    async with redis.asyncio.Redis(host="127.0.0.1", port=server.port, **options) as theirs:
        pipe = fill(theirs.pipeline(transaction=transaction)).mget([])
        expected = await pipe.execute(raise_on_error=False)
    for index, (result, value) in enumerate(zip(results, expected, strict=True)):
        assert type(result) is type(value), index
        assert result == value or isinstance(value, ResponseError), index


async def test_it_is_redis_pys_class(bundled: Server, make_redis: MakeRedis) -> None:
    client = make_redis(bundled.port, decode_responses=True)
    async with client.pipeline() as pipe:
        assert isinstance(pipe, redis.asyncio.client.Pipeline)
        assert pipe.is_transaction
        assert (len(pipe.set("a", 1).incr("a")), bool(pipe)) == (2, True)
        assert repr(pipe) == "<ServerPipeline transaction of 2 commands>"
        assert await pipe.execute() == [True, 2]
        assert await pipe.execute() == []
    assert sum(node.dedicated for node in client.stats().nodes) == 0


async def test_keys_may_be_any(bundled: Server, make_redis: MakeRedis) -> None:
    client = make_redis(bundled.port, decode_responses=True, db=3)
    pipe = client.pipeline().mset({"a": 1, "b": 2}).mget("a", "b").rename("a", "c").ping()
    assert await pipe.execute() == [True, ["1", "2"], True, True]


async def test_errors(server: Server, make_redis: MakeRedis) -> None:
    client = make_redis(server.port, decode_responses=True)
    await client.set("text", "x")
    pipe = client.pipeline()
    with pytest.raises(ResponseError, match=r"Command # 2 \(LPUSH text 1\) of pipeline caused.*WRONGTYPE"):
        await pipe.set("a", 1).lpush("text", 1).set("b", 2).execute()
    assert await client.mget("a", "b") == ["1", "2"]
    with pytest.raises(ResponseError, match=r"Command # 2 \(ZREM z\) of pipeline caused error: wrong number"):
        await pipe.set("c", 1).zrem("z").execute()
    pipe.set("c", 1)
    await pipe.discard()
    with pytest.raises(ResponseError, match="EXEC without MULTI"):
        await pipe.set("c", 1).execute()
    with pytest.raises(DataError):
        await pipe.set("c", 1).set("d", object()).execute()
    assert await client.exists("c") == 0


@pytest.mark.parametrize("transaction", [False, True])
async def test_watch(server: Server, make_redis: MakeRedis, transaction: bool) -> None:
    client = make_redis(server.port, decode_responses=True)
    await client.mset({"a": 1, "b": 2})
    async with client.pipeline(transaction=transaction) as pipe:
        assert await pipe.watch("a", "b") is True
        assert pipe.watching
        value = int(await pipe.get("a"))
        pipe.multi()
        assert await pipe.set("a", value + 1).execute() == [True]
        assert not pipe.watching
        await pipe.watch("a")
        await client.set("a", "changed")
        pipe.multi()
        with pytest.raises(WatchError, match="Watched variable changed"):
            await pipe.get("a").execute()
        await pipe.watch("a")
        await client.incr("b")
        assert await pipe.unwatch() is True
        assert not pipe.watching
        await pipe.watch("a")
        pipe.multi()
        with pytest.raises(RedisError, match="Cannot issue a WATCH after a MULTI"):
            await pipe.watch("b")
    assert in_use(client) == 0
    assert sum(node.dedicated for node in client.stats().nodes) == 1


async def test_transaction_counts_up_for_many(bundled: Server, make_redis: MakeRedis) -> None:
    client = make_redis(bundled.port, decode_responses=True, max_connections=4)

    async def count_up(pipe: Any) -> None:
        value = int(await pipe.get("n") or 0)
        pipe.multi()
        pipe.set("n", value + 1)

    await asyncio.gather(*(client.transaction(count_up, "n") for _ in range(30)))
    assert await client.get("n") == "30"
    assert await client.transaction(lambda pipe: pipe.incr("n"), value_from_callable=False) == [31]
    assert await client.with_options(idempotent=True).transaction(count_up, "n") == [True]
    assert in_use(client) == 0


async def test_scripts_in_a_pipeline_are_loaded_when_they_are_missing(
    server: Server, make_redis: MakeRedis
) -> None:
    client = make_redis(server.port)
    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    for _ in range(2):
        async with client.pipeline() as pipe:
            await script(keys=["a"], args=[5], client=pipe)
            pipe.get("a")
            value = int((await pipe.execute())[1])
        await client.script_flush()
    assert value == 10


async def test_a_transaction_whose_reply_is_lost_runs_once(bundled: Server, make_redis: MakeRedis) -> None:
    proxy = FaultProxy(bundled.port)
    await proxy.start()
    client = make_redis(proxy.port)
    await client.get("a")
    proxy.lose_reply = lambda data: b"QUEUED" in data
    with pytest.raises(OutcomeUnknown):
        await client.pipeline().incr("a").execute()
    proxy.heal()
    assert await client.get("a") == b"1"
    await client.aclose()
    await proxy.stop()


async def test_a_watch_that_was_lost_is_not_forgotten(bundled: Server, make_redis: MakeRedis) -> None:
    """A read that met its deadline: what follows it does not run unwatched over another client's write."""
    proxy = FaultProxy(bundled.port)
    await proxy.start()
    client = make_redis(proxy.port, decode_responses=True, socket_timeout=0.5)
    other = make_redis(bundled.port, decode_responses=True)

    async def lose(pipe: Any) -> None:
        await pipe.watch("a")
        proxy.silent_down = True
        with pytest.raises(DeadlineExceeded):
            await pipe.get("a")
        proxy.heal()
        proxy.reset_all()
        await other.set("a", "of another")

    async with client.pipeline() as pipe:
        await lose(pipe)
        for _ in range(2):
            with pytest.raises(WatchError, match=r"watch was lost .DeadlineExceeded: .*nothing was executed"):
                await pipe.get("a")
        pipe.multi()
        with pytest.raises(WatchError, match="watch was lost"):
            await pipe.set("a", "overwritten").execute()
        assert await other.get("a") == "of another"
        for end in (pipe.reset, pipe.unwatch):
            await lose(pipe)
            await end()
            assert await pipe.set("b", 1).execute() == [True]
        await lose(pipe)
        await pipe.watch("a")
        pipe.multi()
        assert await pipe.set("a", "mine").execute() == [True]
    assert in_use(client) == 0
    await client.aclose()
    await proxy.stop()
