"""Primaries that die, hang, or step down: what was acknowledged as durable stays, and the client goes on."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator

import pytest

from tests.conftest import EmbeddedCluster
from tests.faults.conftest import NODE_TIMEOUT_S
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle, keys_of_each_shard
from tests.support.waiting import eventually
from tests.support.writers import Writers
from tradewind import RedisCluster
from tradewind.embedded.cluster import Node
from tradewind.embedded.survey import Admin

pytestmark = [pytest.mark.faults, pytest.mark.timeout(60)]


class Load:
    """Durable and plain writers on every shard, and what they were told.

    A shard whose primary died has no replica until that is back, so nothing is durable there meanwhile.
    """

    def __init__(self, client: RedisCluster, durable_keys: list[str], plain_keys: list[str]) -> None:
        self.client = client
        self.durable = Writers(client.durable(), durable_keys)
        self.plain = Writers(client, plain_keys)

    async def reaches(self, more: int, key: str | None = None, timeout_s: float = 15.0) -> None:
        """Go on until so many more durable writes are acknowledged, of one key or of all."""
        await _reaches(self.durable, more, key, timeout_s)

    async def check(self) -> None:
        await self.durable.check(self.client)
        await self.plain.check(self.client, may_lose=True)
        await check_idle(self.client)


async def _reaches(writers: Writers, more: int, key: str | None = None, timeout_s: float = 15.0) -> None:
    def done() -> int:
        return writers.acknowledged[key] if key else writers.total

    goal = done() + more
    await eventually(lambda: done() >= goal, timeout_s)


@contextlib.asynccontextmanager
async def _load(client: RedisCluster) -> AsyncIterator[Load]:
    await client
    durable = [key for number in range(4) for key in keys_of_each_shard(client, f"durable{number}").values()]
    plain = [key for number in range(4) for key in keys_of_each_shard(client, f"plain{number}").values()]
    load = Load(client, durable, plain)
    async with load.durable, load.plain:
        await load.reaches(300)
        yield load


def _keys_by_shard(load: Load, victim: Node, keys: list[str] | None = None) -> tuple[list[str], list[str]]:
    """Keys (the durable ones, unless others are given) of the victim's shard, and of the others."""
    mine, others = [], []
    for key in keys or load.durable.keys:
        node = load.client.get_node_from_key(key)
        assert node is not None
        (mine if node.port == victim.port else others).append(key)
    return mine, others


async def test_a_killed_primary(fragile: EmbeddedCluster, make_client: MakeClient) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    async with _load(client) as load:
        victim = await fragile.primary_of(load.durable.keys[0])
        mine, others = _keys_by_shard(load, victim)
        plain, _ = _keys_by_shard(load, victim, load.plain.keys)
        await fragile.kill(victim)
        await _reaches(load.plain, 50, plain[0])
        await fragile.restart(victim)
        await load.reaches(50, mine[0])
    assert not load.plain.errors
    assert load.plain.unknown.total() <= len(plain) * 2, "what was in flight, and no more"
    assert max(load.plain.longest_gap_s(key) for key in plain) < NODE_TIMEOUT_S + 2.5
    assert max(load.durable.longest_gap_s(key) for key in others) < 0.5, "the other shards never stop"
    await load.check()


async def test_a_zombie_primary(fragile: EmbeddedCluster, make_client: MakeClient) -> None:
    """SIGSTOP past the node timeout, SIGCONT: it answers OK to what waited in its sockets, and loses it."""
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    async with _load(client) as load:
        victim = await fragile.primary_of(load.durable.keys[0])
        mine, others = _keys_by_shard(load, victim)
        await fragile.kill(victim, signal.SIGSTOP)
        await eventually(lambda: _is_primary_elsewhere(fragile, mine[0], victim))
        await fragile.kill(victim, signal.SIGCONT)
        await load.reaches(100, mine[0])
    assert load.durable.unknown.total() > 0
    await load.check()
    assert max(load.durable.longest_gap_s(key) for key in others) < 0.5


async def _is_primary_elsewhere(cluster: EmbeddedCluster, key: str, than: Node) -> bool:
    return (await cluster.primary_of(key)).port != than.port


@pytest.mark.parametrize("how", [(), ("FORCE",), ("TAKEOVER",)], ids=["planned", "force", "takeover"])
async def test_a_failover(fragile: EmbeddedCluster, make_client: MakeClient, how: tuple[str, ...]) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    async with _load(client) as load:
        victim = await fragile.primary_of(load.durable.keys[0])
        mine, others = _keys_by_shard(load, victim)
        (replica,) = await fragile.replicas_of(victim)
        async with Admin(replica.port) as admin:
            await admin.ask("CLUSTER", "FAILOVER", *how)
        await eventually(lambda: _is_primary_elsewhere(fragile, mine[0], victim))
        await load.reaches(100, mine[0])
    await load.check()
    assert not load.durable.errors
    assert max(load.durable.longest_gap_s(key) for key in mine) < 2.5
    assert max(load.durable.longest_gap_s(key) for key in others) < 0.5


async def test_a_short_stall_costs_time_and_no_reconnect(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True, socket_timeout=2.0)
    async with _load(client) as load:
        victim = await fragile.primary_of(load.durable.keys[0])
        mine, _ = _keys_by_shard(load, victim)
        for _ in range(2):
            await fragile.kill(victim, signal.SIGSTOP)
            await asyncio.sleep(0.3)
            await fragile.kill(victim, signal.SIGCONT)
            await load.reaches(20, mine[0])
    assert sum(node.connections_lost for node in client.stats().nodes) == 0
    assert client.stats().refreshes == 1
    assert not load.durable.unknown
    assert not load.plain.unknown
    await load.check()


