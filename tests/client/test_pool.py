"""redis-py's own classes on connections that are counted, bounded and waited for as all others."""

import asyncio
import gc
import threading
from functools import partial
from typing import Any

import pytest
from redis.asyncio.client import Monitor, PubSub
from redis.exceptions import DataError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.waiting import eventually
from tradewind import ClientClosed, NodeUnavailable, Overloaded, RedisCluster, SharedConnectionError
from tradewind.client.node import Node
from tradewind.client.pool import NodePool
from tradewind.client.topology import Endpoint


async def _pool(client: RedisCluster, *, lasting: bool = True, wait_s: float = 5.0) -> tuple[NodePool, Node]:
    """A pool over one of the primaries."""
    await client.initialize()
    node = client._need_router().nodes.primaries()[0]

    async def find_node(_last: Node | None) -> Node:
        client._need_router()  # ClientClosed
        return node

    return NodePool(find_node, client.connection_kwargs, wait_s=wait_s, lasting=lasting), node


async def _next(pubsub: PubSub) -> dict[str, Any]:
    while True:
        message: dict[str, Any] | None = await pubsub.get_message(timeout=1.0)
        if message is not None:
            return message


def _dedicated(client: RedisCluster) -> int:
    return sum(node.dedicated for node in client.stats().nodes)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_redis_pys_pubsub_takes_one_connection_and_gives_it_back(
    make_client: MakeClient, cluster: EmbeddedCluster, protocol: int
) -> None:
    client = make_client(cluster.nodes[0].port, decode_responses=True, protocol=protocol)
    pool, _ = await _pool(client)
    async with PubSub(pool) as pubsub:  # type: ignore[no-untyped-call]
        await pubsub.subscribe("pool:news")
        assert (await _next(pubsub))["type"] == "subscribe"
        assert _dedicated(client) == 1
        await client.execute_command("PUBLISH", "pool:news", "hello")
        assert (await _next(pubsub))["data"] == "hello"
        assert repr(pool) == "<NodePool taken=1 lasting=True>"
    assert _dedicated(client) == 0


async def test_redis_pys_monitor_works_on_it(client: RedisCluster) -> None:
    pool, node = await _pool(client)
    async with Monitor(pool) as monitor:  # type: ignore[arg-type, no-untyped-call]
        await client.ping(target_nodes=client.get_node(*node.endpoint))
        while (await monitor.next_command())["command"] != "PING":
            pass
    assert _dedicated(client) == 0


async def test_beyond_the_cap_subscribers_wait_in_line_and_are_then_told(
    make_client: MakeClient, cluster: EmbeddedCluster
) -> None:
    client = make_client(cluster.nodes[0].port, max_connections=3)  # one dedicated connection a node
    pool, node = await _pool(client)
    taken = await pool.get_connection()
    impatient, _ = await _pool(client, wait_s=0.05)
    with pytest.raises(Overloaded, match="all 1 dedicated connections are taken"):
        await impatient.get_connection()
    waiters = [asyncio.create_task(pool.get_connection()) for _ in range(2)]
    await eventually(lambda: node.dedicated.waiting == 2)
    await pool.release(taken)
    first = await waiters[0]
    assert not waiters[1].done() and _dedicated(client) == 1
    await pool.release(first)
    await pool.release(await waiters[1])
    assert _dedicated(client) == 0


async def test_a_cap_of_one_leaves_none(make_client: MakeClient, cluster: EmbeddedCluster) -> None:
    client = make_client(cluster.nodes[0].port, max_connections=1)
    pool, _ = await _pool(client)
    with pytest.raises(SharedConnectionError, match="max_connections=1"):
        await pool.get_connection()


async def test_a_connection_that_nobody_refers_to_any_more_gives_its_right_back(client: RedisCluster) -> None:
    pool, _ = await _pool(client)
    connection = await pool.get_connection()
    assert _dedicated(client) == 1
    await connection.disconnect()
    assert _dedicated(client) == 1  # it may be made again at any time
    del connection
    gc.collect()
    await eventually(lambda: _dedicated(client) == 0)


