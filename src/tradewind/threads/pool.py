"""Connections of redis-py's own for blocking clients: for its PubSub, Monitor and single-connection client.

Each is made, read and written by redis-py in the thread that uses it, and counts as a dedicated connection
of its node: before it is made its right is waited for, at most until the client's deadline.
"""

import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import redis.asyncio.connection
import redis.connection
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.retry import Retry

from tradewind.client.base import ClientCore
from tradewind.client.node import Node
from tradewind.client.settings import connection_arguments
from tradewind.client.topology import Endpoint
from tradewind.threads.background import background

BLOCKING_CLASSES: Mapping[Any, type[Any]] = {
    redis.asyncio.connection.Connection: redis.connection.Connection,
    redis.asyncio.connection.SSLConnection: redis.connection.SSLConnection,
    redis.asyncio.connection.UnixDomainSocketConnection: redis.connection.UnixDomainSocketConnection,
}
OF_THE_DIALLING = (
    "host",
    "port",
    "path",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_keepalive_options",
)


class _Right:
    """What a node's dedicated connections know of one that redis-py has made."""

    def __init__(self, connection: Any) -> None:
        self.node: Node | None = None  # as long as it is held; changed in the loop alone
        self.connection = connection

    def drop(self, _error: Exception) -> None:
        """Called in the loop: who reads from it, in another thread, is told that it is closed."""
        sock = self.connection._sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class DedicatedPool(ConnectionPool):
    """A pool for redis-py's blocking classes. Keeps nothing: what is released is closed.

    `lasting` is for subscriptions: a lost connection is made again once, and subscribes anew. Without it
    nothing is ever sent twice.
    """

    def __init__(
        self, core: ClientCore, endpoint: Endpoint, kwargs: Mapping[str, Any], *, lasting: bool
    ) -> None:
        self.core = core
        self._endpoint = endpoint
        self._rights: dict[Any, _Right] = {}
        super().__init__(
            connection_class=BLOCKING_CLASSES[kwargs["connection_class"]],
            retry=Retry(NoBackoff(), 1 if lasting else 0),
            **_arguments(kwargs, endpoint),
        )

    def get_connection(self, command_name: str | None = None, *_keys: Any, **_options: Any) -> Any:
        """A connection of one's own until `release`. Raises Overloaded when none may be made in time, and
        otherwise what redis-py raises.
        """
        connection = self.make_connection()
        right = _Right(connection)
        try:
            background().run(partial(self._acquire, right))
            connection.connect()  # type: ignore[no-untyped-call]
            self._rights[connection] = right
        except BaseException:  # an interrupt may come as the right was given: whether it was, the loop knows
            background().hand_over(_release, right)
            connection.disconnect()  # type: ignore[no-untyped-call]  # redis-py
            raise
        return connection

    async def _acquire(self, right: _Right) -> None:
        await self.core.initialize()
        node = self.core._need_router().nodes.at(self._endpoint)
        await node.dedicated.acquire_right(right, self.core.deadline_s())
        right.node = node

    def release(self, connection: Any) -> None:
        """Close it; the next in line may have one."""
        try:
            connection.disconnect()
        finally:
            right = self._rights.pop(connection, None)
            if right is not None:
                background().hand_over(_release, right)

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections; who uses one connects again."""
        for connection in list(self._rights):
            connection.disconnect()


def _release(right: _Right) -> None:
    node, right.node = right.node, None
    if node is not None:
        node.dedicated.release_right(right)


def _arguments(kwargs: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """From those of the async client's connections."""
    dialling = {name: kwargs[name] for name in OF_THE_DIALLING if name in kwargs}
    if "path" not in dialling:
        dialling["host"], dialling["port"] = endpoint
    of_tls = {name: value for name, value in kwargs.items() if name.startswith("ssl_")}
    return {**connection_arguments(kwargs), **dialling, **of_tls}
