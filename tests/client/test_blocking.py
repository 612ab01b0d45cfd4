"""Commands that block get a connection of their own, keep it for as long as they block, and harm nobody."""

import asyncio
import re
import time

import pytest
from redis.exceptions import ResponseError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import keys_of_each_shard
from tests.support.proxy import ProxiedCluster
from tests.support.waiting import eventually
from tradewind import ClientClosed, OutcomeUnknown, Overloaded, RedisCluster
from tradewind.embedded.survey import Admin


def _dedicated(client: RedisCluster) -> int:
    return sum(node.dedicated for node in client.stats().nodes)


async def test_blocking_longer_than_the_timeout_of_a_call(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port, socket_timeout=0.1, decode_responses=True)
    begun = time.monotonic()
    assert await client.blpop(["b:none"], 0.5) is None
    assert await client.xread({"b:stream": "$"}, block=500) == []
    assert time.monotonic() - begun >= 1.0
    reader = asyncio.create_task(client.xread({"b:stream": "$"}, block=60_000))
    popper = asyncio.create_task(client.blpop(["b:list"], 0))
    await eventually(lambda: _dedicated(client) == 2)
    await asyncio.sleep(0.3)
    await client.rpush("b:list", "x")
    assert await popper == ("b:list", "x")
    await client.xadd("b:stream", {"f": "v"})
    assert [name for name, _entries in await reader] == ["b:stream"]


async def test_with_the_defaults_too_a_command_blocks_longer_than_the_timeout_of_a_call(
    client: RedisCluster,
) -> None:
    begun = time.monotonic()
    popped, read = await asyncio.gather(
        client.blpop(["b:none"], 5.6), client.xread({"b:stream": "$"}, block=5600)
    )
    assert (popped, read) == (None, [])
    assert 5.5 < time.monotonic() - begun < 10.0


async def test_an_xread_without_block_shares(client: RedisCluster) -> None:
    await client.xadd("b:s", {"f": "v"})
    assert await client.xread({"b:s": 0})
    assert _dedicated(client) == 0


async def test_all_dedicated_connections_taken_harm_no_other_command(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port, max_connections=4, decode_responses=True)
    await client.set("{b}x", 1)
    poppers = [asyncio.create_task(client.blpop([f"{{b}}{n}"], 0)) for n in range(12)]
    node = lambda: next(n for n in client.stats().nodes if n.dedicated)  # noqa: E731
    await eventually(lambda: _dedicated(client) == 2 and node().waiting_dedicated == 10)
    slowest = 0.0
    for _ in range(200):
        begun = time.monotonic()
        assert await client.get("{b}x") == "1"
        slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 0.1
    assert node().connections <= 4
    await asyncio.gather(*(client.rpush(f"{{b}}{n}", n) for n in range(12)))
    assert await asyncio.gather(*poppers) == [(f"{{b}}{n}", str(n)) for n in range(12)]


async def test_who_waits_for_a_dedicated_connection_too_long_is_told(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port, max_connections=2)
    client._timeouts = type(client._timeouts)(blocking_margin_s=0.1)
    holder = asyncio.create_task(client.blpop(["{b}held"], 0))
    await eventually(lambda: _dedicated(client) == 1)
    with pytest.raises(Overloaded, match="all 1 dedicated connections are taken"):
        await client.blpop(["{b}other"], 0.1)
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder
    client._timeouts = type(client._timeouts)()
    assert await client.blpop(["{b}other"], 0.1) is None


def _in_use(client: RedisCluster) -> int:
    assert client._router is not None
    return sum(node.dedicated.count - node.dedicated.idle for node in client._router.nodes)


async def test_a_cancelled_caller_takes_nothing_from_a_list(client: RedisCluster) -> None:
    for _ in range(20):
        popper = asyncio.create_task(client.blpop(["b:l"], 0))
        await eventually(lambda: _dedicated(client) == 1)
        popper.cancel()
        with pytest.raises(asyncio.CancelledError):
            await popper
    await eventually(lambda: _in_use(client) == 0)  # one that opened in that moment may be kept
    await asyncio.sleep(0.05)
    await client.rpush("b:l", "x")
    assert await client.lpop("b:l") == "x"


