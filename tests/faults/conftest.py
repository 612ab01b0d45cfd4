"""A cluster that the tests of this folder break, one after the other, and find whole again."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.conftest import SERVER, EmbeddedCluster
from tests.support.announced import AnnouncedCluster
from tests.support.client_fixtures import client, make_client, no_complaints, pytest_asyncio_loop_factories
from tests.support.loop_holds import loop_holds
from tests.support.migration import Migration
from tests.support.tls import TlsCluster
from tradewind.embedded.survey import Admin

__all__ = ["client", "loop_holds", "make_client", "no_complaints", "pytest_asyncio_loop_factories"]

NODE_TIMEOUT_S = 1.0


@pytest.fixture(scope="session")
def shared_fragile_cluster() -> Iterator[EmbeddedCluster]:
    cluster = EmbeddedCluster(server=SERVER, node_timeout_ms=int(NODE_TIMEOUT_S * 1000))
    asyncio.run(cluster.start())
    yield cluster
    asyncio.run(cluster.stop())


@pytest.fixture(scope="session")
def tls_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsCluster]:
    cluster = TlsCluster(tmp_path_factory.mktemp("tls"))
    asyncio.run(cluster.start())
    yield cluster
    asyncio.run(cluster.stop())


@pytest.fixture
async def fragile(shared_fragile_cluster: EmbeddedCluster) -> AsyncIterator[EmbeddedCluster]:
    """Break it as you like: stopped servers go on, dead ones are started again, before the next test."""
    cluster = shared_fragile_cluster
    await cluster.wait_until_ready()
    await _empty(cluster)
    yield cluster
    for node in cluster.nodes:
        await cluster.kill(node, signal.SIGCONT)
    roles = await cluster.roles()
    for node in cluster.nodes:
        if roles[node.port] == "down":
            await cluster.restart(node)
    await cluster.wait_until_ready()


@pytest.fixture
async def announced(fragile: EmbeddedCluster) -> AsyncIterator[AnnouncedCluster]:
    """The same cluster behind fault proxies whose ports its servers announce."""
    async with AnnouncedCluster(fragile) as behind_proxies:
        yield behind_proxies


async def _empty(cluster: EmbeddedCluster) -> None:
    for port, role in (await cluster.roles()).items():
        if role == "primary":
            async with Admin(port) as admin:
                await admin.ask("FLUSHALL")


@pytest.fixture
async def migration(clean_cluster: EmbeddedCluster) -> AsyncIterator[Migration]:
    """The slot is where it was, afterwards."""
    there = await Migration.plan(clean_cluster)
    yield there
    if (await clean_cluster.primary_of("moving")).port == there.target:
        back = await there.back()
        await back.begin()
        await back.finish()
    await clean_cluster.wait_until_ready()
