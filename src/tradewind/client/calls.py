"""Per-call options, as views of a client: `client.durable()`, `client.with_options(...)`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from redis.commands import AsyncRedisClusterCommands

if TYPE_CHECKING:
    from tradewind.client.cluster import RedisCluster


@dataclass(frozen=True)
class CallOptions:
    """How one call is made. `timeout_s` None means the client's; `replicas` 0 means not durable."""

    timeout_s: float | None = None
    idempotent: bool = False
    replicas: int = 0
    durable_lanes: int = 2


DEFAULT_CALL = CallOptions()


class BoundCalls(AsyncRedisClusterCommands):  # type: ignore[misc]  # redis-py's mixins are untyped
    """The command methods of a client, bound to options. Holds no connections of its own; cheap to make and keep."""

    _is_async_client: Literal[True] = True

    def __init__(self, client: "RedisCluster", call: CallOptions) -> None:
        self._client = client
        self.call = call

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As the client's, with this view's options."""
        return await self._client.execute_call(args, options, self.call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def __repr__(self) -> str:
        return f"<{self.call} of {self._client!r}>"
