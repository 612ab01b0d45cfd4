"""The clients that are measured: how each is opened with the settings that suit the workload."""

import importlib.util
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

HOST = "127.0.0.1"
TIMEOUT_S = 10
GLIDE_IN_FLIGHT_MAX = 100_000  # above every number of callers; its default refuses more than 1,000

# Arguments that redis-py and Tradewind both take: the settings this project began with.
SETTINGS: dict[str, Any] = {
    "decode_responses": True,
    "socket_connect_timeout": TIMEOUT_S,
    "socket_timeout": TIMEOUT_S,
    "socket_keepalive": True,
    "health_check_interval": 30,
}

# A client has `get(key)` and `set(key, value)`; that is all the workload calls.
Client = Any


@dataclass(frozen=True)
class Contender:
    """A client under its name in the results; `distribution` and `module` tell whether it is installed."""

    name: str
    distribution: str
    module: str
    open: Callable[[int, int], AbstractAsyncContextManager[Client]]

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    @property
    def version(self) -> str:
        return metadata.version(self.distribution)


@asynccontextmanager
async def _redis_py(port: int, pool: int) -> AsyncIterator[Client]:
    from redis.asyncio import RedisCluster

    async with RedisCluster(host=HOST, port=port, max_connections=pool, **SETTINGS) as client:
        yield client


@asynccontextmanager
async def _tradewind(port: int, pool: int) -> AsyncIterator[Client]:
    from tradewind import RedisCluster

    async with RedisCluster(host=HOST, port=port, max_connections=pool, **SETTINGS) as client:
        yield client


@asynccontextmanager
async def _coredis(port: int, pool: int) -> AsyncIterator[Client]:
    import coredis

    async with coredis.RedisCluster(HOST, port, max_connections=pool, decode_responses=True) as client:
        yield client


@asynccontextmanager
async def _glide(port: int, pool: int) -> AsyncIterator[Client]:
    """It has no pool: one connection to each node."""
    from glide import GlideClusterClient, GlideClusterClientConfiguration, NodeAddress

    configuration = GlideClusterClientConfiguration(
        [NodeAddress(HOST, port)],
        request_timeout=TIMEOUT_S * 1_000,
        inflight_requests_limit=GLIDE_IN_FLIGHT_MAX,
    )
    client = await GlideClusterClient.create(configuration)
    try:
        yield client
    finally:
        await client.close()


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("redis-py", "redis", "redis", _redis_py),
        Contender("coredis", "coredis", "coredis", _coredis),
        Contender("glide", "valkey-glide", "glide", _glide),
        Contender("tradewind", "tradewind", "tradewind", _tradewind),
    )
}
