"""`Redis` for blocking code: redis-py's class over the async client of the background loop."""

from typing import Any, Self, cast

import redis
from redis.client import Monitor, PubSub
from redis.client import Redis as PlainRedis  # programs may put ours in its place
from redis.connection import ConnectionPool

import tradewind
from tradewind.client.calls import CallOptions
from tradewind.client.settings import take_own
from tradewind.threads.arguments import async_server_arguments
from tradewind.threads.calls import BlockingCalls, ServerView
from tradewind.threads.pipeline import ServerPipeline
from tradewind.threads.pool import DedicatedPool


class Redis(BlockingCalls["tradewind.Redis"], redis.Redis):
    """A drop-in for `redis.Redis` in which any number of threads share one connection, or two.

    Arguments, limits, deadlines, retries and errors are those of `tradewind.Redis`; the same methods and
    replies as redis-py's blocking client, whose subclass it is. Thread safe, and safe to use in forked
    children.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._core = tradewind.Redis(**async_server_arguments(args, kwargs))
        self.connection_pool = self._pool(lasting=False)
        self.response_callbacks = cast(Any, self._core.response_callbacks)
        self._event_dispatcher = self._core._event_dispatcher
        self.connection = None
        self.auto_close_connection_pool = False

    @classmethod
    def from_url(cls, url: str, **kwargs: Any) -> Self:
        """As redis-py's; Tradewind's own arguments beside it, or in the query, which has the last word."""
        own = take_own(kwargs)
        own["single_connection_client"] = kwargs.pop("single_connection_client", False)
        pool = ConnectionPool.from_url(url, **kwargs)
        own |= take_own(pool.connection_kwargs)
        return cls(connection_pool=pool, **own)

    def _view(self, call: CallOptions) -> ServerView:
        return ServerView(self, call)

    def _pool(self, *, lasting: bool) -> DedicatedPool:
        core = self._core
        return DedicatedPool(core, core.endpoint, core.connection_arguments, lasting=lasting)

    # -- on connections of their own -------------------------------------------------------------------------

    def pubsub(self, **kwargs: Any) -> PubSub:
        """redis-py's, on a dedicated connection; it subscribes anew when that is lost."""
        return PubSub(self._pool(lasting=True), event_dispatcher=self._event_dispatcher, **kwargs)

    def monitor(self) -> Monitor:
        """redis-py's, on a dedicated connection."""
        return Monitor(self.connection_pool)  # type: ignore[no-untyped-call]

    def client(self) -> PlainRedis:
        """redis-py's own client on one dedicated connection, for what changes it (SELECT, WATCH)."""
        return PlainRedis(connection_pool=self.connection_pool, single_connection_client=True)

    def pipeline(  # type: ignore[override]  # it is one to redis-py's eyes
        self, transaction: bool = True, shard_hint: Any | None = None
    ) -> ServerPipeline:
        """As the async client's; see `tradewind.client.pipeline.Pipeline`."""
        return ServerPipeline(self._core.pipeline(transaction, shard_hint))
