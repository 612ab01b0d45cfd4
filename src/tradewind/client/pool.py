"""redis-py's own connections, as dedicated connections of our nodes: for its PubSub, Monitor and the like.

redis-py's classes for what cannot share a connection read and write redis-py connections, which they get from
a connection pool. `DedicatedConnection` is such a connection and `NodePool` such a pool, under our limits: a
connection first gets in line for the right to exist, is dialled as every other connection of its node, and
gives the right back at the end. Before each dial it asks where to, so that it follows the topology.
"""

import asyncio
import itertools
import random
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import redis.asyncio.connection
from redis._parsers import Encoder
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from tradewind.client.dedicated import from_finalizer
from tradewind.client.errors import ClientClosed, NodeUnavailable
from tradewind.client.node import Node
from tradewind.client.policy import backoff_s
from tradewind.client.settings import connection_arguments
from tradewind.client.topology import Endpoint

if TYPE_CHECKING:
    from redis.asyncio.connection import ConnectionPoolInterface
else:  # redis-py 7 has no such class, and asks for none
    ConnectionPoolInterface = getattr(redis.asyncio.connection, "ConnectionPoolInterface", object)

# Where to go: given the node of the last connection, None for the first one. May wait for the client to open.
NodeFinder = Callable[[Node | None], Awaitable[Node]]


