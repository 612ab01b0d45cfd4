"""`RedisCluster`: redis-py's class and command methods over Tradewind's connection layer.

redis-py provides the command methods, the reply callbacks and the constructor; this module finds out where a
command goes (by its keys, its flag, or `target_nodes`) and hands it to the router. A short path serves
commands with one key.
"""

import asyncio
import functools
import random
import time
from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, cast

import hiredis
import redis.asyncio
from redis.asyncio.cluster import ClusterNode
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.cluster import PRIMARY, REPLICA, SLOT_ID
from redis.crc import key_slot
from redis.exceptions import DataError, RedisClusterException, RedisError, ResponseError

from tradewind.client.blocking import blocking_call, run_blocking
from tradewind.client.calls import DEFAULT_CALL, BoundCalls, CallOptions, call_each_slot
from tradewind.client.catalog import CONNECTION_STATE_COMMANDS, CommandSpec, find_keys, parse_catalog
from tradewind.client.command import Command, pack
from tradewind.client.commit import Committer
from tradewind.client.errors import ClientClosed, ClusterNotReady, SharedConnectionError
from tradewind.client.node import Node
from tradewind.client.pipeline import Pipeline
from tradewind.client.policy import Limits, Timeouts
from tradewind.client.router import Router
from tradewind.client.settings import connection_settings
from tradewind.client.stats import ClientStats
from tradewind.client.subscription import MessageHandler, ShardedSubscription
from tradewind.client.topology import SLOT_COUNT, Endpoint, SlotMap

COMMAND_TIMEOUT_S = 5.0
CONNECTIONS_MAX = 100  # per node, as redis-py 8
CATALOG_ANSWER_S = 5.0
SLOTS_CACHED_MAX = 4096
REPLY_SKIP_PACKED = pack(("CLIENT REPLY", "SKIP"))  # holds for the next command only
SILENCE_S_MIN = (
    2.0  # a short stall of a server costs its callers time, but no reconnect, however short they wait
)


