"""Per-call options, as views of a client: `client.durable()`, `client.with_options(...)`."""

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import redis.asyncio
from redis.client import NEVER_DECODE
from redis.commands import (
    AsyncCoreCommands,
    AsyncRedisClusterCommands,
    AsyncRedisModuleCommands,
    AsyncSentinelCommands,
)
from redis.exceptions import DataError

from tradewind.client.cache import MISSING
from tradewind.client.pipeline import Pipeline, run_watched
from tradewind.client.replica_reads import ReadFrom, checked_read_from
from tradewind.client.server_pipeline import ServerPipeline

if TYPE_CHECKING:
    from tradewind.client.base import ClientCore


@dataclass(frozen=True)
class CallOptions:
    """How one call is made. None means as the client's; `replicas` 0 means not durable."""

    timeout_s: float | None = None
    idempotent: bool = False
    replicas: int = 0
    durable_lanes: int = 2
    read_from: ReadFrom | None = None
    cache_ttl_s: float | None = None


DEFAULT_CALL = CallOptions()
# What of a client its views have too: none of it makes a call that the options could speak of.
SEEN_THROUGH_VIEWS = frozenset({
    "ALL_NODES", "DEFAULT_NODE", "NODE_FLAGS", "PRIMARIES", "RANDOM", "REPLICAS", "aclose", "close",
    "command_flags", "connection_kwargs", "determine_slot", "encoder", "endpoint", "get_connection_kwargs",
    "get_default_node", "get_encoder", "get_node", "get_node_from_key", "get_nodes", "get_nodes_from_slot",
    "get_primaries", "get_random_node", "get_random_primary_node", "get_random_primary_or_all_nodes",
    "get_replicas", "get_retry", "get_special_nodes", "initialize", "keyslot", "keyspace_notifications",
    "load_balancing_strategy", "load_external_module", "monitor", "nodes_manager", "pubsub",
    "read_from_replicas", "response_callbacks", "result_callbacks", "retry", "set_default_node",
    "set_response_callback", "sharded_subscription", "stats",
})  # fmt: skip
NOT_KEPT = {"target_nodes", NEVER_DECODE}  # replies to calls with these options
Call = tuple[tuple[Any, ...], dict[str, Any]]  # a command's words, and redis-py's options for it


def seen_through(client: Any, name: str) -> Any:
    """An attribute of a view's client. Raises AttributeError for what would not keep the options."""
    if name in SEEN_THROUGH_VIEWS:
        return getattr(client, name)
    raise AttributeError(f"a view has no {name!r}, which could not keep its options: use the client itself")


class OffersViews:
    """The part of a client, and of a view, that makes views. A view of a view keeps its other options."""

    call = DEFAULT_CALL

    @abstractmethod
    def _bound(self, call: CallOptions) -> "BoundCalls":
        """A view of this client with these options."""

    @abstractmethod
    def _keep_replies(self) -> None:
        """Replies are cached from now on."""

    @abstractmethod
    def _choose_reads(self) -> None:
        """Reads may come from other nodes than primaries from now on."""

    def durable(
        self,
        replicas: int | None = None,
        *,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
        lanes: int | None = None,
    ) -> "BoundCalls":
        """A view whose writes return only when `replicas` replicas of the shard (default 1) have them.

        Raises OutcomeUnknown when that could not be confirmed: the write may have run, and may be lost in a
        failover. Holds for the loss of any one node, given AOF on every node and a restart slower than the
        node timeout. Writes of many callers share one `WAIT`. `lanes` is the number of connections per node
        that carry batches (default 2). What is not given is as it was.
        """
        if replicas is None:
            replicas = max(self.call.replicas, 1)
        if lanes is None:
            lanes = self.call.durable_lanes
        if replicas < 1 or lanes < 1:
            raise DataError(f"durable(replicas={replicas}, lanes={lanes}): both must be at least 1")
        return self._changed(
            timeout_s=timeout_s, idempotent=idempotent, replicas=replicas, durable_lanes=lanes
        )

    def with_options(
        self,
        *,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
        read_from: str | None = None,
        cache_ttl_s: float | None = None,
    ) -> "BoundCalls":
        """A view with another deadline, whose writes may be sent again (running twice does no harm), whose
        reads come from other nodes (docs/replica-reads.md), or from memory (see `cached`). The last two make
        all calls of the client cost a little more from then on. What is not given is as it was.

        Raises DataError for a `read_from` that does not exist, or what the client cannot do.
        """
        chosen = None if read_from is None else checked_read_from(read_from)
        if chosen not in (None, "primary"):
            self._choose_reads()
        if cache_ttl_s is not None:
            self._keep_replies()
        return self._changed(
            timeout_s=timeout_s, idempotent=idempotent, read_from=chosen, cache_ttl_s=cache_ttl_s
        )

    def _changed(self, **given: Any) -> "BoundCalls":
        """A view with these options, save those that are None, and the others as they are here."""
        changes = {name: value for name, value in given.items() if value is not None}
        if not changes.get("timeout_s", 1) > 0:
            raise DataError(f"timeout_s={changes['timeout_s']!r}: more than 0 seconds are needed")
        return self._bound(replace(self.call, **changes))

    def cached(self, ttl_s: float = 60.0) -> "BoundCalls":
        """A view whose reads of one key are answered from memory (docs/caching.md).

        A reply is at most `ttl_s` old. It is dropped as soon as the server tells that the key has changed,
        and when this client writes to the key's slot. Needs RESP3, else DataError is raised.
        """
        if ttl_s <= 0:
            raise DataError(f"cached(ttl_s={ttl_s}): it must be positive")
        return self.with_options(cache_ttl_s=ttl_s)


