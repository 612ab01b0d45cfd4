"""Arguments of redis-py's blocking classes, as those of the async ones. What those cannot take is refused."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import redis
import redis.asyncio.cluster
import redis.asyncio.connection
from redis.connection import ConnectionPool
from redis.exceptions import DataError

from tradewind.client.settings import take_own
from tradewind.client.standalone import MAINTENANCE
from tradewind.threads.pool import BLOCKING_CLASSES, DedicatedPool

ASYNC_CLASSES = {blocking: of_async for of_async, blocking in BLOCKING_CLASSES.items()}
# Looked up once: a program may put our classes in their place.
CLUSTER_CONSTRUCTOR, SERVER_CONSTRUCTOR = redis.RedisCluster.__init__, redis.Redis.__init__
# Only the blocking classes have these, for their own connections.
REFUSED: Mapping[str, str] = {
    "cache": "client-side caching is not available in this release",
    "cache_config": "client-side caching is not available in this release",
    "redis_connect_func": "it is for redis-py's own connections",
    "ssl_validate_ocsp": "certificates are not looked up by OCSP",
    "ssl_validate_ocsp_stapled": "certificates are not looked up by OCSP",
    "ssl_ocsp_context": "certificates are not looked up by OCSP",
    "ssl_ocsp_expected_cert": "certificates are not looked up by OCSP",
    "oss_cluster_maint_notifications_handler": "maintenance notifications are not listened to",
}


def async_cluster_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """The URL, if there is one, and the arguments of `tradewind.RedisCluster`."""
    given = _named(CLUSTER_CONSTRUCTOR, args, kwargs)
    url = given.pop("url", None)
    if given.get("startup_nodes"):
        given["startup_nodes"] = [
            redis.asyncio.cluster.ClusterNode(node.host, node.port) for node in given["startup_nodes"]
        ]
    return url, given


def async_server_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `tradewind.Redis`."""
    given = _named(SERVER_CONSTRUCTOR, args, kwargs)
    pool = given.get("connection_pool")
    if isinstance(pool, DedicatedPool):
        given["connection_pool"] = pool.core.connection_pool  # type: ignore[attr-defined]  # of a Redis
    elif isinstance(pool, ConnectionPool):
        given["connection_pool"] = _async_pool(pool)
    return given


def _named(constructor: Callable[..., None], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the caller has given, by name."""
    rest = dict(kwargs)
    own = take_own(rest)
    bound = inspect.signature(constructor).bind(None, *args, **rest)
    given = dict(list(bound.arguments.items())[1:])
    given |= given.pop("kwargs", {})
    return {**_without_refused(given), **own}


def _without_refused(given: dict[str, Any]) -> dict[str, Any]:
    for name, why in REFUSED.items():
        if given.pop(name, None):
            raise DataError(f"{name}: {why}; leave it out")
    return given


def _async_pool(pool: ConnectionPool) -> redis.asyncio.connection.ConnectionPool:
    """A pool of the other kind that says the same."""
    kind = ASYNC_CLASSES.get(pool.connection_class)
    if kind is None:
        raise DataError(f"connection_class={pool.connection_class.__name__}: Tradewind makes its own")
    kwargs = {
        name: value for name, value in pool.connection_kwargs.items() if not name.startswith(MAINTENANCE)
    }
    kwargs = _without_refused(kwargs)
    return redis.asyncio.connection.ConnectionPool(
        connection_class=kind, max_connections=pool.max_connections, **kwargs
    )
