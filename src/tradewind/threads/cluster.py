"""`RedisCluster` for blocking code: redis-py's class over the async client of the background loop."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

import redis
import redis.asyncio.cluster
import redis.cluster
import redis.event
from redis.client import Redis as PlainRedis  # so named, programs may put ours in its place
from redis.event import EventDispatcher

import tradewind
from tradewind.client.calls import DEFAULT_CALL, CallOptions, call_each_slot
from tradewind.client.topology import Endpoint, SlotMap
from tradewind.threads.arguments import async_cluster_arguments
from tradewind.threads.background import background
from tradewind.threads.calls import BlockingCalls, ClusterView
from tradewind.threads.pipeline import Pipeline
from tradewind.threads.pool import DedicatedPool

# redis-py 7 does not tell its blocking subscriptions.
AfterSlotsCacheRefreshEvent: Any = getattr(redis.event, "AfterSlotsCacheRefreshEvent", None)


class ClusterCore(tradewind.RedisCluster):
    """The async client, which says when the slot map has changed: sharded subscriptions follow it."""

    slots_changed: Callable[[], object] = staticmethod(lambda: None)

    def _show_map(self, slot_map: SlotMap) -> None:
        super()._show_map(slot_map)
        self.slots_changed()


class ServerNode(redis.cluster.ClusterNode):
    """redis-py's name for a server of the cluster. Its clients of redis-py's use dedicated connections."""

    def __init__(self, core: ClusterCore, named: redis.asyncio.cluster.ClusterNode) -> None:
        endpoint = Endpoint(named.host, int(named.port))
        commands, subscriptions = (
            PlainRedis(connection_pool=DedicatedPool(core, endpoint, core.connection_kwargs, lasting=lasting))
            for lasting in (False, True)
        )
        super().__init__(named.host, named.port, named.server_type, commands)  # type: ignore[no-untyped-call]
        self.subscriptions = subscriptions


class _ForSubscriptions:
    """The cluster as redis-py's subscriptions see it: their connections are made again when they are lost."""

    def __init__(self, cluster: "RedisCluster") -> None:
        self._cluster = cluster

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    def get_redis_connection(self, node: ServerNode) -> PlainRedis:
        return node.subscriptions


class NodesView:
    """What redis-py's own classes ask the nodes manager of a cluster, from the async client's."""

    def __init__(self, core: ClusterCore) -> None:
        self._core = core
        self._nodes: dict[str, ServerNode] = {}
        self._event_dispatcher = EventDispatcher()
        core.slots_changed = self._on_slots

    def _on_slots(self) -> None:
        """Called in the loop. Nodes that have left the cluster are forgotten; who has one may keep it."""
        known = self._core.nodes_manager.nodes_cache
        for name in tuple(self._nodes):
            if name not in known:
                self._nodes.pop(name, None)
        if AfterSlotsCacheRefreshEvent is not None:
            self._event_dispatcher.dispatch(AfterSlotsCacheRefreshEvent())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core.nodes_manager, name)

    def known(self) -> ClusterCore:
        """The async client, knowing the slot map."""
        if self._core._router is None:
            background().run(self._core.initialize)
        return self._core

    def show(self, named: redis.asyncio.cluster.ClusterNode | None) -> ServerNode | None:
        """The node of that name, made when it is first asked for."""
        if named is None:
            return None
        node = self._nodes.get(named.name)
        if node is None:
            node = self._nodes.setdefault(named.name, ServerNode(self._core, named))
        node.server_type = named.server_type
        return node

    @property
    def nodes_cache(self) -> dict[str, ServerNode]:
        """By name."""
        named = self.known().nodes_manager.nodes_cache
        return {name: cast(ServerNode, self.show(node)) for name, node in named.items()}

    def get_node_from_slot(self, slot: int, *_choice: Any, **_more: Any) -> ServerNode | None:
        """The slot's primary."""
        return self.show(self.known().nodes_manager.get_node_from_slot(slot))


