"""Reads from replicas that lag, stand still, load, are promoted or demoted: own writes are always seen."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import RedisError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import keys_of_each_shard
from tests.support.proxy import FaultProxy, ProxiedCluster
from tests.support.waiting import eventually
from tradewind import NodeUnavailable, RedisCluster
from tradewind.client.errors import DeadlineExceeded
from tradewind.embedded.cluster import Node
from tradewind.embedded.survey import Admin

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

KEY = "{lag}:key"
LAG_S = 0.05


class Readers:
    """Tasks that write a key of their own and read it, again and again; every stale read is kept."""

    def __init__(self, keys: list[str], write: Callable[[str, int], Awaitable[Any]], reader: Any) -> None:
        self.keys = keys
        self.reads = 0
        self.stale: list[str] = []
        self.errors: list[BaseException] = []
        self._write, self._reader = write, reader
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def __aenter__(self) -> "Readers":
        self._tasks = [asyncio.create_task(self._run(key)) for key in self.keys]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _run(self, key: str) -> None:
        number = acknowledged = 0
        while not self._stopping:
            number += 1
            with contextlib.suppress(RedisError):  # it may have run or not: what was acknowledged counts
                await self._write(key, number)
                acknowledged = number
            for _ in range(random.randrange(6)):
                await self._read(key, acknowledged)
                await asyncio.sleep(random.choice((0, 0.001, 0.02, 0.2)))

    async def _read(self, key: str, acknowledged: int) -> None:
        try:
            value = int(await self._reader.get(key) or 0)
        except RedisError as error:
            self.errors.append(error)
            return
        self.reads += 1
        if value < acknowledged:
            self.stale.append(f"{key} is {value} after {acknowledged} was acknowledged")

    async def reach(self, reads: int) -> None:
        goal = self.reads + reads
        await eventually(lambda: self.reads >= goal, 60.0)


@contextlib.asynccontextmanager
async def lagging_replica(cluster: EmbeddedCluster, key: str) -> AsyncIterator[FaultProxy]:
    """What the key's primary tells its replica goes through a proxy, which delays it; clients do not."""
    primary = await cluster.primary_of(key)
    (replica,) = await cluster.replicas_of(primary)
    proxy = FaultProxy(primary.port)
    await proxy.start()
    async with Admin(primary.port) as admin, Admin(replica.port) as replica_admin:

        async def follows(port: int) -> bool:
            info = await replica_admin.ask("INFO", "REPLICATION")
            return bool(info["master_port"] == port and info["master_link_status"] == "up")

        await admin.ask("CONFIG", "SET", "cluster-announce-port", proxy.port)
        await eventually(lambda: follows(proxy.port), 30.0)
        proxy.delay_s = LAG_S
        try:
            yield proxy
        finally:
            proxy.heal()
            await admin.ask("CONFIG", "SET", "cluster-announce-port", 0)
            await eventually(lambda: follows(primary.port), 30.0)
            await proxy.stop()


def bypass(proxy: FaultProxy) -> Callable[[tuple[str, int]], tuple[str, int]]:
    """The address remap of a client that is not concerned by the lag."""
    return lambda address: (address[0], proxy.server_port if address[1] == proxy.port else address[1])


@pytest.mark.parametrize("read_from", ["replica", "prefer_replica", "any", "lowest_latency"])
async def test_own_writes_are_seen_although_the_replica_lags(
    fragile: EmbeddedCluster, make_client: MakeClient, read_from: str
) -> None:
    async with lagging_replica(fragile, KEY) as proxy:
        client = make_client(fragile.nodes[0].port, read_from=read_from, address_remap=bypass(proxy))
        keys = [f"{{lag}}:{number}" for number in range(60)] + [f"free:{number}" for number in range(140)]
        async with Readers(keys, client.set, client) as readers:
            await readers.reach(10_000)
        assert not readers.stale
        assert not readers.errors
        assert client.stats().replica_reads > (100 if read_from != "lowest_latency" else -1)


async def test_without_it_the_same_reads_are_stale(fragile: EmbeddedCluster, make_client: MakeClient) -> None:
    async with lagging_replica(fragile, KEY) as proxy:
        client = make_client(
            fragile.nodes[0].port,
            read_from="replica",
            read_your_writes=False,
            address_remap=bypass(proxy),
        )
        async with Readers([f"{{lag}}:{number}" for number in range(10)], client.set, client) as readers:
            await readers.reach(500)
        assert len(readers.stale) > 100


FUNCTION = """#!lua name=lagtest
redis.register_function('lag_set', function(keys, args) return redis.call('SET', keys[1], args[1]) end)
"""


