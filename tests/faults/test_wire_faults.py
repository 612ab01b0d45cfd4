"""What networks do to a connection, on a cluster whose servers announce the proxies that do it."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.announced import AnnouncedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle, keys_of_each_shard, tally
from tests.support.memory import resident_bytes
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually
from tradewind import RedisCluster
from tradewind.embedded.survey import Admin

pytestmark = [pytest.mark.faults, pytest.mark.timeout(60)]

LATE_S = 1.0  # how much later than its deadline a call may end on a busy machine


@dataclass(frozen=True)
class Shard:
    """A key, and the proxy before its primary. Keys that have it as their hash tag are there too."""

    key: str
    proxy: FaultProxy


async def _shards(announced: AnnouncedCluster, client: RedisCluster) -> list[Shard]:
    """All three, each with "0" under its key; a connection to each is open afterwards."""
    shards = []
    for name, key in keys_of_each_shard(await client.initialize()).items():
        await client.set(key, "0")
        shards.append(Shard(key, announced.proxy_of(int(name.rpartition(":")[2]))))
    return shards


async def _works_again(client: RedisCluster, key: str, within_s: float) -> None:
    async def is_read() -> bool:
        with contextlib.suppress(Exception):
            return await client.with_options(timeout_s=0.3).get(key) is not None
        return False

    await eventually(is_read, timeout_s=within_s)
    await client.incr(key)


# -- silence -------------------------------------------------------------------------------------------------


async def test_a_network_that_carries_one_way_only_is_noticed_by_the_deadline(
    announced: AnnouncedCluster, make_client: MakeClient
) -> None:
    client = make_client(announced.port, decode_responses=True, socket_timeout=1.0)
    loses_replies, loses_requests, healthy = await _shards(announced, client)
    loses_replies.proxy.silent_down = True
    loses_requests.proxy.silent_up = True
    begun_s = time.monotonic()
    calls = [call for shard in (loses_replies, loses_requests) for call in _five_of_each(client, shard.key)]
    callers = asyncio.gather(*calls, return_exceptions=True)
    await _is_not_held_up(client, healthy.key)
    assert tally(await callers) == {"OutcomeUnknown": 10, "DeadlineExceeded": 10}
    assert time.monotonic() - begun_s < 1.0 + LATE_S
    announced.network.heal()
    await _works_again(client, loses_replies.key, within_s=6)
    await _works_again(client, loses_requests.key, within_s=6)
    assert await client.get(loses_replies.key) == "6", "the five of before ran, once"
    assert await client.get(loses_requests.key) == "1", "the five of before never came"
    await check_idle(client)


async def test_a_black_hole_is_noticed_by_the_deadline(
    announced: AnnouncedCluster, make_client: MakeClient
) -> None:
    """Nothing passes and nothing ends: not the connections of before, and not those that are made now."""
    client = make_client(announced.port, decode_responses=True, socket_timeout=1.0)
    shard, healthy, _ = await _shards(announced, client)
    shard.proxy.silent_down = shard.proxy.silent_up = True
    for _ in range(2):
        begun_s = time.monotonic()
        callers = asyncio.gather(*_five_of_each(client, shard.key), return_exceptions=True)
        await _is_not_held_up(client, healthy.key)
        told = tally(await callers)
        assert "answered" not in told and sum(told.values()) == 10, told
        assert time.monotonic() - begun_s < 1.0 + LATE_S
    shard.proxy.heal()
    await _works_again(client, shard.key, within_s=6)
    assert await client.get(shard.key) == "1", "what was sent into the hole never came"
    await check_idle(client)


def _five_of_each(client: RedisCluster, key: str) -> list[Awaitable[object]]:
    return [*(client.incr(key) for _ in range(5)), *(client.get(key) for _ in range(5))]


async def _is_not_held_up(client: RedisCluster, key: str) -> None:
    for _ in range(100):
        assert await asyncio.wait_for(client.get(key), 0.5) == "0"


# -- slowness ------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _jitter(announced: AnnouncedCluster, least_s: float, most_s: float) -> AsyncIterator[None]:
    rng = random.Random(17)

    async def shake() -> None:
        while True:
            for proxy in announced.network.proxies.values():
                proxy.delay_s = rng.uniform(least_s, most_s)
            await asyncio.sleep(0.05)

    shaking = asyncio.create_task(shake())
    yield
    shaking.cancel()
    await asyncio.gather(shaking, return_exceptions=True)
    announced.network.heal()


async def test_latency_and_jitter_cost_time_and_nothing_else(
    announced: AnnouncedCluster, make_client: MakeClient
) -> None:
    client = make_client(announced.port, decode_responses=True)
    keys = [shard.key for shard in await _shards(announced, client)]
    epoch = await _epoch(announced.cluster)
    async with _jitter(announced, 0.05, 0.5):
        begun_s = time.monotonic()
        for _ in range(3):  # 3,000 calls, each of which takes up to half a second
            counted = await asyncio.gather(*(client.incr(keys[n % 3]) for n in range(1000)))
            assert len(counted) == 1000
        took_s = time.monotonic() - begun_s
    assert took_s < 3 * 0.5 + 3.0, "calls wait beside each other, not one behind the other"
    assert await asyncio.gather(*(client.get(key) for key in keys)) == ["1002", "999", "999"]
    assert sum(node.connections_lost for node in client.stats().nodes) == 0
    assert client.stats().refreshes == 1
    assert await _epoch(announced.cluster) == epoch, "no failover"


async def _epoch(cluster: EmbeddedCluster) -> str:
    async with Admin(cluster.nodes[0].port) as admin:
        info: str = await admin.ask("CLUSTER", "INFO")
    return info.partition("cluster_current_epoch:")[2].split()[0]


# -- pieces --------------------------------------------------------------------------------------------------


async def test_a_reset_in_the_middle_of_a_reply_shifts_nothing(
    announced: AnnouncedCluster, make_client: MakeClient
) -> None:
    client = make_client(announced.port, decode_responses=True)
    shard, *_ = await _shards(announced, client)
    text = "0123456789" * 5_000
    await client.set(f"{{{shard.key}}}:text", text)
    for cut_bytes in (1, 5, 1_000, 40_000):
        before = int(await client.get(shard.key))
        shard.proxy.cut_reply_bytes = cut_bytes
        calls = [client.get(f"{{{shard.key}}}:text"), *(client.incr(shard.key) for _ in range(5))]
        read, *writes = await asyncio.gather(*calls, return_exceptions=True)
        assert read == text, "half a reply is no reply: a read is asked again"
        assert tally(writes) == {"OutcomeUnknown": 5}
        assert int(await client.get(shard.key)) == before + 5, "each ran, once"
    assert sum(node.connections_lost for node in client.stats().nodes) == 4


async def test_replies_in_pieces_of_any_size_are_the_same_and_cost_time_in_proportion(
    announced: AnnouncedCluster, make_client: MakeClient
) -> None:
    client = make_client(announced.port, decode_responses=True)
    shard, *_ = await _shards(announced, client)
    values = {f"{{{shard.key}}}:{n}": "v" * n for n in range(0, 300, 7)}
    await client.mset(values)
    for shard.proxy.chunk_bytes, shard.proxy.gather_s in ((1, 0.0), (13, 0.0), (4096, 0.0), (0, 0.02)):
        assert await asyncio.gather(*(client.get(key) for key in values)) == list(values.values())
        assert await client.mget(list(values)) == list(values.values())
    shard.proxy.chunk_bytes, shard.proxy.gather_s = 1000, 0.0
    sizes = (500_000, 500_000, 4_000_000)  # the first one is for warming up
    _, small_s, large_s = [await _cpu_s(client, shard.key, size_bytes) for size_bytes in sizes]
    assert large_s < 8 * small_s * 3, f"eight times the bytes: {small_s:.3f} s, {large_s:.3f} s"
    assert sum(node.connections_lost for node in client.stats().nodes) == 0


async def _cpu_s(client: RedisCluster, key: str, size_bytes: int) -> float:
    await client.set(key, "x" * size_bytes)
    begun_s = time.thread_time()
    assert len(await client.get(key)) == size_bytes
    return time.thread_time() - begun_s


# -- garbage -------------------------------------------------------------------------------------------------


GARBAGE = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "nested 100,000 deep": b"*1\r\n" * 100_000,
    "four billion elements": b"*4000000000\r\n",
    "a negative length": b"$-7\r\n",
    "noise": bytes(range(256)),
}


async def test_garbage_ends_one_connection_and_takes_no_memory(
    announced: AnnouncedCluster, make_client: MakeClient
) -> None:
    client = make_client(announced.port, decode_responses=True)
    shard, *_ = await _shards(announced, client)
    before_bytes = resident_bytes()
    for number, garbage in enumerate(GARBAGE.values(), 1):
        shard.proxy.delay_s = 0.2
        callers = asyncio.gather(*_five_of_each(client, shard.key), return_exceptions=True)
        await asyncio.sleep(0.05)  # sent, and the replies are on their way
        shard.proxy.inject(garbage)
        shard.proxy.heal()
        results = await callers
        assert tally(results[:5]) == {"OutcomeUnknown": 5}
        assert tally(results[5:]) == {"answered": 5}
        assert await client.get(shard.key) == str(5 * number), "each ran, once"
        assert sum(node.connections_lost for node in client.stats().nodes) == number
    assert resident_bytes() - before_bytes < 64 << 20
    await check_idle(client)


# -- a huge reply --------------------------------------------------------------------------------------------

FILL = "for _ = 1, ARGV[1] do redis.call('RPUSH', KEYS[1], string.rep('x', 1048576)) end"


async def test_a_huge_reply_holds_up_nobody_for_long(
    announced: AnnouncedCluster, make_client: MakeClient
) -> None:
    """10 MiB on one lane, two seconds long: who comes half a second after it goes over another lane."""
    client = make_client(announced.port, socket_timeout=30)
    shard, *_ = await _shards(announced, client)
    huge_key = f"{{{shard.key}}}:huge"
    await client.eval(FILL, 1, huge_key, 10)
    shard.proxy.chunk_bytes, shard.proxy.chunk_pause_s = 128 << 10, 0.025
    begun_s = time.monotonic()
    huge = asyncio.create_task(client.lrange(huge_key, 0, -1))
    small = [asyncio.create_task(_seconds_of(client.get(shard.key)))]
    while not huge.done():
        await asyncio.sleep(0.005)
        small.append(asyncio.create_task(_seconds_of(client.get(shard.key))))
    calls = [await call for call in small]
    later_s = sorted(took_s for at_s, took_s in calls if at_s > begun_s + 0.5)
    assert [len(item) for item in await huge] == [1 << 20] * 10
    print(
        f"beside {time.monotonic() - begun_s:.2f} s of a reply: {len(later_s)} small ones, "
        f"median {later_s[len(later_s) // 2] * 1000:.1f} ms, at most {later_s[-1] * 1000:.1f} ms"
    )
    assert len(later_s) > 20
    assert later_s[len(later_s) // 2] < 0.05
    await client.delete(huge_key)


async def _seconds_of(call: Awaitable[object]) -> tuple[float, float]:
    """When it began, and how long it took."""
    begun_s = time.monotonic()
    await call
    return begun_s, time.monotonic() - begun_s