async def call_each_slot(
    execute: Callable[..., Awaitable[Any]], command: str, slots_to_args: Mapping[int, Iterable[Any]]
) -> list[Any]:
    """For redis-py's commands over several slots (`mget_nonatomic`, `delete`...): a call for each slot.

    redis-py pins each to the node that owns the slot at the moment; here each follows its slot.
    """
    results: list[Any] = await asyncio.gather(*(execute(command, *args) for args in slots_to_args.values()))
    return results


class BoundCalls(OffersViews):
    """A client's commands, bound to options. Holds no connections; cheap to make and to keep.

    What is made from it (`pipeline`, `lock`, `register_script`, another view) keeps the options. It has no
    more of the client than cannot lose them: AttributeError is raised for the rest.
    """

    _is_async_client: Literal[True] = True
    _event_dispatcher: Any = None  # redis-py's; nothing here announces events

    def __init__(self, client: "ClientCore", call: CallOptions) -> None:
        self._client = client
        self.call = call

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As the client's, with this view's options."""
        if self.call.cache_ttl_s is not None and not options.keys() & NOT_KEPT:
            reply = self._client._kept(args, self.call.cache_ttl_s)
            if reply is not MISSING:
                return self._client._value(reply, args, options)
        return await self._client.execute_call(args, options, self.call)

    def post(self, *_args: Any) -> None:
        """Raises DataError: nobody waits for the reply, so the options would come to nothing."""
        raise DataError("post takes no options, and a view has some: call it on the client itself")

    def send_unanswered(self, *_args: Any) -> None:
        """Raises DataError: there is no reply, so the options would come to nothing."""
        raise DataError("send_unanswered takes no options, and a view has some: call it on the client itself")

    def _bound(self, call: CallOptions) -> "BoundCalls":
        return self._client._bound(call)

    def _keep_replies(self) -> None:
        self._client._keep_replies()

    def _choose_reads(self) -> None:
        self._client._choose_reads()

    def __getattr__(self, name: str) -> Any:
        return seen_through(self._client, name)

    def __repr__(self) -> str:
        return f"<{self.call} of {self._client!r}>"


class ClusterCalls(BoundCalls, AsyncRedisClusterCommands):  # type: ignore[misc]  # its bases differ
    """The command methods of a `RedisCluster`, bound to options."""

    lock = redis.asyncio.RedisCluster.lock

    async def _execute_pipeline_by_slot(  # type: ignore[override]  # redis-py's is a coroutine as well
        self, command: str, slots_to_args: Mapping[int, Iterable[Any]]
    ) -> list[Any]:
        return await call_each_slot(self.execute_command, command, slots_to_args)

    def pipeline(self, transaction: bool | None = None, shard_hint: Any | None = None) -> Pipeline:
        """As the client's, with this view's options for each command, or for the transaction."""
        return Pipeline(self._client, self.call, transaction, shard_hint)

    async def transaction(self, func: Callable[[Pipeline], Any], *watches: Any, **options: Any) -> Any:
        """As the client's, with this view's options for the transaction."""
        return await run_watched(self.pipeline, func, watches, **options)


class ServerCalls(BoundCalls, AsyncRedisModuleCommands, AsyncCoreCommands, AsyncSentinelCommands):  # type: ignore[misc]  # its bases differ
    """The command methods of a `Redis`, bound to options."""

    lock = redis.asyncio.Redis.lock
    transaction = redis.asyncio.Redis.transaction

    def pipeline(self, transaction: bool = True, shard_hint: Any | None = None) -> ServerPipeline:
        """As the client's, with this view's options for each command, or for the transaction."""
        return ServerPipeline(self._client, self.call, transaction, shard_hint)
