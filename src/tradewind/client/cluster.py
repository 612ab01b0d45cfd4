"""`RedisCluster`: redis-py's class and command methods over Tradewind's connection layer.

This module finds out where a command of a cluster goes: by its keys, by redis-py's flag for it, or by
`target_nodes`.
"""

import asyncio
import functools
import random
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, cast

import redis.asyncio.cluster
import redis.event
from redis.asyncio.client import Monitor, PubSub
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.cluster import RedisCluster as RedisPyCluster
from redis.cluster import PRIMARY, REPLICA, SLOT_ID
from redis.exceptions import DataError, RedisClusterException

from tradewind.client.base import OWN_DEFAULTS, ClientCore, cached_slot
from tradewind.client.cache import CacheOptions
from tradewind.client.calls import DEFAULT_CALL, BoundCalls, CallOptions, ClusterCalls, call_each_slot
from tradewind.client.catalog import CommandSpec, find_keys
from tradewind.client.node import Node
from tradewind.client.pipeline import Pipeline, run_watched
from tradewind.client.pool import NodePool, ServerNode
from tradewind.client.replica_reads import read_from_of
from tradewind.client.router import Router
from tradewind.client.settings import named_arguments, retry_policy
from tradewind.client.topology import SLOT_COUNT, ClusterTopology, Endpoint, SlotMap

if TYPE_CHECKING:
    from tradewind.client.telemetry import Telemetry

SlotsCacheEvent = getattr(redis.event, "AsyncAfterSlotsCacheRefreshEvent", None)  # since redis-py 8