async def test_every_way_of_writing_counts(fragile: EmbeddedCluster, make_client: MakeClient) -> None:
    async with lagging_replica(fragile, KEY) as proxy:
        client = make_client(
            fragile.nodes[0].port,
            read_from="prefer_replica",
            decode_responses=True,
            address_remap=bypass(proxy),
        )
        await client.function_load(FUNCTION, replace=True)
        script = client.register_script("return redis.call('SET', KEYS[1], ARGV[1])")

        async def pipelined(value: str) -> None:
            await client.pipeline().set(KEY, value).get(KEY).execute()

        async def in_transaction(value: str) -> None:
            await client.pipeline(transaction=True).set(KEY, value).get(KEY).execute()

        async def watched(value: str) -> None:
            await client.transaction(lambda pipe: pipe.multi() or pipe.set(KEY, value), KEY)

        async def between_watch_and_multi(value: str) -> None:
            async with client.pipeline(transaction=True) as pipe:
                await pipe.watch("{lag}:watched")
                await pipe.set(KEY, value)

        async def posted(value: str) -> None:
            client.post("SET", KEY, value)

        async def moved(value: str) -> None:
            await client.delete("{lag}:list")
            await client.rpush("{lag}:list", value)
            assert await client.blpop("{lag}:list", 1)
            assert await client.exists("{lag}:list") == 0
            await client.set(KEY, value)

        ways: list[Callable[[str], Awaitable[Any]]] = [
            lambda value: client.set(KEY, value),
            lambda value: client.with_options(timeout_s=2).set(KEY, value),
            lambda value: client.durable().set(KEY, value),
            lambda value: client.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, KEY, value),
            lambda value: client.fcall("lag_set", 1, KEY, value),
            lambda value: script(keys=[KEY], args=[value]),
            lambda value: client.mset({KEY: value, "{lag}:other": value}),
            pipelined,
            in_transaction,
            watched,
            between_watch_and_multi,
            posted,
            moved,
        ]
        for number in range(10):
            for way, write in enumerate(ways):
                await write(f"{way}:{number}")
                assert await client.get(KEY) == f"{way}:{number}"
                await asyncio.sleep(random.choice((0, 0, 0.1)))
        await client.flushall(target_nodes=RedisCluster.PRIMARIES)
        assert await client.get(KEY) is None


