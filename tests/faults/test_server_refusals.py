"""Servers that are there and say no: full, loading, read-only, unable to save, busy, without the function."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle, keys_of_each_shard
from tests.support.waiting import eventually
from tests.support.writers import Writers
from tradewind import RedisCluster
from tradewind.embedded.cluster import Node
from tradewind.embedded.survey import Admin

pytestmark = [pytest.mark.faults, pytest.mark.timeout(60)]

AT_ONCE_S = 0.5  # without a try in between, on a busy machine


async def _shards(cluster: EmbeddedCluster, client: RedisCluster) -> tuple[Node, str, list[str]]:
    """The primary that the test disturbs, a key on it, and keys on the others; "0" is under each."""
    mine, *others = keys_of_each_shard(await client.initialize()).values()
    await asyncio.gather(*(client.set(key, "0") for key in (mine, *others)))
    return await cluster.primary_of(mine), mine, others


@contextlib.asynccontextmanager
async def _setting(node: Node, name: str, value: str | int) -> AsyncIterator[None]:
    """The server has another setting for a while."""
    async with Admin(node.port) as admin:
        before = (await admin.ask("CONFIG", "GET", name))[1]
        await admin.ask("CONFIG", "SET", name, value)
        try:
            yield
        finally:
            await admin.ask("CONFIG", "SET", name, before)


async def _nothing_was_tried_again(client: RedisCluster) -> None:
    stats = client.stats()
    assert stats.retries == 0
    assert stats.refreshes == 1
    assert sum(node.connections_lost for node in stats.nodes) == 0
    await check_idle(client)


async def test_a_full_server_refuses_writes_at_once_and_goes_on_reading(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    full, mine, others = await _shards(fragile, client)
    async with _setting(full, "maxmemory", "1mb"):
        begun_s = time.monotonic()
        script = client.eval("return redis.call('INCR', KEYS[1])", 1, mine)
        for write in (client.incr(mine), client.durable().incr(mine), script):
            with pytest.raises(OutOfMemoryError):
                await write
        assert time.monotonic() - begun_s < AT_ONCE_S
        assert await client.get(mine) == "0"
        assert await asyncio.gather(*(client.incr(key) for key in others)) == [1, 1]
        assert await client.delete(mine) == 1, "what makes room is allowed"
    assert await client.incr(mine) == 1
    await _nothing_was_tried_again(client)


async def test_a_server_that_cannot_save_refuses_writes_at_once_and_goes_on_reading(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    broken, mine, others = await _shards(fragile, client)
    async with _unable_to_save(broken):
        begun_s = time.monotonic()
        for write in (client.incr(mine), client.durable().incr(mine)):
            with pytest.raises(ResponseError, match="MISCONF"):
                await write
        assert time.monotonic() - begun_s < AT_ONCE_S
        assert await client.get(mine) == "0"
        assert await asyncio.gather(*(client.incr(key) for key in others)) == [1, 1]
    assert await client.incr(mine) == 1
    await _nothing_was_tried_again(client)


@contextlib.asynccontextmanager
async def _unable_to_save(node: Node) -> AsyncIterator[None]:
    """As with a full disk: a folder is in the way of the snapshot."""
    in_the_way = node.folder / "dump.rdb"
    in_the_way.mkdir()
    async with _setting(node, "save", "3600 1"), Admin(node.port) as admin:
        await admin.ask("BGSAVE")

        async def has_failed() -> bool:
            return bool((await admin.ask("INFO", "persistence"))["rdb_last_bgsave_status"] == "err")

        try:
            await eventually(has_failed)
            yield
        finally:
            in_the_way.rmdir()


async def test_a_loading_server_is_waited_for_or_replaced_and_nobody_is_told(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    loading, mine, others = await _shards(fragile, client)
    await asyncio.gather(*(client.set(f"{{{mine}}}:{n}", "x" * 200) for n in range(2000)))
    await _rewrite(loading)
    async with Writers(client, [mine, *others]) as writers:
        await eventually(lambda: writers.total > 100)
        await fragile.kill(loading)
        with _slow_to_load(loading):
            await fragile.restart(loading)
            await eventually(lambda: _is_loading(loading))
        before = writers.acknowledged[mine]
        await eventually(lambda: writers.acknowledged[mine] > before + 50)
    assert not writers.errors
    assert writers.unknown.total() <= 1, "what was in flight"
    assert await client.get(f"{{{mine}}}:1999") == "x" * 200
    await writers.check(client, may_lose=True)
    await eventually(lambda: _is_loaded(loading))
    async with Admin(loading.port) as admin:
        await admin.ask("CONFIG", "SET", "key-load-delay", 0)


async def _rewrite(node: Node) -> None:
    """Into a snapshot, during whose loading the server talks more often."""
    async with Admin(node.port) as admin:
        await admin.ask("BGREWRITEAOF")

        async def is_done() -> bool:
            info = await admin.ask("INFO", "persistence")
            return not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]

        await eventually(is_done)


@contextlib.contextmanager
def _slow_to_load(node: Node) -> Iterator[None]:
    """Half a millisecond a key, when it is started the next time."""
    file = node.folder / "server.conf"
    text = file.read_text(encoding="utf-8")
    slow = "key-load-delay 500\nloading-process-events-interval-bytes 1024\n"
    file.write_text(text + slow, encoding="utf-8")
    yield
    file.write_text(text, encoding="utf-8")


async def _is_loading(node: Node) -> bool:
    with contextlib.suppress(RedisError, OSError):
        async with Admin(node.port) as admin:
            try:
                await admin.ask("DBSIZE")
            except BusyLoadingError:
                return True
    return False


async def _is_loaded(node: Node) -> bool:
    with contextlib.suppress(RedisError, OSError):
        async with Admin(node.port) as admin:
            return bool(await admin.ask("DBSIZE"))
    return False


async def test_a_read_only_server_is_asked_again_until_it_takes_writes_or_the_deadline(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    """Only a call that names its node meets one: others are redirected to the primary."""
    client = make_client(fragile.nodes[0].port, decode_responses=True, socket_timeout=0.5)
    primary, mine, _ = await _shards(fragile, client)
    (replica,) = await fragile.replicas_of(primary)
    target = next(node for node in client.get_replicas() if node.port == replica.port)
    begun_s = time.monotonic()
    with pytest.raises(ReadOnlyError):
        await client.flushdb(target_nodes=target)
    assert time.monotonic() - begun_s < 0.5 + AT_ONCE_S
    assert client.stats().retries > 0
    assert await client.get(mine) == "0"

    patient = client.with_options(timeout_s=10)
    flush = asyncio.create_task(patient.execute_command("FLUSHDB", target_nodes=target))
    before = client.stats().retries
    await eventually(lambda: client.stats().retries > before + 1)
    async with Admin(replica.port) as admin:
        await admin.ask("CLUSTER", "FAILOVER")
    assert await flush
    await eventually(lambda: _reads(client, mine, None))


async def _reads(client: RedisCluster, key: str, value: str | None) -> bool:
    return bool(await client.get(key) == value)


async def test_a_busy_server_is_asked_again_until_its_script_is_killed(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    busy, mine, others = await _shards(fragile, client)
    async with _setting(busy, "busy-reply-threshold", 50):
        endless = asyncio.create_task(client.eval("while true do end", 1, mine))
        await asyncio.sleep(0)  # it goes first
        calls = [asyncio.create_task(client.incr(mine)) for _ in range(5)]

        async def meets_busy() -> bool:
            calls.append(asyncio.create_task(client.incr(mine)))
            return client.stats().retries > 2

        await eventually(meets_busy)
        assert await asyncio.gather(*(client.incr(key) for key in others)) == [1, 1]
        async with Admin(busy.port) as admin:
            await admin.ask("SCRIPT", "KILL")
        with pytest.raises(ResponseError, match=r"[Ss]cript killed"):
            await endless
        counted = await asyncio.gather(*calls)
    assert sorted(counted) == list(range(1, len(calls) + 1)), "each ran, once"
    assert sum(node.connections_lost for node in client.stats().nodes) == 0


LIBRARY = "#!lua name=faults\nredis.register_function('answer', function(keys) return 42 end)"


async def test_a_server_without_the_function_tells_its_callers_at_once(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    _, mine, others = await _shards(fragile, client)
    without = client.get_node_from_key(mine)
    await client.function_load(LIBRARY)  # on every primary
    await client.execute_command("FUNCTION DELETE", "faults", target_nodes=without)
    with pytest.raises(ResponseError, match="not found"):
        await client.fcall("answer", 1, mine)
    assert await asyncio.gather(*(client.fcall("answer", 1, key) for key in others)) == [42, 42]
    await client.execute_command("FUNCTION LOAD", LIBRARY, target_nodes=without)
    assert await client.fcall("answer", 1, mine) == 42
    await client.function_flush()
    await _nothing_was_tried_again(client)


async def test_a_server_without_the_script_is_given_it(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    _, mine, others = await _shards(fragile, client)
    script = client.register_script("return redis.call('INCR', KEYS[1])")
    for turn in range(1, 3):
        assert [await script(keys=[key]) for key in (mine, *others)] == [turn] * 3
        await client.script_flush()
    await _nothing_was_tried_again(client)
