"""Scripts, functions, locks and scan iterators: redis-py's own, over every shard."""

import asyncio

import pytest
from redis.exceptions import LockError, LockNotOwnedError, NoScriptError, RedisClusterException, ResponseError

from tests.support.clients import keys_of_each_shard
from tradewind import RedisCluster
from tradewind.embedded.survey import Admin

ADD = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
LIBRARY = """#!lua name=tests
redis.register_function('put', function(keys, args) return redis.call('SET', keys[1], args[1]) end)
local function look(keys, args) return redis.call('GET', keys[1]) end
redis.register_function{function_name='look', callback=look, flags={'no-writes'}}
"""


async def test_a_script_is_loaded_where_it_is_missing(client: RedisCluster) -> None:
    script = client.register_script(ADD)
    keys = list(keys_of_each_shard(await client.initialize()).values())
    for key in keys:
        assert await script(keys=[key], args=[5]) == 5
    async with Admin((client.get_node_from_key(keys[0]) or client.get_primaries()[0]).port) as admin:
        await admin.ask("SCRIPT", "FLUSH")  # one shard has lost it
    assert await asyncio.gather(*(script(keys=[key], args=[5]) for key in keys * 5))
    assert [await client.get(key) for key in keys] == ["30"] * 3
    assert await client.script_exists(script.sha) == [True]
    await client.script_flush()
    assert await client.script_exists(script.sha) == [False]
    with pytest.raises(NoScriptError):
        await client.evalsha("f" * 40, 1, "a")


async def test_scripts_with_several_keys_none_or_too_many(client: RedisCluster) -> None:
    script = client.register_script("return #KEYS")
    assert await script(keys=["{s}a", "{s}b"]) == 2
    assert await script() == 0
    with pytest.raises(RedisClusterException, match="must map to the same"):
        await script(keys=["a", "b"])
    assert await client.eval_ro("return redis.call('GET', KEYS[1])", 1, "{s}a") is None
    with pytest.raises(ResponseError, match="Write commands are not allowed"):
        await client.eval_ro(ADD, 1, "{s}a", 1)


async def test_scripts_in_pipelines_and_transactions(client: RedisCluster) -> None:
    for transaction in (False, True):
        pipe = client.pipeline(transaction=transaction).eval(ADD, 1, "{s}a", 2).get("{s}a")
        value, text = await pipe.execute()
        assert str(value) == text
    with pytest.raises(RedisClusterException, match="evalsha is blocked"):
        await client.register_script(ADD)(keys=["{s}a"], args=[1], client=client.pipeline())
    sha = await client.script_load(ADD)
    assert await client.pipeline().execute_command("EVALSHA", sha, 1, "{s}a", 1).execute() == [5]


async def test_functions_are_on_every_primary(client: RedisCluster) -> None:
    await client.function_load(LIBRARY)
    with pytest.raises(ResponseError, match="already exists"):
        await client.function_load(LIBRARY)
    await client.function_load(LIBRARY, replace=True)
    keys = list(keys_of_each_shard(await client.initialize()).values())
    for key in keys:
        assert await client.fcall("put", 1, key, "value") == "OK"
        assert await client.fcall_ro("look", 1, key) == "value"
    pipe = client.pipeline(transaction=True).fcall("put", 1, "{s}a", 7).fcall_ro("look", 1, "{s}a")
    assert await pipe.execute() == ["OK", "7"]
    assert "tests" in str(await client.function_list())
    assert await client.function_delete("tests")
    with pytest.raises(ResponseError, match="Function not found"):
        await client.fcall("put", 1, keys[0], "value")


async def test_locks_keep_others_out(client: RedisCluster) -> None:
    inside = most = 0

    async def work(number: int) -> None:
        nonlocal inside, most
        async with client.lock("lock:a", timeout=10, sleep=0.001):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work(number) for number in range(30)))
    assert most == 1


async def test_what_a_lock_can_do(client: RedisCluster) -> None:
    lock = client.lock("lock:b", timeout=5)
    assert await lock.acquire()
    assert await lock.locked()
    assert await lock.owned()
    assert not await client.lock("lock:b", timeout=5, blocking=False).acquire()
    assert not await client.lock("lock:b", blocking_timeout=0.02, sleep=0.01).acquire()
    assert await lock.extend(10)
    assert 10_000 < await client.pttl("lock:b") <= 15_000
    assert await lock.reacquire()
    await client.set("lock:b", "somebody else")
    with pytest.raises(LockNotOwnedError):
        await lock.release()
    with pytest.raises(LockError):
        await client.lock("lock:c").release()
    async with client.durable().lock("lock:d", timeout=5) as durable:
        assert await durable.owned()


async def test_iterators_see_everything_once(client: RedisCluster) -> None:
    names = {f"scan:{number}": str(number) for number in range(500)}
    await asyncio.gather(*(client.set(name, 1) for name in names))
    await client.hset("scan:hash", mapping=names)
    await client.sadd("scan:set", *names)
    await client.zadd("scan:zset", {name: float(value) for name, value in names.items()})
    found = [key async for key in client.scan_iter("scan:*", count=20, _type="string")]
    assert sorted(found) == sorted(names)
    assert {key: value async for key, value in client.hscan_iter("scan:hash", count=20)} == names
    assert {member async for member in client.sscan_iter("scan:set", count=20)} == set(names)
    scores = {member: str(int(score)) async for member, score in client.zscan_iter("scan:zset", count=20)}
    assert scores == names
