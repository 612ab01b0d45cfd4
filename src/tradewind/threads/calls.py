"""How a blocking call is made: packed in the calling thread, answered by the lanes of the background loop."""

import asyncio
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Generic, Self, TypeVar

import redis
from redis.commands import CoreCommands, RedisClusterCommands, RedisModuleCommands, SentinelCommands

from tradewind.client import calls as async_calls
from tradewind.client.base import ClientCore
from tradewind.client.calls import DEFAULT_CALL, CallOptions, seen_through
from tradewind.client.get_set import get_exactly
from tradewind.client.stats import ClientStats
from tradewind.threads.background import Answer, background
from tradewind.threads.pipeline import Pipeline, ServerPipeline

_closing: set[asyncio.Task[None]] = set()
Core = TypeVar("Core", bound=ClientCore)


class OffersViews:
    """The part of a client, and of a view, that makes views, as the async client's."""

    @abstractmethod
    def _async_calls(self) -> async_calls.OffersViews:
        """The same client or view, of the background loop."""

    @abstractmethod
    def _view(self, call: CallOptions) -> "BlockingView":
        """A view with these options."""

    def durable(
        self,
        replicas: int | None = None,
        *,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
        lanes: int | None = None,
    ) -> "BlockingView":
        """As the async client's: a view whose writes return when `replicas` replicas have them."""
        calls = self._async_calls()
        view = calls.durable(replicas, timeout_s=timeout_s, idempotent=idempotent, lanes=lanes)
        return self._view(view.call)

    def with_options(self, **options: Any) -> "BlockingView":
        """As the async client's: a view with other options, by the same names."""
        calls = self._async_calls()

        async def make() -> CallOptions:
            return calls.with_options(**options).call

        if options.keys() <= {"timeout_s", "idempotent"}:
            return self._view(calls.with_options(**options).call)
        return self._view(background().run(make))  # in the loop, where replicas and replies are looked after

    def cached(self, ttl_s: float = 60.0) -> "BlockingView":
        """As the async client's: a view whose reads of one key are answered from memory."""
        return self.with_options(cache_ttl_s=ttl_s)


class BlockingCalls(OffersViews, Generic[Core]):
    """The part of a blocking client that redis-py's classes do not have. Thread safe.

    `_core` is the async client that does the work, in the background loop; it opens at the first call, and in
    a forked child at the first call there.
    """

    _core: Core

    # -- calls -----------------------------------------------------------------------------------------------

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command and wait for its reply; repeats and errors are those of the async client.

        Raises KeyboardInterrupt where it comes: the command may then have run, once.
        """
        core, loop = self._core, background()
        if core._router is None:
            loop.run(core.initialize)
        answer = Answer()
        command = core.short_command(args, options, answer)
        if command is None:
            return loop.run(partial(core.execute_call, args, options, DEFAULT_CALL))
        loop.refuse_own_thread()
        loop.hand_over(core.begin, command)
        reply = answer.wait()
        callback = get_exactly(core.response_callbacks, args[0])
        return reply if callback is None else callback(reply)

    def call(self, args: tuple[Any, ...], options: dict[str, Any], call: CallOptions) -> Any:
        """One command with other options."""
        return background().run(partial(self._core.execute_call, args, options, call))

    def _async_calls(self) -> async_calls.OffersViews:
        return self._core

    # -- the rest --------------------------------------------------------------------------------------------

    def initialize(self) -> Self:
        """Wait until the servers are ready, as the first call does. Errors: as the async client's."""
        background().run(self._core.initialize)
        return self

    def close(self) -> None:
        """Close every connection. Other threads' calls are told; the client may be used again."""
        background().run(self._close)

    async def _close(self) -> None:
        await self._core.aclose()
        await asyncio.sleep(0)  # in which the sockets are closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __del__(self) -> None:
        core = getattr(self, "_core", None)
        if core is not None and core._router is not None:
            background().hand_over(_close_later, core)

    def stats(self) -> ClientStats:
        """What the client holds and has done, as one frozen object; empty before the first command."""
        return background().run(self._read_stats)

    async def _read_stats(self) -> ClientStats:
        return self._core.stats()

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<threads.{type(self).__name__} nodes={len(stats.nodes)} "
            f"connections={sum(stats.connections.values())} in_flight={stats.in_flight} "
            f"waiting={stats.waiting}>"
        )


class BlockingView(OffersViews):
    """A client's commands, bound to options; see `tradewind.client.calls.BoundCalls`."""

    _event_dispatcher: Any = None  # redis-py's; nothing here announces events

    def __init__(self, client: Any, call: CallOptions) -> None:
        self._client = client
        self.call = call

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """As the client's, with this view's options."""
        return self._client.call(args, options, self.call)

    def _async_calls(self) -> Any:
        return self._client._core._bound(self.call)

    def _view(self, call: CallOptions) -> "BlockingView":
        view: BlockingView = self._client._view(call)
        return view

    def __getattr__(self, name: str) -> Any:
        return seen_through(self._client, name)

    def __repr__(self) -> str:
        return f"<{self.call} of {self._client!r}>"


class ClusterView(BlockingView, RedisClusterCommands):
    """The command methods of a `RedisCluster`, bound to options."""

    lock = redis.RedisCluster.lock
    transaction = redis.RedisCluster.transaction

    def pipeline(self, transaction: Any | None = None, shard_hint: Any | None = None) -> Pipeline:
        """As the client's, with this view's options."""
        return Pipeline(self._async_calls().pipeline(transaction, shard_hint))

    def _execute_pipeline_by_slot(
        self, command: str, slots_to_args: Mapping[int, Iterable[Any]]
    ) -> list[Any]:
        results: list[Any] = self._client.call_each_slot(command, slots_to_args, self.call)
        return results


class ServerView(BlockingView, RedisModuleCommands, CoreCommands, SentinelCommands):
    """The command methods of a `Redis`, bound to options."""

    lock = redis.Redis.lock
    transaction = redis.Redis.transaction

    def pipeline(self, transaction: bool = True, shard_hint: Any | None = None) -> ServerPipeline:
        """As the client's, with this view's options."""
        return ServerPipeline(self._async_calls().pipeline(transaction, shard_hint))


def _close_later(core: ClientCore) -> None:
    """Nobody refers to the client any more."""
    task = asyncio.get_running_loop().create_task(core.aclose())
    _closing.add(task)
    task.add_done_callback(_closing.discard)