async def test_a_connection_that_another_thread_collects_is_closed_by_the_loop(client: RedisCluster) -> None:
    pool, _ = await _pool(client)
    forgotten = [await pool.get_connection()]
    writer = forgotten[0]._writer
    assert writer is not None
    collector = threading.Thread(target=lambda: (forgotten.clear(), gc.collect()))
    with pytest.warns(ResourceWarning, match="unclosed"):
        collector.start()
        collector.join()  # while the loop stands still
    assert not writer.is_closing() and _dedicated(client) == 1
    await eventually(lambda: _dedicated(client) == 0)
    assert writer.is_closing()


async def test_a_lost_connection_keeps_its_right_and_is_subscribed_again(client: RedisCluster) -> None:
    pool, node = await _pool(client)
    async with PubSub(pool, ignore_subscribe_messages=True) as pubsub:  # type: ignore[no-untyped-call]
        await pubsub.subscribe("pool:again")
        assert await pubsub.get_message(timeout=1.0) is None  # the confirmation
        name = client.get_node(*node.endpoint)
        await client.execute_command("CLIENT KILL", "TYPE", "pubsub", target_nodes=name)
        reading = asyncio.create_task(_next(pubsub))
        publish = partial(client.execute_command, "PUBLISH", "pool:again", "still here", target_nodes=name)
        await eventually(publish)
        assert (await reading)["data"] == "still here"
        assert _dedicated(client) == 1


async def test_closing_the_client_ends_its_subscribers(client: RedisCluster) -> None:
    pool, _ = await _pool(client)
    pubsub = PubSub(pool)  # type: ignore[no-untyped-call]
    await pubsub.subscribe("pool:end")
    assert (await _next(pubsub))["type"] == "subscribe"
    reading = asyncio.create_task(pubsub.get_message(timeout=None))
    await asyncio.sleep(0)
    await client.aclose()
    with pytest.raises(ClientClosed):
        await reading
    await pubsub.aclose()


async def test_a_node_that_cannot_be_reached_is_told_by_name(
    client: RedisCluster, unused_tcp_port: int
) -> None:
    await client.initialize()
    gone = client._need_router().nodes.at(Endpoint("127.0.0.1", unused_tcp_port))

    async def find_node(_last: Node | None) -> Node:
        return gone

    for lasting in (False, True):
        pool = NodePool(find_node, client.connection_kwargs, wait_s=0.3, lasting=lasting)
        with pytest.raises(NodeUnavailable, match=f"127.0.0.1:{unused_tcp_port}"):
            await pool.get_connection()
        assert gone.dedicated.count == 0


async def test_a_node_of_redis_pys_accessors_runs_commands_over_the_shared_connections(
    client: RedisCluster,
) -> None:
    await client.initialize()
    node = client.get_primaries()[0]
    assert await node.execute_command("PING")
    assert (await node.execute_command("CONFIG GET", "port"))["port"] == str(node.port)
    assert len(await node.execute_command("CLUSTER SLOTS")) == 3  # as the server has it, not as the cluster's
    await client.nodes_manager.initialize()
    assert len(client.get_primaries()) == 3
    assert _dedicated(client) == 0


async def test_channels_work_with_every_redis_py(client: RedisCluster) -> None:
    heard: list[Any] = []
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(everywhere=heard.append)
        await pubsub.psubscribe(**{"every*": heard.append})
        running = asyncio.create_task(pubsub.run(poll_timeout=0.05))

        async def arrives() -> bool:
            await client.execute_command("PUBLISH", "everywhere", "x")
            return bool(heard)

        await eventually(arrives)
        await client.execute_command("CLIENT KILL", "TYPE", "pubsub", target_nodes="all")
        heard.clear()
        await eventually(arrives)
        assert _dedicated(client) == 1
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    node = client.get_primaries()[0]
    async with client.pubsub(host=node.host, port=node.port) as pubsub:
        await pubsub.subscribe("here")
        assert (pubsub.connection.host, pubsub.connection.port) == (node.host, node.port)
    with pytest.raises(DataError, match="both host and port"):
        client.pubsub(port=1)
    async with client.monitor(target_node=node) as monitor:
        await client.ping(target_nodes=node)
        while (await monitor.next_command())["command"] != "PING":
            pass
    assert _dedicated(client) == 0