class RedisCluster(BlockingCalls[ClusterCore], redis.RedisCluster):
    """A drop-in for `redis.RedisCluster` in which any number of threads share a few connections.

    Arguments, limits, deadlines, retries and errors are those of `tradewind.RedisCluster`; the same methods
    and replies as redis-py's blocking client, whose subclass it is. It connects at the first call. Thread
    safe, and safe to use in forked children.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        url, given = async_cluster_arguments(args, kwargs)
        self._core = ClusterCore.from_url(url, **given) if url else ClusterCore(**given)
        self._nodes = NodesView(self._core)
        self.nodes_manager = cast(Any, self._nodes)  # as much of it as is asked for
        self.encoder = self._core.encoder
        self.read_from_replicas = False
        self.load_balancing_strategy = None
        self._event_dispatcher = self._nodes._event_dispatcher
        self.retry = cast(Any, self._core.retry)
        self.command_flags = self._core.command_flags
        self.cluster_response_callbacks = cast(Any, self._core.response_callbacks)
        self.result_callbacks = cast(Any, self._core.result_callbacks)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """See `BlockingCalls`; `target_nodes` as in redis-py."""
        if "target_nodes" in options:
            options["target_nodes"] = _async_nodes(options["target_nodes"])
        return super().execute_command(*args, **options)

    def _view(self, call: CallOptions) -> ClusterView:
        return ClusterView(self, call)

    def _execute_pipeline_by_slot(
        self, command: str, slots_to_args: Mapping[int, Iterable[Any]]
    ) -> list[Any]:
        return self.call_each_slot(command, slots_to_args, DEFAULT_CALL)

    def call_each_slot(
        self, command: str, slots_to_args: Mapping[int, Iterable[Any]], call: CallOptions
    ) -> list[Any]:
        """A call for each slot, all at once."""
        core = self._core

        async def execute(*args: Any) -> Any:
            return await core.execute_call(args, {}, call)

        return background().run(partial(call_each_slot, execute, command, slots_to_args))

    def pipeline(self, transaction: Any | None = None, shard_hint: Any | None = None) -> Pipeline:
        """As the async client's; see `tradewind.client.pipeline.Pipeline`."""
        return Pipeline(self._core.pipeline(transaction, shard_hint))

    def pubsub(self, node: Any = None, host: Any = None, port: Any = None, **kwargs: Any) -> Any:
        """redis-py's, on dedicated connections; it subscribes anew when one is lost."""
        cluster = _ForSubscriptions(self)
        return redis.cluster.ClusterPubSub(cluster, node=node, host=host, port=port, **kwargs)

    # -- nodes -----------------------------------------------------------------------------------------------

    def _known(self) -> ClusterCore:
        return self._nodes.known()

    def _show(self, nodes: Iterable[redis.asyncio.cluster.ClusterNode]) -> list[Any]:
        return [self._nodes.show(node) for node in nodes]

    def _show_one(self, node: redis.asyncio.cluster.ClusterNode | None) -> Any:
        return self._nodes.show(node)

    def get_nodes(self) -> list[Any]:
        """As redis-py's."""
        return self._show(self._known().get_nodes())

    def get_primaries(self) -> list[Any]:
        """As redis-py's."""
        return self._show(self._known().get_primaries())

    def get_replicas(self) -> list[Any]:
        """As redis-py's."""
        return self._show(self._known().get_replicas())

    def get_random_node(self) -> Any:
        """As redis-py's."""
        return self._show_one(self._known().get_random_node())

    def get_default_node(self) -> Any:
        """As redis-py's."""
        return self._show_one(self._known().get_default_node())

    def set_default_node(self, node: Any) -> bool:
        """As redis-py's."""
        core = self._known()
        named = None if node is None else core.get_node(node_name=node.name)
        if named is None:
            return False
        core.set_default_node(named)
        return True

    def get_node(self, host: Any = None, port: Any = None, node_name: Any = None) -> Any:
        """As redis-py's."""
        return self._show_one(self._known().get_node(host, port, node_name))

    def get_node_from_key(self, key: Any, replica: bool = False) -> Any:
        """As redis-py's."""
        return self._show_one(self._known().get_node_from_key(key, replica))

    def get_redis_connection(self, node: Any) -> PlainRedis:
        """A client of redis-py's for one node, on dedicated connections."""
        connection: PlainRedis = node.redis_connection
        return connection

    def get_connection_kwargs(self) -> dict[str, Any]:
        """As redis-py's."""
        return self._core.get_connection_kwargs()


def _async_nodes(target: Any) -> Any:
    """What the async client takes for a node, a list or a dictionary of them; flags stay."""
    if isinstance(target, redis.cluster.ClusterNode):
        return redis.asyncio.cluster.ClusterNode(target.host, target.port)
    if isinstance(target, dict):
        return [_async_nodes(node) for node in target.values()]
    if isinstance(target, list):
        return [_async_nodes(node) for node in target]
    return target