class RedisCluster(ClientCore, RedisPyCluster):  # type: ignore[misc]  # its bases differ
    """A drop-in for `redis.asyncio.RedisCluster` over which any number of callers share a few connections.

    Takes redis-py's arguments. `max_connections` is a hard cap per node on all connections of this client; it
    is not reached unless callers block. `socket_timeout` (seconds, default 5) is the deadline of every call,
    waiting included.

    Own arguments: `lanes` (shared connections per node, default 2), `in_flight_max` and `in_flight_bytes_max`
    (per node, defaults 4096 commands and 64 MiB): at a limit callers wait in arrival order until their
    deadline. `retry="always"` sends writes again whose reply was lost, as redis-py does: they may then run
    twice. `read_from` ("primary", "replica", "prefer_replica", "lowest_latency" or "any"; default: what
    redis-py's `read_from_replicas` and `load_balancing_strategy` say, else "primary"): the nodes that reads
    may come from. They see this client's own writes, unless `read_your_writes` is False. `cache` (a
    CacheOptions): which reads are answered from memory, and how many replies are kept there.

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
        slow_command_s: float | None = None,
        connection_age_s_max: float | None = None,
        telemetry: "Telemetry | bool | None" = None,
        read_from: str | None = None,
        read_your_writes: bool = True,
        cache: CacheOptions | None = None,
        **kwargs: Any,
    ) -> None:
        if retry is not None:
            kwargs["retry"] = retry
        given = named_arguments(RedisPyCluster.__init__, args, kwargs)
        policy = retry_policy(given)
        if isinstance(given.get("retry"), str):
            del given["retry"]
        for name, default in OWN_DEFAULTS.items():
            given.setdefault(name, default)
        chosen = read_from_of(
            read_from, bool(given.get("read_from_replicas")), given.get("load_balancing_strategy")
        )
        super().__init__(**given)
        self._given_host = given.get("host")
        self._notifications: weakref.WeakSet[Any] = weakref.WeakSet()
        self._tellings: set[asyncio.Task[None]] = set()  # of listeners for the slots cache
        self._asks_only_given_nodes = not given.get("dynamic_startup_nodes", True)
        self._set_up(
            self.connection_kwargs,
            lanes=lanes,
            in_flight_max=in_flight_max,
            in_flight_bytes_max=in_flight_bytes_max,
            retry=policy,
            slow_command_s=slow_command_s,
            connection_age_s_max=connection_age_s_max,
            telemetry=telemetry,
            read_from=chosen,
            read_your_writes=read_your_writes,
            cache=cache,
        )

    @classmethod
    def from_url(cls, url: str, **kwargs: Any) -> Self:
        """`redis://user:password@host:port` or `rediss://...`, as redis-py reads it."""
        return cast(Self, super().from_url(url, **kwargs))

    async def __aenter__(self) -> Self:
        """`async with client:` waits until the cluster is ready, and closes the client at the end."""
        return cast(Self, await super().__aenter__())

    def _make_router(self) -> Router:
        seeds = [Endpoint(node.host, int(node.port)) for node in self.startup_nodes]
        is_renamed = self._given_host and self._given_host != seeds[-1].host  # redis-py resolves localhost
        return Router(
            seeds,
            limits=self._limits,
            timeouts=self._timeouts,
            settings=self._settings,
            topology=ClusterTopology(self.nodes_manager.address_remap),
            retry=self._retry_policy,
            asks_only_seeds=self._asks_only_given_nodes,
            refreshes_when_moved=bool(self.reinitialize_steps),
            seed_names={seeds[-1]: str(self._given_host)} if is_renamed else None,
            require_full_coverage=self.nodes_manager.require_full_coverage,
            on_map=self._show_map,
        )

    async def aclose(self) -> None:
        """Close every connection. Callers who still wait are told; the client may be used again after it."""
        await super().aclose()
        for telling in self._tellings:
            telling.cancel()
        await asyncio.gather(*self._tellings, return_exceptions=True)

    def _show_map(self, slot_map: SlotMap) -> None:
        """Let redis-py's own accessors (get_nodes, get_node_from_key, keyslot...) see the map."""
        manager = self.nodes_manager
        known, default = manager.nodes_cache, cast("ClusterNode | None", manager.default_node)
        default_was_primary = default is not None and default.server_type == PRIMARY
        nodes = {
            endpoint.name: known[endpoint.name] if endpoint.name in known else self._server_node(endpoint)
            for endpoint, _ in slot_map.endpoints()
        }
        for endpoint, is_primary in slot_map.endpoints():
            nodes[endpoint.name].server_type = PRIMARY if is_primary else REPLICA
        slots: dict[int, list[ClusterNode]] = {}
        for item in slot_map.ranges:
            owners = [nodes[endpoint.name] for endpoint in (item.primary, *item.replicas)]
            slots.update(dict.fromkeys(range(item.first, item.last + 1), owners))
        manager.nodes_cache, manager.slots_cache = nodes, slots
        if not self._asks_only_given_nodes:
            manager.startup_nodes = dict(nodes)  # those that were given stay in the client's own list
        if default is not None and default_was_primary and default.server_type != PRIMARY:
            default = None
        if default is None or default.name not in nodes:
            manager.default_node = next(iter(nodes.values()))  # a primary: they come first
        for notifications in tuple(self._notifications):
            notifications.on_map()
        self._tell_listeners()

    def _server_node(self, endpoint: Endpoint) -> ServerNode:
        pool = self._pool(endpoint, lasting=False)
        return ServerNode(
            endpoint, pool, self.connection_kwargs, functools.partial(self._execute_on, endpoint)
        )

    async def _execute_on(self, endpoint: Endpoint, *args: Any, **options: Any) -> Any:
        """One node's own answer, which is not made into one of the cluster's."""
        if self._initialize:
            await self.initialize()
        node = self._need_router().nodes.at(endpoint)
        return await self._run(self._spec(args), args, -1, node, options, DEFAULT_CALL)

    def _tell_listeners(self) -> None:
        """Of a new slots cache, as redis-py 8 does: its ClusterPubSub is one, callers may have others."""
        if SlotsCacheEvent is not None:
            telling = asyncio.get_running_loop().create_task(
                self._event_dispatcher.dispatch_async(SlotsCacheEvent()), name="slots cache event"
            )
            self._tellings.add(telling)
            telling.add_done_callback(self._told)

    def _told(self, telling: "asyncio.Task[None]") -> None:
        self._tellings.discard(telling)
        error = None if telling.cancelled() else telling.exception()
        if error is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a listener for the slots cache failed", "exception": error}
            )

    # -- where a command goes --------------------------------------------------------------------------------

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

    def _nodes_for(self, spec: CommandSpec, target_nodes: Any) -> list[Node] | None:
        """The nodes that `target_nodes` or redis-py's flag for the command name; None to go by slot."""
        router = self._need_router()
        flag = target_nodes if self._is_node_flag(target_nodes) else None
        if target_nodes is not None and flag is None:
            chosen = self._parse_target_nodes(target_nodes)
            return [router.nodes.at(Endpoint(node.host, int(node.port))) for node in chosen]
        if flag is None:
            flag = self.command_flags.get(spec.name)
        if flag is None or flag == SLOT_ID:
            return None
        if flag == self.DEFAULT_NODE:
            named = [self.get_default_node()]
        elif flag == self.RANDOM:
            return [random.choice(router.nodes.primaries())]
        elif flag == self.PRIMARIES:
            return router.nodes.primaries()
        else:
            named = self.get_replicas() if flag == self.REPLICAS else self.get_nodes()
        return [router.nodes.at(Endpoint(node.host, int(node.port))) for node in named]

    def _slot_of_call(self, spec: CommandSpec, args: tuple[Any, ...]) -> int | None:
        """The slot by which the command finds its node; None if it goes another way."""
        if spec.name in self.result_callbacks or self.command_flags.get(spec.name) is not None:
            return None
        return self._slot(spec, args)

    def _slots_of_keys(self, args: tuple[Any, ...]) -> set[int]:
        """The slots of the command's keys; a transaction has one."""
        short = self._short_path.get(args[0])
        if short is not None and short[0] < len(args):
            return {cached_slot(self._make.encode(args[short[0]]))}
        return self._slots(self._catalog.look_up(args), args)

    def _slot(self, spec: CommandSpec, args: tuple[Any, ...]) -> int:
        """The one slot of the command's keys. Raises RedisClusterException for none, or for several."""
        if self.command_flags.get(spec.name) == SLOT_ID:
            return int(args[1 if " " in str(args[0]) else 2])
        slots = self._slots(spec, args)
        if spec.name == "PUBLISH":  # has no key; its channel spreads the load
            slots = {cached_slot(self._make.encode(channel)) for channel in args[1:2]}
        if len(slots) == 1:
            return slots.pop()
        if slots:
            raise RedisClusterException(f"{spec.name} - all keys must map to the same key slot")
        if spec.name.startswith(("EVAL", "FCALL")):  # no keys: any node will do
            return random.randrange(SLOT_COUNT)
        raise RedisClusterException(
            "No way to dispatch this command to Redis Cluster. Missing key. "  # as redis-py begins
            f"{spec.name} needs one, or a node with target_nodes=..."
        )

    def _slots(self, spec: CommandSpec, args: tuple[Any, ...]) -> set[int]:
        try:
            keys = find_keys(spec, args)
        except (ValueError, TypeError, IndexError):
            keys = []
        return {cached_slot(self._make.encode(key)) for key in keys}

    def _result(self, name: str, replies: dict[str, Any], options: dict[str, Any]) -> Any:
        """One value for the replies of all nodes asked, merged as redis-py merges them."""
        merge = self.result_callbacks.get(name)
        if merge is not None:
            return merge(name, replies, **options)
        return next(iter(replies.values())) if len(replies) == 1 else replies

    async def _execute_pipeline_by_slot(  # type: ignore[override]  # redis-py's is a coroutine as well
        self, command: str, slots_to_args: Mapping[int, Iterable[Any]]
    ) -> list[Any]:
        return await call_each_slot(self.execute_command, command, slots_to_args)

    # -- more of redis-py's ----------------------------------------------------------------------------------

    def _bound(self, call: CallOptions) -> BoundCalls:
        return ClusterCalls(self, call)

    def pipeline(self, transaction: bool | None = None, shard_hint: Any | None = None) -> Pipeline:
        """See `Pipeline`."""
        return Pipeline(self, DEFAULT_CALL, transaction, shard_hint)

    async def transaction(  # type: ignore[override]  # redis-py's takes no other than coroutine functions
        self, func: Callable[[Pipeline], Any], *watches: Any, **options: Any
    ) -> Any:
        """See `run_watched`."""
        return await run_watched(self.pipeline, func, watches, **options)

    def pubsub(
        self, node: ClusterNode | None = None, host: str | None = None, port: int | None = None, **kwargs: Any
    ) -> Any:
        """redis-py's PubSub over dedicated connections of this client; see docs/pubsub.md.

        With redis-py 8 a `ClusterPubSub`; with redis-py 7, which has none, a `PubSub` without shard channels.
        `node`, or `host` and `port`, binds it to one node. Raises RedisClusterException for a node that is
        not known, DataError for `host` without `port`.
        """
        if hasattr(redis.asyncio.cluster, "ClusterPubSub"):
            from tradewind.client.pubsub import ClusterPubSub

            return ClusterPubSub(
                self, node, host, port, find_router=self._need_router, wait_s=self._timeout_s, **kwargs
            )
        if (host is None) != (port is None):
            raise DataError("Specify both host and port")
        named = node or (self.get_node(host=host, port=port) if host else None)
        return PubSub(self._pool(_endpoint(named)), encoder=self.encoder, **kwargs)

    def keyspace_notifications(
        self, key_prefix: str | bytes | None = None, ignore_subscribe_messages: bool = True
    ) -> Any:
        """redis-py's, from all primaries, also new ones; see docs/pubsub.md. Takes a dedicated connection of
        each. Raises RedisClusterException before redis-py 8.1, which has none.
        """
        if not hasattr(RedisPyCluster, "keyspace_notifications"):
            raise RedisClusterException("keyspace notifications need redis-py 8.1 or newer")
        from tradewind.client.keyspace import ClusterKeyspaceNotifications

        notifications = ClusterKeyspaceNotifications(
            self, key_prefix, ignore_subscribe_messages, self._need_router
        )
        self._notifications.add(notifications)
        return notifications

    def monitor(self, target_node: ClusterNode | None = None) -> Monitor:
        """redis-py's Monitor, of the node that is named or of any, over a dedicated connection."""
        return Monitor(self._pool(_endpoint(target_node)))

    def _pool(self, endpoint: Endpoint | None, *, lasting: bool = True) -> Any:
        """Connections for redis-py's own classes to that node, or to any one that answers."""

        async def find_node(last: Node | None) -> Node:
            if last is None:
                await self.initialize()
            router = self._need_router()
            return router.nodes.reachable(last) if endpoint is None else router.nodes.at(endpoint)

        return NodePool(find_node, self.connection_kwargs, wait_s=self._timeout_s, lasting=lasting)


def _endpoint(node: ClusterNode | None) -> Endpoint | None:
    return None if node is None else Endpoint(node.host, int(node.port))