class DedicatedConnection(Connection):
    """redis-py's connection, holding the right to be one of the dedicated connections of its node.

    Connecting waits in line for that right, at most `wait_s`, and raises Overloaded when it does not get it.
    It is dialled as our own are, with their TLS and socket options; the handshake is redis-py's. A `lasting`
    connection that cannot be made is tried again, elsewhere if need be, until `wait_s` has passed; any other
    is tried once. Both then raise NodeUnavailable. The right is kept while the connection is made again, and
    given back by `end`, or when nobody refers to the connection any more.
    """

    _node: Node | None = None  # whose right it holds
    _forgotten: "weakref.finalize[..., DedicatedConnection] | None" = None

    def __init__(self, *, find_node: NodeFinder, wait_s: float, lasting: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._find_node = find_node
        self._wait_s = wait_s
        self._lasting = lasting
        self._connecting: asyncio.Task[Any] | None = None
        self._turn = asyncio.Lock()
        self._ended = False
        self._rng = random.Random()

    async def connect(self) -> None:
        """Be connected; see the class. One caller at a time connects, the others wait for it."""
        if self._ended:
            raise ClientClosed(f"{self._host_error()}: the connection was given back")
        if self._connecting is not None and self._connecting is asyncio.current_task():
            if not self.is_connected:  # in the handshake, or while the subscriptions were made anew
                raise RedisConnectionError(f"{self._host_error()}: connection lost as soon as it was made")
            return
        async with self._turn:
            if not self.is_connected:
                self._connecting = asyncio.current_task()
                try:
                    await self._connect_until(time.monotonic() + self._wait_s)
                finally:
                    self._connecting = None
                    self._end_if_given_back()

    async def connect_check_health(self, *_args: Any, **_kwargs: Any) -> None:
        """What redis-py calls when it finds itself disconnected while it sends."""
        await self.connect()

    async def _connect_until(self, deadline_s: float) -> None:
        last = self._node
        for attempt in itertools.count(1):
            last = await self._find_node(last)
            await self._hold_right(last, deadline_s)
            self.host, self.port = last.endpoint
            try:
                async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                    await last.dialer.dial(self._dial)
                return
            except TimeoutError:
                raise NodeUnavailable(f"{last.name}: no connection before the deadline") from None
            except NodeUnavailable:
                delay_s = backoff_s(attempt, self._rng)
                if not self._lasting or time.monotonic() + delay_s >= deadline_s:
                    raise
            await asyncio.sleep(delay_s)

    async def _connect(self) -> None:
        if self._node is not None:
            self._reader, self._writer = await self._node.open_stream()
        if self._node is not None:  # still: it may have been given back meanwhile
            self._provide_for_collection(self._node, self._writer)

    async def _dial(self) -> None:
        try:
            await super().connect_check_health(retry_socket_connect=False)
        except BaseException:
            self._hang_up()
            raise

    async def _hold_right(self, node: Node, deadline_s: float) -> None:
        if node is not self._node:
            self._give_back()
            await node.hold(self, deadline_s)
            self._node = node
            self._provide_for_collection(node, None)

    def _give_back(self) -> None:
        node, self._node = self._node, None
        if node is not None:
            if self._forgotten is not None:
                self._forgotten.detach()
            node.dedicated.release_right(self)

    def _provide_for_collection(self, node: Node, writer: asyncio.StreamWriter | None) -> None:
        """Have the loop give back what is held now, should this be collected without `end`.

        That keeps the writer out of the garbage, or it would close itself in the thread that collects.
        """
        if self._forgotten is not None:
            self._forgotten.detach()
        loop = asyncio.get_running_loop()
        give_back = partial(_give_back_forgotten, node, writer)
        self._forgotten = weakref.finalize(self, from_finalizer, loop, give_back)
        self._forgotten.atexit = False

    def _hang_up(self) -> None:
        self._parser.on_disconnect()  # type: ignore[no-untyped-call]
        self._close()  # type: ignore[no-untyped-call]

    def drop(self, _error: Exception) -> None:
        """End the connection: who reads from it is told that it is closed, and connects again."""
        self._close()  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """Close it for good and give the right back."""
        self._ended = True
        self._hang_up()
        self._give_back()

    def _end_if_given_back(self) -> None:
        """While it was being connected, by another task."""
        if self._ended:
            self.end()

    def __del__(self, *_args: Any) -> None:
        """Warns as redis-py's, which also closes in the thread that collects: here the loop does."""
        if getattr(self, "_writer", None) is not None:
            warnings.warn(f"unclosed Connection {self!r}", ResourceWarning, source=self, stacklevel=2)


def _give_back_forgotten(node: Node, writer: asyncio.StreamWriter | None) -> None:
    if writer is not None:
        writer.close()
    node.dedicated.release_right(None)


class NodePool(ConnectionPoolInterface):
    """A pool for redis-py's classes that take one. Keeps nothing: what is released is closed.

    `kwargs` are redis-py's for a connection, as its clients and nodes keep them. `lasting` is for
    subscriptions, which are made anew on a new connection: redis-py then repeats what it was sending, once.
    Without it nothing is ever sent twice.
    """

    def __init__(
        self, find_node: NodeFinder, kwargs: Mapping[str, Any], *, wait_s: float, lasting: bool
    ) -> None:
        self.connection_kwargs = dict(kwargs)  # for who looks at them, as at those of redis-py's pool
        self._arguments = connection_arguments(kwargs)
        self._find_node = find_node
        self._wait_s = wait_s
        self._lasting = lasting
        self._taken: weakref.WeakSet[DedicatedConnection] = weakref.WeakSet()

    def make_connection(self) -> DedicatedConnection:
        """A connection that is not connected yet, and holds no right."""
        return DedicatedConnection(
            find_node=self._find_node,
            wait_s=self._wait_s,
            lasting=self._lasting,
            retry=Retry(NoBackoff(), 1 if self._lasting else 0),
            **self._arguments,
        )

    async def get_connection(
        self, command_name: str | None = None, *_keys: Any, **_options: Any
    ) -> DedicatedConnection:
        """A new connection of one's own until `release`. Errors as DedicatedConnection says, or
        ClientClosed, SharedConnectionError, ClusterNotReady.
        """
        connection = self.make_connection()
        try:
            await connection.connect()
        except BaseException:
            connection.end()
            raise
        self._taken.add(connection)
        return connection

    async def release(self, connection: DedicatedConnection) -> None:  # type: ignore[override]
        """Close it; the next in line may open one."""
        self._taken.discard(connection)
        connection.end()

    def get_encoder(self) -> Encoder:
        """As redis-py's."""
        kwargs = self.connection_kwargs
        return Encoder(  # type: ignore[no-untyped-call]
            encoding=kwargs.get("encoding", "utf-8"),
            encoding_errors=kwargs.get("encoding_errors", "strict"),
            decode_responses=kwargs.get("decode_responses", False),
        )

    def get_protocol(self) -> Any:
        """As redis-py's: None where the caller left it open."""
        return self.connection_kwargs.get("protocol")

    def get_connection_count(self) -> list[tuple[int, dict[str, Any]]]:
        """As redis-py's, for its metrics."""
        return [(len(self._taken), {"state": "used"})]

    async def disconnect(self, _inuse_connections: bool = True) -> None:
        """Close the connections; who uses one connects again."""
        for connection in list(self._taken):
            await connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        """The same: a pool has nothing of its own that could be closed."""
        await self.disconnect()

    def reset(self) -> None:
        """There is nothing to forget."""

    def set_retry(self, _retry: Any) -> None:
        """What may be sent again is not for redis-py to decide."""

    async def re_auth_callback(self, _token: Any) -> None:
        """Nobody waits in the pool; a PubSub authenticates its own connection."""

    def __repr__(self) -> str:
        return f"<NodePool taken={len(self._taken)} lasting={self._lasting}>"


class ServerNode(ClusterNode):
    """redis-py's name for a server of the cluster, in `get_nodes()` and the like; it has no connections.

    What redis-py's own classes take from it is a dedicated connection. A command goes by `execute`, the
    client's way to this node.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        pool: NodePool,
        kwargs: dict[str, Any],
        execute: Callable[..., Awaitable[Any]],
    ) -> None:
        super().__init__(*endpoint, **kwargs)
        self.pool = pool
        self._execute = execute

    async def execute_command(self, *args: Any, asking: bool = False, **kwargs: Any) -> Any:
        """As redis-py's, over the shared connections; redirects are followed, so `asking` says nothing."""
        return await self._execute(*args, **kwargs)

    def acquire_connection(self) -> DedicatedConnection:
        """A connection that gets its right, and dials, when it is first used."""
        return self.pool.make_connection()

    def release(self, connection: DedicatedConnection) -> None:  # type: ignore[override]
        """Close it."""
        connection.end()