async def test_a_storm_of_killed_connections(fragile: EmbeddedCluster, make_client: MakeClient) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    primaries = [port for port, role in (await fragile.roles()).items() if role == "primary"]
    async with _load(client) as load:
        for _ in range(20):
            for port in primaries:
                async with Admin(port) as admin:
                    await admin.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.05)
        await load.reaches(300)
    stats = client.stats()
    assert sum(node.connections_lost for node in stats.nodes) >= 20
    assert sum(node.dials for node in stats.nodes) < 400
    await load.plain.check(client)
    await load.check()


async def test_a_shard_that_is_gone_stops_only_its_own(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True, socket_timeout=1.0)
    async with _load(client) as load:
        victim = await fragile.primary_of(load.durable.keys[0])
        mine, others = _keys_by_shard(load, victim)
        (replica,) = await fragile.replicas_of(victim)
        before_s, before = time.monotonic(), load.durable.total
        await load.reaches(500)
        rate = (load.durable.total - before) / (time.monotonic() - before_s)
        await fragile.kill(replica)
        await fragile.kill(victim)
        await eventually(lambda: sum(load.durable.errors.values()) >= len(mine))
        dead_s, dead = time.monotonic(), load.durable.total
        await load.reaches(1000)
        dead_rate = (load.durable.total - dead) / (time.monotonic() - dead_s)
        await fragile.restart(victim)
        await fragile.restart(replica)
        await load.reaches(20, mine[0], timeout_s=20)
    assert max(load.durable.longest_gap_s(key) for key in others) < 0.5
    assert dead_rate > rate * len(others) / len(load.durable.keys) * 0.5, (rate, dead_rate)
    await load.check()


async def test_blocked_callers_go_on_at_the_new_primary(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    await client.xgroup_create("{b}stream", "group", mkstream=True)
    popper = asyncio.create_task(client.blpop(["{b}list"], 30))
    reader = asyncio.create_task(client.xread({"{b}stream": "$"}, block=30_000))
    member = asyncio.create_task(client.xreadgroup("group", "me", {"{b}stream": ">"}, block=30_000))
    await eventually(lambda: sum(node.dedicated for node in client.stats().nodes) == 3)
    victim = await fragile.primary_of("{b}list")
    (replica,) = await fragile.replicas_of(victim)
    async with Admin(replica.port) as admin:
        await admin.ask("CLUSTER", "FAILOVER")
    await eventually(lambda: _is_primary_elsewhere(fragile, "{b}list", victim))
    await client.rpush("{b}list", "x")
    assert await popper == ("{b}list", "x")
    blocked = asyncio.gather(reader, member)

    async def both_read() -> bool:  # a reader of "$" sees what comes after it asks again
        await client.xadd("{b}stream", {"f": "v"})
        return blocked.done()

    await eventually(both_read)
    assert all(entries[0][0] == "{b}stream" for entries in await blocked)


async def test_a_hung_primary_lets_go_of_who_blocks_on_it(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True, socket_timeout=2.0)
    reader = asyncio.create_task(client.xread({"{b}stream": "$"}, block=0))
    await eventually(lambda: sum(node.dedicated for node in client.stats().nodes) == 1)
    victim = await fragile.primary_of("{b}stream")
    await fragile.kill(victim, signal.SIGSTOP)

    async def read_by_the_new_one() -> bool:
        with contextlib.suppress(Exception):
            await client.with_options(idempotent=True, timeout_s=0.5).xadd("{b}stream", {"f": "v"})
        return reader.done()

    await eventually(read_by_the_new_one, timeout_s=NODE_TIMEOUT_S + 6)
    assert (await reader)[0][0] == "{b}stream"


async def test_a_subscription_survives_a_killed_primary(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port)
    heard: list[bytes] = []
    subscription = await client.sharded_subscription(lambda _channel, data: heard.append(data))
    channels = [f"channel:{number}" for number in range(20)]
    await subscription.subscribe(channels)
    await fragile.kill(await fragile.primary_of(channels[0]))
    await eventually(lambda: subscription.confirmed < 20)
    await eventually(lambda: subscription.confirmed == 20, timeout_s=NODE_TIMEOUT_S + 6)

    async def arrives() -> bool:
        await client.execute_command("SPUBLISH", channels[0], "again")
        return b"again" in heard

    await eventually(arrives)


async def test_a_server_that_takes_no_more_clients(fragile: EmbeddedCluster, make_client: MakeClient) -> None:
    first = make_client(fragile.nodes[0].port, decode_responses=True)
    keys = keys_of_each_shard(await first.initialize())
    await asyncio.gather(*(first.set(key, 1) for key in keys.values()))
    before = await first.config_get("maxclients")
    await first.config_set("maxclients", 1, target_nodes=RedisCluster.PRIMARIES)
    try:
        # Who is connected goes on; who comes waits, without a storm, until there is room.
        assert await asyncio.gather(*(first.get(key) for key in keys.values())) == ["1"] * 3
        roles = await fragile.roles()
        replica = next(port for port, role in roles.items() if role == "replica")  # it tells the way, no more
        second = make_client(replica, decode_responses=True, socket_connect_timeout=10)
        late = asyncio.create_task(second.get(next(iter(keys.values()))))
        popper = asyncio.create_task(first.blpop(["no-list"], 1))
        await asyncio.sleep(1.0)
        assert not late.done()
    finally:
        for node in first.get_primaries():  # over connections that are there
            await first.config_set("maxclients", before["maxclients"], target_nodes=node)
    assert await late == "1"
    assert await popper is None
    assert sum(node.dials for node in first.stats().nodes) < 40
