"""A server that ends is replaced by its replica, started again, and nothing that WAIT confirmed is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tradewind.embedded import EmbeddedCluster, Supervisor
from tradewind.embedded.survey import Admin


@asynccontextmanager
async def supervised(cluster: EmbeddedCluster) -> AsyncIterator[list[str]]:
    events: list[str] = []
    task = asyncio.create_task(Supervisor(cluster, events.append).run())
    try:
        yield events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_killed_primary_is_replaced_and_returns_as_replica_with_the_confirmed_data(own_cluster):
    primary = await own_cluster.primary_of("key")
    async with Admin(primary.port) as admin:
        await admin.ask("SET", "key", "confirmed")
        assert int(await admin.ask("WAIT", 1, 1000)) == 1
    async with supervised(own_cluster) as events:
        await own_cluster.kill(primary)
        await own_cluster.wait_until_ready(20)
        roles = await own_cluster.roles()
        successor = await own_cluster.primary_of("key")
    assert roles[primary.port] == "replica"
    assert successor.port != primary.port
    assert any("took over" in event for event in events)
    async with Admin(successor.port) as admin:
        assert await admin.ask("GET", "key") == "confirmed"


async def test_a_killed_replica_just_comes_back(own_cluster):
    primary = await own_cluster.primary_of("key")
    (replica,) = await own_cluster.replicas_of(primary)
    async with supervised(own_cluster) as events:
        await own_cluster.kill(replica)
        async with asyncio.timeout(10):
            while not any("started again" in event for event in events):
                await asyncio.sleep(0.02)
        await own_cluster.wait_until_ready(20)
    assert (await own_cluster.primary_of("key")).port == primary.port
    assert not any("took over" in event for event in events)