class RedisCluster(redis.asyncio.RedisCluster):
    """A drop-in for `redis.asyncio.RedisCluster` over which any number of callers share a few connections.

    Takes redis-py's arguments. `max_connections` is a hard cap per node on all connections of this client; it
    is not reached unless callers block. `socket_timeout` (seconds, default 5) is the deadline of every call,
    waiting included.

    Own arguments: `lanes` (shared connections per node, default 2), `in_flight_max` and `in_flight_bytes_max`
    (per node, defaults 4096 commands and 64 MiB): at a limit callers wait in arrival order until their
    deadline. `retry="always"` sends writes again whose reply was lost, as redis-py does: they may then run
    twice.

    Ordering: commands that one task awaits one after the other run in that order. Commands of concurrent
    callers have no order among each other. Errors: see `tradewind.client.errors`. Not thread safe; one event
    loop.
    """

    def __init__(
        self,
        *args: Any,
        lanes: int = 2,
        in_flight_max: int = 4096,
        in_flight_bytes_max: int = 64 * 1024 * 1024,
        retry: Any = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("read_from_replicas") or kwargs.get("load_balancing_strategy"):
            raise RedisClusterException(
                "reading from replicas is not available in this release; leave the option out"
            )
        self._retry_always = retry == "always"
        kwargs["retry"] = None if isinstance(retry, str) else retry
        if len(args) <= 2:  # host and port; redis-py 7 has neither a deadline nor a cap of its own
            kwargs.setdefault("socket_timeout", COMMAND_TIMEOUT_S)
            kwargs.setdefault("max_connections", CONNECTIONS_MAX)
        super().__init__(*args, **kwargs)
        timeout = self.connection_kwargs["socket_timeout"]
        connect = self.connection_kwargs["socket_connect_timeout"]
        self._timeout_s = float("inf") if timeout is None else float(timeout)
        self._limits = Limits(
            connections_max=int(self.connection_kwargs["max_connections"]),
            lanes_max=lanes,
            in_flight_max=in_flight_max,
            in_flight_bytes_max=in_flight_bytes_max,
        )
        self._timeouts = Timeouts(
            command_s=self._timeout_s,
            connect_s=5.0 if connect is None else float(connect),
            silence_s=30.0 if timeout is None else max(float(timeout), SILENCE_S_MIN),
        )
        self._settings = connection_settings(self.connection_kwargs)
        self._router: Router | None = None
        self._catalog: dict[str, CommandSpec] = {}
        self._containers: set[str] = set()  # commands whose second word names what they do
        self._short_path: dict[str, tuple[int, bool]] = {}
        self._committers: dict[tuple[int, int], Committer] = {}
        self._subscriptions: list[ShardedSubscription] = []
        self._opening: asyncio.Task[None] | None = None

    @classmethod
    def from_url(cls, url: str, **kwargs: Any) -> Self:
        """`redis://user:password@host:port` or `rediss://...`, as redis-py reads it."""
        return cast(Self, super().from_url(url, **kwargs))

    # -- life cycle ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """`async with client:` waits until the cluster is ready, and closes the client at the end."""
        return cast(Self, await super().__aenter__())

    def __await__(self) -> Generator[Any, None, Self]:
        return self.initialize().__await__()

    async def initialize(self, *_args: Any, **_kwargs: Any) -> Self:
        """Wait until every slot is served, at most `socket_connect_timeout`; `await client` does the same.

        Raises ClusterNotReady with each node's own reason (refused, wrong password, TLS, timeout).
        """
        if self._initialize:
            if self._opening is None:  # one opening for all callers; who gives up waiting does not end it
                self._opening = asyncio.get_running_loop().create_task(self._open(), name="open")
                self._opening.add_done_callback(self._opened)
            opening = self._opening
            try:
                await asyncio.shield(opening)
            except ClusterNotReady as error:
                raise ClusterNotReady(str(error), error.reasons) from None  # each caller gets its own
            except asyncio.CancelledError:
                if opening.cancelled():  # before it began
                    raise ClientClosed("the client was closed while it was being opened") from None
                raise
        return self

    async def _open(self) -> None:
        router = Router(
            [Endpoint(node.host, int(node.port)) for node in self.startup_nodes],
            limits=self._limits,
            timeouts=self._timeouts,
            settings=self._settings,
            address_remap=self.nodes_manager.address_remap,
            require_full_coverage=self.nodes_manager.require_full_coverage,
            on_map=self._show_map,
        )
        router.retry_always = self._retry_always
        try:
            await router.start()
            if not self._catalog:
                self._learn_commands(await self._ask_catalog(router))
        except BaseException as error:
            await router.aclose()
            if isinstance(error, asyncio.CancelledError):
                raise ClientClosed("the client was closed while it was being opened") from None
            raise
        self._router = router
        self._create_future = asyncio.get_running_loop().create_future  # kept: looking it up costs a getpid()
        self._initialize = False

    def _opened(self, opening: "asyncio.Task[None]") -> None:
        if self._opening is opening:
            self._opening = None
        if not opening.cancelled():
            opening.exception()  # the callers have been told; there may be none left

    async def _ask_catalog(self, router: Router) -> dict[str, CommandSpec]:
        """Ask one primary after the other: the first may fail at this moment."""
        reasons: dict[str, str] = {}
        for node in router.primaries():
            try:
                return parse_catalog(await router.ask(node, ("COMMAND",), CATALOG_ANSWER_S))
            except (RedisError, ValueError, LookupError, TypeError) as error:
                reasons[node.name] = str(error)
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ClusterNotReady(f"no node could tell its commands: {listed}", reasons)

    def _learn_commands(self, catalog: dict[str, CommandSpec]) -> None:
        self._catalog = catalog
        self._containers = {name.partition(" ")[0] for name in catalog if " " in name}
        if not self._is_utf8():
            return  # the short path leaves the encoding to hiredis, which knows one
        self._short_path = {
            name: (spec.first_key, spec.repeatable)
            for name, spec in catalog.items()
            if spec.first_key > 0
            and not spec.blocking
            and " " not in name
            and name not in CONNECTION_STATE_COMMANDS
        }

    async def aclose(self) -> None:
        """Close every connection. Callers who still wait are told; the client may be used again after it."""
        router, self._router, self._initialize = self._router, None, True
        opening, subscriptions = self._opening, list(self._subscriptions)
        self._committers.clear()
        if opening is not None:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        for subscription in subscriptions:
            await subscription.aclose()
        if router is not None:
            await router.aclose()

    def _show_map(self, slot_map: SlotMap) -> None:
        """Let redis-py's own accessors (get_nodes, get_node_from_key, keyslot...) see the map. These nodes
        hold no connections; they only name servers.
        """
        manager = self.nodes_manager
        known, default = manager.nodes_cache, cast("ClusterNode | None", manager.default_node)
        default_was_primary = default is not None and default.server_type == PRIMARY
        nodes = {
            endpoint.name: known[endpoint.name]
            if endpoint.name in known
            else ClusterNode(*endpoint, **self.connection_kwargs)
            for endpoint, _ in slot_map.endpoints()
        }
        for endpoint, is_primary in slot_map.endpoints():
            nodes[endpoint.name].server_type = PRIMARY if is_primary else REPLICA
        slots: dict[int, list[ClusterNode]] = {}
        for item in slot_map.ranges:
            owners = [nodes[endpoint.name] for endpoint in (item.primary, *item.replicas)]
            slots.update(dict.fromkeys(range(item.first, item.last + 1), owners))
        manager.nodes_cache, manager.slots_cache = nodes, slots
        if default is not None and default_was_primary and default.server_type != PRIMARY:
            default = None
        if default is None or default.name not in nodes:
            manager.default_node = next(iter(nodes.values()))  # a primary: they come first

    # -- commands --------------------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # type checkers see redis-py's own signatures
        # redis-py's GET and SET spend more time on options that were not given than all the rest takes.

        @functools.wraps(redis.asyncio.RedisCluster.get)
        def get(self, name):
            return self.execute_command("GET", name)

        @functools.wraps(redis.asyncio.RedisCluster.set)
        def set(self, name, value, *args, **options):
            if args or options:
                return super().set(name, value, *args, **options)
            return self.execute_command("SET", name, value)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command on the node that owns its key, or on `target_nodes`.

        Reads are repeated until the deadline when a reply is lost. Writes are sent again only when they
        provably did not run; otherwise OutcomeUnknown is raised. See `tradewind.client.errors` for the errors
        and their causes.
        """
        if self._initialize:
            await self.initialize()
        short = self._short_path.get(args[0])
        if short is None or (options and (len(options) > 1 or "keys" not in options)):
            return await self.execute_call(args, options, DEFAULT_CALL)
        try:
            command = self._short_command(args, *short)
        except (TypeError, IndexError):
            return await self.execute_call(args, options, DEFAULT_CALL)
        router = self._router
        if router is None:
            raise ClientClosed("the client is closed")
        router.commands += 1
        router.dispatch(command)
        reply = await command.future
        callback = self.response_callbacks.get(args[0])
        return reply if callback is None else callback(reply)

    def _short_command(self, args: tuple[Any, ...], first_key: int, repeatable: bool) -> Command:
        """For the short path: one key at a known place, default options. Sends nothing."""
        key = args[first_key]
        packed = hiredis.pack_command(args)
        slot = key_slot(key.encode() if type(key) is str else self._encode(key))
        now_s = time.monotonic()
        return Command(
            args[0], packed, self._create_future(), slot, repeatable, now_s, now_s + self._timeout_s
        )

    def post(self, *args: Any) -> None:
        """Send a command with one key, as `execute_command` does (waiting, redirects, retries), for a caller
        who has no use for the reply: an error is counted in `stats()` and forgotten.

        For what should arrive and is checked in another way, such as an order that will be answered by a
        message. For a stream of messages that may be lost, `send_unanswered` is cheaper. The client must be
        initialized. Raises KeyError for a command that has not exactly one key, or that blocks.
        """
        command = self._short_command(args, *self._short_path[args[0]])
        router = self._need_router()
        router.commands += 1
        command.future.add_done_callback(_forget)
        router.dispatch(command)

    def send_unanswered(self, *args: Any) -> None:
        """Send a command with one key whose reply the server is told to leave out (CLIENT REPLY SKIP).

        Costs neither side a reply, and this process no wake-up. In return nothing is done for it: it is
        dropped where no connection is open or the socket is full, follows no redirect, and an error stays
        unknown and uncounted. For many messages each of which may be lost because it is asked for again or
        soon outdated; what should arrive goes by `post`. KeyError as for `post`, which does it where the
        server cannot be relied on to leave the reply out: an ACL forbids it to this user, or (Redis 7.0) a
        busy server answers BUSY also to CLIENT REPLY.
        """
        first_key, _ = self._short_path[args[0]]
        node = self._need_router().slot_nodes[_cached_slot(self._encode(args[first_key]))]
        if node is None:
            return
        if not (node.may_skip_replies and self._catalog["CLIENT REPLY"].runs_when_busy):
            self.post(*args)
        else:
            node.write_unanswered(REPLY_SKIP_PACKED + hiredis.pack_command(args))

    async def execute_call(self, args: tuple[Any, ...], options: dict[str, Any], call: CallOptions) -> Any:
        """`execute_command` for every kind of command, with the options of one call."""
        if self._initialize:
            await self.initialize()
        target_nodes = options.pop("target_nodes", None)
        spec = self._spec(args)
        nodes = self._nodes_for(spec, target_nodes)
        if nodes is None:
            slot = self._slot(spec, args)
            reply = await self._run(spec, args, slot, None, options, call)
            owner = self.nodes_manager.slots_cache.get(slot)
            return self._result(spec.name, {owner[0].name if owner else "": reply}, options)
        if not nodes:
            raise RedisClusterException(
                f"no node of the cluster matches target_nodes={target_nodes!r} for {spec.name}"
            )
        replies = await asyncio.gather(
            *(self._run(spec, args, -1, node, dict(options), call) for node in nodes)
        )
        return self._result(
            spec.name, dict(zip([node.name for node in nodes], replies, strict=True)), options
        )

    def _spec(self, args: tuple[Any, ...]) -> CommandSpec:
        """What is known of the command. One that the server does not list counts as a write without keys."""
        name = _word(args[0])
        spec = self._catalog.get(name)
        if name in self._containers and len(args) > 1 and isinstance(args[1], str | bytes):
            spec = self._catalog.get(f"{name} {_word(args[1])}", spec)
        if spec is None:
            spec = self._catalog.get(name.split(" ")[0]) or CommandSpec(name, False, True, False, 0, ())
        hint = CONNECTION_STATE_COMMANDS.get(spec.name) or CONNECTION_STATE_COMMANDS.get(name)
        if hint is not None:
            raise SharedConnectionError(
                f"{spec.name} is not possible on a connection that many callers share: {hint}"
            )
        return spec

    def _nodes_for(self, spec: CommandSpec, target_nodes: Any) -> list[Node] | None:
        """The nodes that `target_nodes` or redis-py's flag for the command name; None to go by slot."""
        router = self._need_router()
        flag = target_nodes if self._is_node_flag(target_nodes) else None
        if target_nodes is not None and flag is None:
            chosen = self._parse_target_nodes(target_nodes)
            return [router.node(Endpoint(node.host, int(node.port))) for node in chosen]
        if flag is None:
            flag = self.command_flags.get(spec.name)
        if flag is None or flag == SLOT_ID:
            return None
        if flag == self.DEFAULT_NODE:
            named = [self.get_default_node()]
        elif flag == self.RANDOM:
            return [random.choice(router.primaries())]
        elif flag == self.PRIMARIES:
            return router.primaries()
        else:
            named = self.get_replicas() if flag == self.REPLICAS else self.get_nodes()
        return [router.node(Endpoint(node.host, int(node.port))) for node in named]

    def _slot(self, spec: CommandSpec, args: tuple[Any, ...]) -> int:
        """The one slot of the command's keys. Raises RedisClusterException for none, or for several."""
        if self.command_flags.get(spec.name) == SLOT_ID:
            return int(args[1 if " " in str(args[0]) else 2])
        try:
            keys = args[1:2] if spec.name == "PUBLISH" else find_keys(spec, args)
        except (ValueError, TypeError, IndexError):
            keys = []
        slots = {_cached_slot(self._encode(key)) for key in keys}
        if len(slots) == 1:
            return slots.pop()
        if slots:
            raise RedisClusterException(f"{spec.name} - all keys must map to the same key slot")
        if spec.name.startswith(("EVAL", "FCALL")):  # no keys: any node will do
            return random.randrange(SLOT_COUNT)
        raise RedisClusterException(
            f"No way to dispatch {spec.name} to the cluster: it has no key. Name a node with target_nodes=..."
        )

    async def _run(
        self,
        spec: CommandSpec,
        args: tuple[Any, ...],
        slot: int,
        node: Node | None,
        options: dict[str, Any],
        call: CallOptions,
    ) -> Any:
        """Send to one place and give back redis-py's value for the reply."""
        router = self._need_router()
        router.commands += 1
        blocking = blocking_call(spec, args)
        durable = bool(call.replicas) and spec.writes
        if durable and (blocking is not None or node is not None):
            why = "blocks" if blocking is not None else "has no key"
            raise DataError(f"{spec.name} {why}, so it cannot be durable: call it on the client itself")
        now_s = time.monotonic()
        timeout_s = self._timeout_s if call.timeout_s is None else call.timeout_s
        if blocking is not None:
            timeout_s = blocking.seconds + self._timeouts.blocking_margin_s
        raw = options.pop(NEVER_DECODE, None) is not None  # redis-py says it with an empty list
        repeatable = spec.repeatable or call.idempotent
        packed = self._pack(args)
        command = Command(
            spec.name, packed, self._create_future(), slot, repeatable, now_s, now_s + timeout_s, node, raw
        )
        empty = options.pop(EMPTY_RESPONSE, None)
        options.pop("keys", None)
        try:
            if blocking is not None:
                reply = await run_blocking(router, command, blocking, self._pack)
            else:
                (self._committer(call) if durable else router).dispatch(command)
                reply = await command.future
        except ResponseError:
            if empty is None:
                raise
            return empty
        callback = self.response_callbacks.get(_word(args[0]))
        return reply if callback is None else callback(reply, **options)

    def _result(self, name: str, replies: dict[str, Any], options: dict[str, Any]) -> Any:
        """One value for the replies of all nodes asked, merged as redis-py merges them."""
        merge = self.result_callbacks.get(name)
        if merge is not None:
            return merge(name, replies, **options)
        return next(iter(replies.values())) if len(replies) == 1 else replies

    def _pack(self, args: tuple[Any, ...]) -> bytes:
        if self._is_utf8():
            return pack(args)
        return pack((args[0], *(self._encode(arg) for arg in args[1:])))

    def _is_utf8(self) -> bool:
        return str(self.encoder.encoding).lower().replace("-", "") == "utf8"

    def _encode(self, value: Any) -> bytes:
        return bytes(self.encoder.encode(value))  # type: ignore[no-untyped-call]

    def _need_router(self) -> Router:
        if self._router is None:
            raise ClientClosed("the client is closed")
        return self._router

    async def _execute_pipeline_by_slot(  # type: ignore[override]  # redis-py's is a coroutine as well
        self, command: str, slots_to_args: Mapping[int, Iterable[Any]]
    ) -> list[Any]:
        return await call_each_slot(self.execute_command, command, slots_to_args)

    # -- views and more --------------------------------------------------------------------------------------

    def durable(
        self, replicas: int = 1, *, timeout_s: float | None = None, idempotent: bool = False, lanes: int = 2
    ) -> BoundCalls:
        """A view whose writes return only when `replicas` replicas of the shard have them.

        Raises OutcomeUnknown when that could not be confirmed: the write may have run, and may be lost in a
        failover. Holds for the loss of any one node, given AOF on every node and a restart slower than the
        node timeout. Writes of many callers share one `WAIT`. `lanes` is the number of connections per node
        that carry batches (default 2).
        """
        if replicas < 1 or lanes < 1:
            raise DataError(f"durable(replicas={replicas}, lanes={lanes}): both must be at least 1")
        return BoundCalls(self, CallOptions(timeout_s, idempotent, replicas, lanes))

    def with_options(self, *, timeout_s: float | None = None, idempotent: bool = False) -> BoundCalls:
        """A view with another deadline, or whose writes may be sent again (running twice does no harm)."""
        return BoundCalls(self, CallOptions(timeout_s, idempotent))

    def _committer(self, call: CallOptions) -> Committer:
        key = (call.replicas, call.durable_lanes)
        committer = self._committers.get(key)
        if committer is None:
            committer = self._committers[key] = Committer(self._need_router(), *key)
        return committer

    async def sharded_subscription(self, on_message: MessageHandler) -> ShardedSubscription:
        """Receive sharded pub/sub messages by callback; takes one dedicated connection per node it needs."""
        await self.initialize()
        subscription = ShardedSubscription(self._need_router(), on_message, self._subscriptions.remove)
        self._subscriptions.append(subscription)
        return subscription

    def pipeline(self, transaction: Any | None = None, shard_hint: Any | None = None) -> Pipeline:
        """See `Pipeline`."""
        return Pipeline(self, transaction, shard_hint)

    def pubsub(self, *_args: Any, **_kwargs: Any) -> Any:
        """Not part of this release; see `sharded_subscription`."""
        raise RedisClusterException("pubsub() is not available in this release; use sharded_subscription()")

    def stats(self) -> ClientStats:
        """What the client holds and has done, as one frozen object; empty before the first command."""
        if self._router is None:
            return ClientStats((), 0, 0, 0, 0, 0, 0, 0, 0, 0)
        return self._router.stats()

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<RedisCluster nodes={len(stats.nodes)} connections={sum(stats.connections.values())} "
            f"in_flight={stats.in_flight} waiting={stats.waiting}>"
        )


def _word(value: Any) -> str:
    """A word of a command as the catalog and redis-py's callbacks spell it."""
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).upper()


# Calls with several keys mostly name the same ones again: those of a partition, a group, a user.
_cached_slot = functools.lru_cache(maxsize=SLOTS_CACHED_MAX)(key_slot)


def _forget(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()  # looked at, so that asyncio does not report it