async def test_a_view_sees_the_writes_that_were_under_way_when_it_was_made(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    async with lagging_replica(fragile, KEY) as proxy:
        client = make_client(fragile.nodes[0].port, decode_responses=True, address_remap=bypass(proxy))
        await client.set(KEY, 1)
        for node in fragile.nodes:
            assert (await _read_only_lanes(node.port))[0] == 0, (
                "a client of primaries says READONLY to nobody"
            )
        written = asyncio.ensure_future(client.set(KEY, 2))
        await asyncio.sleep(0)
        view = client.with_options(read_from="prefer_replica")
        await written
        for _ in range(200):
            assert await view.get(KEY) == "2"
            await asyncio.sleep(0.001)
        assert client.stats().replica_reads > 0
        await client.set(KEY, 3)
        assert await view.get(KEY) == "3"


async def _promote_replica(cluster: EmbeddedCluster, key: str, *how: str) -> Node:
    """Returns the one that was the primary."""
    victim = await cluster.primary_of(key)
    (replica,) = await cluster.replicas_of(victim)
    async with Admin(replica.port) as admin:
        await admin.ask("CLUSTER", "FAILOVER", *how)

    async def is_promoted() -> bool:
        return (await cluster.primary_of(key)).port == replica.port

    await eventually(is_promoted, 30.0)
    return victim


async def _read_only_lanes(port: int) -> tuple[int, int]:
    """This client's connections to a server: those that are read-only, and all."""
    async with Admin(port) as admin:
        listed = (await admin.ask("CLIENT", "LIST")).splitlines()
    flags = [line.partition(" flags=")[2].split()[0] for line in listed if " lib-name=tradewind " in line]
    return sum("r" in each for each in flags), len(flags)


async def test_own_writes_are_seen_through_planned_failovers(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    """A planned failover loses nothing, so plain writes count."""
    client = make_client(fragile.nodes[0].port, read_from="prefer_replica")
    async with Readers([f"{{lag}}:{number}" for number in range(20)], client.set, client) as readers:
        await readers.reach(200)
        for _ in range(3):
            demoted = await _promote_replica(fragile, KEY)
            await readers.reach(500)
            promoted = await fragile.primary_of(KEY)
            before = client.stats().replica_reads

            def is_read_again(before: int = before) -> bool:
                return client.stats().replica_reads > before + 20

            await eventually(is_read_again, 30.0)  # the demoted one serves reads now
            await eventually(lambda port=demoted.port: _is_all_read_only(port, True))
            await eventually(lambda port=promoted.port: _is_all_read_only(port, False))
    assert not readers.stale
    assert not readers.errors


async def _is_all_read_only(port: int, wanted: bool) -> bool:
    read_only, count = await _read_only_lanes(port)
    return count > 0 and read_only == (count if wanted else 0)


async def test_durable_writes_are_seen_after_a_primary_was_killed(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, read_from="prefer_replica")
    keys = [f"{{lag}}:{number}" for number in range(20)]
    async with Readers(keys, client.durable().set, client) as readers:
        await readers.reach(200)
        victim = await fragile.primary_of(KEY)
        await fragile.kill(victim)
        await readers.reach(100)
        await fragile.restart(victim)
        await fragile.wait_until_ready(30.0)
        before = client.stats().replica_reads
        await eventually(lambda: client.stats().replica_reads > before + 100, 30.0)
        await readers.reach(200)
    assert not readers.stale
    assert not readers.errors


async def test_a_replica_that_stands_still_costs_a_read_a_moment(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, read_from="prefer_replica")
    async with Readers([f"{{lag}}:{number}" for number in range(20)], client.set, client) as readers:
        await readers.reach(200)
        (replica,) = await fragile.replicas_of(await fragile.primary_of(KEY))
        await fragile.kill(replica, signal.SIGSTOP)
        began_s = time.monotonic()
        await asyncio.wait_for(asyncio.gather(*(client.get(key) for key in readers.keys)), 10.0)
        took_s = time.monotonic() - began_s
        await readers.reach(300)
        await fragile.kill(replica, signal.SIGCONT)
        before = client.stats().replica_reads
        await eventually(lambda: client.stats().replica_reads > before + 50, 30.0)
    assert took_s < 1.5
    assert not readers.stale
    assert not readers.errors


async def test_replicas_only_means_replicas_only(fragile: EmbeddedCluster, make_client: MakeClient) -> None:
    client = make_client(fragile.nodes[0].port, read_from="replica", socket_timeout=1)
    await client.set(KEY, 1)
    await eventually(lambda: _is_read_from_a_replica(client), 10.0)
    (replica,) = await fragile.replicas_of(await fragile.primary_of(KEY))
    await fragile.kill(replica, signal.SIGSTOP)
    with pytest.raises((NodeUnavailable, DeadlineExceeded), match=str(replica.port)):
        await client.get(KEY)
    with pytest.raises(
        NodeUnavailable, match=r"by a replica only \(read_from='replica'\), and none of .* can"
    ):
        await client.get(KEY)
    assert await client.with_options(read_from="prefer_replica").get(KEY) == b"1"
    await fragile.kill(replica, signal.SIGCONT)
    await eventually(lambda: _is_read_from_a_replica(client), 10.0)


async def _is_read_from_a_replica(client: RedisCluster) -> bool:
    before = client.stats().replica_reads
    with contextlib.suppress(RedisError):
        await client.get(KEY)
    return client.stats().replica_reads > before


async def test_a_replica_that_dies_and_loads_is_passed_by(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, read_from="prefer_replica")
    await client
    for shard, key in enumerate(keys_of_each_shard(client).values()):
        await client.mset({f"{{{key}}}:{number}": "x" * 1000 for number in range(100 * shard + 1)})
    async with Readers([f"{{lag}}:{number}" for number in range(20)], client.set, client) as readers:
        await readers.reach(200)
        (replica,) = await fragile.replicas_of(await fragile.primary_of(KEY))
        await fragile.kill(replica)
        await readers.reach(300)
        await fragile.restart(replica)
        before = client.stats().replica_reads
        await eventually(lambda: client.stats().replica_reads > before + 100, 30.0)
    assert not readers.stale
    assert not readers.errors


async def test_reads_come_from_the_nearest_node(fragile: EmbeddedCluster, make_client: MakeClient) -> None:
    async with ProxiedCluster(node.port for node in fragile.nodes) as proxied:
        client = make_client(proxied.port, read_from="lowest_latency", address_remap=proxied.address_remap)
        await client.set(KEY, 1)
        primary = await fragile.primary_of(KEY)
        proxied.proxies[primary.port].delay_s = 0.05
        await eventually(lambda: _is_read_from_a_replica(client), 30.0)
        before = client.stats()
        await asyncio.gather(*(client.get(KEY) for _ in range(100)))
        assert client.stats().replica_reads - before.replica_reads > 90
        (replica,) = await fragile.replicas_of(primary)
        proxied.proxies[primary.port].heal()
        proxied.proxies[replica.port].delay_s = 0.05

        async def is_back_at_the_primary() -> bool:
            return not await _is_read_from_a_replica(client)

        await eventually(is_back_at_the_primary, 30.0)
