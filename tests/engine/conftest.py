"""A client on an empty cluster with the engine's functions loaded, as a worker has one."""

from collections.abc import AsyncIterator

import pytest

from tests.support.clients import check_idle
from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.library import load_library


@pytest.fixture
async def client(clean_cluster: EmbeddedCluster) -> AsyncIterator[RedisCluster]:
    """Closed at the end, and then nothing is left in it."""
    client = RedisCluster.from_url(clean_cluster.url)
    await load_library(client)
    yield client
    await check_idle(client)
    await client.aclose()
