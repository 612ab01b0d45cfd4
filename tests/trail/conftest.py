"""A cluster with events in it, and places to export them to."""

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.postgres import PostgresServer
from tests.trail.trails import PARTITIONS
from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.opening import open_engine

_numbers = itertools.count()


@pytest.fixture
async def client(clean_cluster: EmbeddedCluster) -> AsyncIterator[RedisCluster]:
    client = RedisCluster.from_url(clean_cluster.url)
    await open_engine(client, PARTITIONS)
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """The URL of an empty database."""
    return postgres.url(f"events_{next(_numbers)}")


@pytest.fixture(params=["parquet", "postgresql"])
def place(request, tmp_path) -> str:
    """Where events may go, as a user writes it: each test runs for both kinds."""
    if request.param == "parquet":
        return str(tmp_path / "events")
    return str(request.getfixturevalue("database"))
