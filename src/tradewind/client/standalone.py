"""`Redis`: redis-py's class for a single server over Tradewind's connection layer.

redis-py's constructor turns its arguments into those of a connection; this module reads them from there, so
that arguments, URLs and pools all come by one way. What cannot be honoured is refused.
"""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

import redis.asyncio
from redis._parsers import Encoder
from redis.asyncio.client import Monitor, PubSub
from redis.asyncio.client import Redis as PlainRedis  # programs may put ours in its place
from redis.asyncio.connection import (
    Connection,
    ConnectionPool,
    DefaultParser,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import DataError

from tradewind.client.base import ONE_SLOT, OWN_DEFAULTS, ClientCore
from tradewind.client.calls import DEFAULT_CALL, BoundCalls, CallOptions, ServerCalls
from tradewind.client.catalog import CONNECTION_STATE_COMMANDS, CommandSpec
from tradewind.client.node import Node
from tradewind.client.policy import RetryPolicy
from tradewind.client.pool import NodeFinder, NodePool
from tradewind.client.router import Router
from tradewind.client.server_pipeline import ServerPipeline
from tradewind.client.settings import OWN_ARGUMENTS, check_names, retry_policy, take_own
from tradewind.client.topology import Endpoint, OneServer

if TYPE_CHECKING:
    from tradewind.client.telemetry import Telemetry

NO_MAXIMUM = 2**31  # what redis-py 7 has where nobody gives a maximum
CONNECTION_CLASSES = (Connection, SSLConnection, UnixDomainSocketConnection)

# What a pool may say of its connections. A name that is in none of these is refused.
HONOURED = frozenset({
    "host", "port", "path", "db", "username", "password", "credential_provider", "protocol",
    "legacy_responses", "socket_timeout", "socket_connect_timeout", "socket_keepalive",
    "socket_keepalive_options", "encoding", "encoding_errors", "decode_responses", "client_name", "lib_name",
    "lib_version", "driver_info", "ssl_keyfile", "ssl_certfile", "ssl_password", "ssl_cert_reqs",
    "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_check_hostname", "ssl_include_verify_flags",
    "ssl_exclude_verify_flags", "ssl_min_version", "ssl_ciphers", "retry", "retry_on_error",
    "socket_read_size", "event_dispatcher", "health_check_interval",
})  # fmt: skip
# docs/standalone.md says why.
WITHOUT_EFFECT = frozenset({"retry_on_timeout", "socket_type", "himport_registry"})
HINTS = {
    **CONNECTION_STATE_COMMANDS,
    "SELECT": "pass db= to a client of its own, or use client.client()",
    "READONLY": "it is for the nodes of a cluster",
    "READWRITE": "it is for the nodes of a cluster",
}
MAINTENANCE = ("maint", "orig_", "oss_cluster_maint")  # how the names begin that redis-py adds by itself
ONLY_UNSET: Mapping[str, tuple[Any, ...]] = {
    "redis_connect_func": (None,),
    "parser_class": (DefaultParser,),
    "encoder_class": (Encoder,),
}
OF_THE_CLIENT = frozenset({
    "auto_close_connection_pool", "connection_pool", "max_connections", "single_connection_client", "ssl",
    "unix_socket_path",
})  # fmt: skip
KNOWN = HONOURED | WITHOUT_EFFECT | ONLY_UNSET.keys() | OF_THE_CLIENT
# May stand beside a pool: they say nothing of connections.
BESIDE_A_POOL = frozenset({"single_connection_client", "auto_close_connection_pool", "event_dispatcher"})


class ServerPool(NodePool):
    """`client.connection_pool`: what redis-py's own classes take their connections from.

    Looks like the pool whose settings it has, also to another client that is made from it.
    """

    def __init__(self, settings: ConnectionPool, find_node: NodeFinder, *, wait_s: float, lasting: bool):
        super().__init__(find_node, settings.connection_kwargs, wait_s=wait_s, lasting=lasting)
        self.settings = settings
        self.connection_class = settings.connection_class
        self.max_connections = settings.max_connections


class Redis(ClientCore, redis.asyncio.Redis):  # type: ignore[misc]  # its bases differ
    """A drop-in for `redis.asyncio.Redis` over which any number of callers share one connection, or two.

    Takes redis-py's arguments. `max_connections` (default 100) is a hard cap on all connections of this
    client. `socket_timeout` (seconds, default 5) is the deadline of every call, waiting included. Of a
    `connection_pool` the settings are taken; its connections are not used.

    Own arguments: `lanes` (shared connections, default 2; `single_connection_client=True` means 1),
    `in_flight_max` and `in_flight_bytes_max` (defaults 4096 commands and 64 MiB): at a limit callers wait in
    arrival order until their deadline. `retry="always"` sends writes again whose reply was lost, as redis-py
    does: they may then run twice.

    Ordering: commands that one task awaits one after the other run in that order. Commands of concurrent
    callers have no order among each other. Errors: see `tradewind.client.errors`. Not thread safe; one event
    loop.
    """

    _has_slots = False
    _connection_state_commands = HINTS

    def __init__(
        self,
        *,
        lanes: int = 2,
        in_flight_max: int = 4096,
        in_flight_bytes_max: int = 64 * 1024 * 1024,
        retry: Any = None,
        slow_command_s: float | None = None,
        connection_age_s_max: float | None = None,
        telemetry: "Telemetry | bool | None" = None,
        connection_pool: ConnectionPool | ServerPool | None = None,
        **kwargs: Any,
    ) -> None:
        check_names(redis.asyncio.Redis.__init__, kwargs, OWN_ARGUMENTS)
        if isinstance(connection_pool, ServerPool):
            connection_pool = connection_pool.settings
        if connection_pool is None:
            given = {**OWN_DEFAULTS, **kwargs}
        else:
            _refuse_what_the_pool_says(connection_pool, kwargs)
            given = {"connection_pool": connection_pool, **kwargs}
        super().__init__(**given)
        self._given_pool = pool = self.connection_pool
        if "socket_connect_timeout" in kwargs:  # redis-py drops it for Unix sockets
            pool.connection_kwargs.setdefault("socket_connect_timeout", kwargs["socket_connect_timeout"])
        _refuse_what_is_not_understood(pool, kwargs)
        self.connection_arguments = _connection_arguments(pool)
        self.encoder = pool.get_encoder()  # type: ignore[no-untyped-call]
        self._set_up(
            self.connection_arguments,
            lanes=1 if self.single_connection_client else lanes,
            in_flight_max=in_flight_max,
            in_flight_bytes_max=in_flight_bytes_max,
            retry=_retry_policy(retry, kwargs if connection_pool is None else pool.connection_kwargs),
            slow_command_s=slow_command_s,
            connection_age_s_max=connection_age_s_max,
            telemetry=telemetry,
        )
        # redis-py declares the class, and asks for no more of it than ServerPool has.
        self.connection_pool = self._server_pool(lasting=False)  # type: ignore[assignment]

    @classmethod
    def from_url(
        cls,
        url: str,
        single_connection_client: bool = False,
        auto_close_connection_pool: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """`redis://user:password@host:port/db`, `rediss://...` or `unix:///path?db=0`, as redis-py reads it.

        Options may stand in the query, redis-py's and Tradewind's own; the query has the last word.
        """
        own = take_own(kwargs)
        pool = ConnectionPool.from_url(url, **kwargs)
        own |= take_own(pool.connection_kwargs)
        client = cls(connection_pool=pool, single_connection_client=single_connection_client, **own)
        client.auto_close_connection_pool = auto_close_connection_pool is not False
        return client

    @classmethod
    def from_pool(cls, connection_pool: ConnectionPool) -> Self:
        """A client with the settings of the pool."""
        return cast(Self, super().from_pool(connection_pool))

    async def __aenter__(self) -> Self:
        """`async with client:` waits until the server serves, and closes the client at the end."""
        return await super().__aenter__()

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close every connection of this client. Callers who still wait are told; it may be used again.

        A pool that was passed in is closed with it where redis-py would do so.
        """
        await super().aclose()
        if self.auto_close_connection_pool if close_connection_pool is None else close_connection_pool:
            await self._given_pool.aclose()

    def _make_router(self) -> Router:
        return Router(
            [self.endpoint],
            limits=self._limits,
            timeouts=self._timeouts,
            settings=self._settings,
            topology=OneServer(),
            retry=self._retry_policy,
        )

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens."""
        kwargs = self._given_pool.connection_kwargs
        if self._given_pool.connection_class is UnixDomainSocketConnection:
            return Endpoint(str(kwargs["path"]), 0)
        return Endpoint(str(kwargs.get("host", "localhost")), int(kwargs.get("port", 6379)))

    def set_response_callback(self, command: str, callback: Any) -> None:
        """As redis-py's, for plain functions. Raises DataError for what would have to be awaited."""
        if inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__):
            raise DataError(
                f"the callback for {command} is a coroutine function: await it on the reply instead"
            )
        super().set_response_callback(command, callback)

    async def execute_call(self, args: tuple[Any, ...], options: dict[str, Any], call: CallOptions) -> Any:
        """`execute_command` for every kind of command, with the options of one call."""
        if self._initialize:
            await self.initialize()
        return await self._run(self._spec(args), args, ONE_SLOT, None, options, call)

    def _slot_of_call(self, _spec: CommandSpec, _args: tuple[Any, ...]) -> int:
        return ONE_SLOT

    def _slots_of_keys(self, _args: tuple[Any, ...]) -> set[int]:
        return {ONE_SLOT}

    def _keep_replies(self) -> None:
        raise DataError("replies are cached by clients of a cluster only")

    def _choose_reads(self) -> None:
        raise DataError("read_from: a single server has no replicas that its client knows of")

    def _bound(self, call: CallOptions) -> BoundCalls:
        return ServerCalls(self, call)

    # -- on connections of their own -------------------------------------------------------------------------

    def _server_pool(self, *, lasting: bool) -> ServerPool:
        async def find_node(last: Node | None) -> Node:
            if last is None:  # later on, a client that was closed stays so
                await self.initialize()
            return self._need_router().nodes.at(self.endpoint)

        return ServerPool(self._given_pool, find_node, wait_s=self._timeout_s, lasting=lasting)

    def pubsub(self, **kwargs: Any) -> PubSub:
        """redis-py's, on a dedicated connection; it subscribes anew when that is lost."""
        pool = self._server_pool(lasting=True)
        return PubSub(pool, event_dispatcher=self._event_dispatcher, **kwargs)  # type: ignore[arg-type]  # as above

    def monitor(self) -> Monitor:
        """redis-py's, on a dedicated connection."""
        return Monitor(self.connection_pool)

    def client(self) -> PlainRedis:
        """redis-py's own client on one dedicated connection, for what changes its connection (SELECT, WATCH).

        One task at a time uses it. It takes its connection at the first command and gives it back with
        `aclose()`, or at the end of `async with`; errors are redis-py's.
        """
        return PlainRedis(connection_pool=self.connection_pool, single_connection_client=True)

    def pipeline(self, transaction: bool = True, shard_hint: Any | None = None) -> ServerPipeline:
        """See `ServerPipeline`."""
        return ServerPipeline(self, DEFAULT_CALL, transaction, shard_hint)


def _connection_arguments(pool: ConnectionPool) -> dict[str, Any]:
    """The pool's settings in full, with our defaults where it says nothing."""
    arguments = {**OWN_DEFAULTS, **pool.connection_kwargs, "connection_class": pool.connection_class}
    if pool.max_connections < NO_MAXIMUM:
        arguments["max_connections"] = pool.max_connections
    return arguments


def _retry_policy(retry: Any, given: Mapping[str, Any]) -> RetryPolicy:
    retry = given.get("retry") if retry is None else retry
    return retry_policy({"retry": retry, "retry_on_error": given.get("retry_on_error")})


def _refuse_what_the_pool_says(pool: ConnectionPool, kwargs: Mapping[str, Any]) -> None:
    """Arguments of connections beside a pool, which redis-py ignores; allowed where they say the same."""
    for name, value in kwargs.items():
        if name not in BESIDE_A_POOL and (
            name not in pool.connection_kwargs or pool.connection_kwargs[name] != value
        ):
            _refuse(f"{name}={value!r} beside a connection_pool, which does not say so: give it to the pool")


def _refuse_what_is_not_understood(pool: ConnectionPool, kwargs: Mapping[str, Any]) -> None:
    kind = pool.connection_class
    if kind not in CONNECTION_CLASSES:
        _refuse(f"connection_class={kind.__name__}: Tradewind makes its own; use redis-py's client")
    maintenance = pool.connection_kwargs.get("maint_notifications_config")
    if maintenance is not None and maintenance.enabled is True:
        _refuse("maint_notifications_config: maintenance notifications are not listened to; leave it out")
    for name, value in {**kwargs, **pool.connection_kwargs}.items():
        if name in ONLY_UNSET and value not in ONLY_UNSET[name]:
            _refuse(f"{name}: it is for redis-py's own connections; leave it out")
        if name not in KNOWN and not name.startswith(MAINTENANCE):
            _refuse(f"{name}={value!r} is not an argument that this release can honour; leave it out")


def _refuse(why: str) -> NoReturn:
    raise DataError(why)