async def test_an_error_of_the_command_is_its_callers(client: RedisCluster) -> None:
    await client.set("b:text", "x")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await client.blpop(["b:text"], 1)
    with pytest.raises(ResponseError, match="timeout is not a float"):
        await client.execute_command("BLPOP", "b:text", "soon")
    assert _dedicated(client) == 1


async def test_client_unblock_is_for_the_caller(client: RedisCluster, clean_cluster: EmbeddedCluster) -> None:
    popper = asyncio.create_task(client.blpop(["b:unblocked"], 0))
    await eventually(lambda: _dedicated(client) == 1)
    node = client.get_node_from_key("b:unblocked")
    assert node is not None
    async with Admin(int(node.port)) as admin:

        async def unblocked() -> bool:
            clients = await admin.ask("CLIENT", "LIST")
            blocked = re.findall(r"^id=(\d+) .* flags=b", clients, re.MULTILINE)
            return bool(blocked) and await admin.ask("CLIENT", "UNBLOCK", blocked[0], "ERROR") == 1

        await eventually(unblocked)
    with pytest.raises(ResponseError, match="UNBLOCKED"):
        await popper


async def test_a_lost_connection_repeats_a_blocked_read_and_leaves_a_pop_unknown(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap, decode_responses=True)
        popper = asyncio.create_task(client.blpop(["{b}list"], 0))
        reader = asyncio.create_task(client.xread({"{b}stream": "$"}, block=0))
        timed = asyncio.create_task(client.xread({"{b}other": "$"}, block=700))
        begun = time.monotonic()
        await eventually(lambda: _dedicated(client) == 3)
        await asyncio.sleep(0.3)
        for proxy in network.proxies.values():
            proxy.reset_all()
        with pytest.raises(OutcomeUnknown, match="BLPOP was blocking when its connection ended"):
            await popper
        await eventually(lambda: _dedicated(client) == 2)
        assert await timed == []
        assert 0.6 < time.monotonic() - begun < 1.0, "it blocks again only for the rest of its time"

        async def read() -> bool:
            await client.xadd("{b}stream", {"f": "v"})
            return reader.done()

        await eventually(read)
        assert [name for name, _entries in await reader] == ["{b}stream"]


async def test_refused_connections_are_tried_again(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap, decode_responses=True)
        await client.rpush("b:l", "x")
        for proxy in network.proxies.values():
            proxy.refuse = True
        popper = asyncio.create_task(client.blpop(["b:l"], 20))
        await eventually(lambda: client.stats().retries > 0)
        network.heal()
        assert await popper == ("b:l", "x")


async def test_closing_tells_who_blocks(make_client: MakeClient, clean_cluster: EmbeddedCluster) -> None:
    client = make_client(clean_cluster.nodes[0].port, max_connections=3)
    popper = asyncio.create_task(client.blpop(["{b}list"], 0))
    owner = (await clean_cluster.primary_of("{b}list")).port
    async with (
        Admin(owner) as admin,
        asyncio.timeout(10),
    ):  # taken is not sent: the server says when it holds it
        while not int((await admin.ask("INFO", "clients"))["blocked_clients"]):
            await asyncio.sleep(0.01)
    reader = asyncio.create_task(client.xread({"{b}stream": "$"}, block=0))
    await eventually(lambda: sum(node.waiting_dedicated for node in client.stats().nodes) == 1)
    await client.aclose()
    with pytest.raises(OutcomeUnknown):
        await popper
    with pytest.raises(ClientClosed):
        await reader


async def test_idle_dedicated_connections_are_closed(
    make_client: MakeClient, clean_cluster: EmbeddedCluster
) -> None:
    client = make_client(clean_cluster.nodes[0].port)
    client._limits = type(client._limits)(dedicated_idle_s_max=0.05)
    await client.blpop(["b:l"], 0.01)
    assert _dedicated(client) == 1
    await eventually(lambda: _dedicated(client) == 0)


async def test_blocking_on_every_shard_at_once(client: RedisCluster) -> None:
    keys = list(keys_of_each_shard(await client.initialize(), "b:each").values())
    poppers = [asyncio.create_task(client.blpop([key], 5)) for key in keys]
    await eventually(lambda: _dedicated(client) == 3)
    await asyncio.gather(*(client.rpush(key, 1) for key in keys))
    assert await asyncio.gather(*poppers) == [(key, "1") for key in keys]
