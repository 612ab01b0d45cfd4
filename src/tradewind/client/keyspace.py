"""redis-py's keyspace notifications of a cluster, from every node that owns slots. Needs redis-py 8.1.

Each node tells of its own keys only, so there is a connection to every primary. redis-py looks for new ones
when it reads from a connection that has failed. That misses a replica that takes over a little later, and a
node that joins; here each new slot map is looked at.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redis.asyncio.keyspace_notifications import AsyncClusterKeyspaceNotifications
from redis.exceptions import RedisError

from tradewind.client.errors import ClientClosed
from tradewind.client.router import Router

if TYPE_CHECKING:
    from tradewind.client.cluster import RedisCluster


class ClusterKeyspaceNotifications(AsyncClusterKeyspaceNotifications):
    """`client.keyspace_notifications()`: redis-py's, kept in line with the slot map until `aclose`.

    A node that cannot be subscribed to (it does not answer, its dedicated connections are all taken) is
    logged, and tried again with the next map; one is asked for.
    """

    def __init__(
        self,
        client: "RedisCluster",
        key_prefix: str | bytes | None,
        ignore_subscribe_messages: bool,
        find_router: Callable[[], Router],
    ) -> None:
        super().__init__(client, key_prefix, ignore_subscribe_messages)
        self._find_router = find_router  # ClientClosed
        self._completing: asyncio.Task[None] | None = None

    async def _execute_subscribe(self, patterns: dict[str, Any], exact_channels: dict[str, Any]) -> None:
        await self.cluster.initialize()
        await super()._execute_subscribe(patterns, exact_channels)
        self._ask_for_a_map()

    def on_map(self) -> None:
        """There is a new slot map."""
        if self.subscribed and self._completing is None and not self._is_complete():
            self._completing = asyncio.get_running_loop().create_task(self._complete(), name="notifications")

    def _is_complete(self) -> bool:
        return {node.name for node in self.cluster.get_primaries()} == set(self._node_pubsubs)

    async def _complete(self) -> None:
        try:
            await self.refresh_subscriptions()  # type: ignore[no-untyped-call]  # redis-py
        except ClientClosed:
            pass
        except (RedisError, OSError):
            self._ask_for_a_map()
        finally:
            self._completing = None

    def _ask_for_a_map(self) -> None:
        if not self._is_complete():
            self._find_router().refresh_soon()

    async def aclose(self) -> None:
        """As redis-py's: close the connections; it cannot be used again."""
        if self._completing is not None:
            self._completing.cancel()
            await asyncio.gather(self._completing, return_exceptions=True)
        await super().aclose()  # type: ignore[no-untyped-call]  # redis-py
