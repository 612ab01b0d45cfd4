"""Pipelines under redis-py's API: commands are collected, then all sent at once, each on its own way.

Since every command of the client is pipelined anyway, a pipeline is only a way to write several calls down.
Each command follows its own redirects and has its own deadline; results come in the order of the calls.
"""

import asyncio
from typing import TYPE_CHECKING, Any, cast

from redis.asyncio.cluster import ClusterPipeline
from redis.exceptions import RedisClusterException
from redis.utils import safe_str, truncate_text

if TYPE_CHECKING:
    from redis.asyncio import RedisCluster as RedisPyCluster

    from tradewind.client.calls import BoundCalls
    from tradewind.client.cluster import RedisCluster


class Pipeline(ClusterPipeline):
    """`client.pipeline()`. Not atomic: every command stands for itself, whatever its slot.

    Commands with the same key run in the order of the calls, unless the cluster changes under them: one that
    is refused for the moment (a failover, a moving slot) is tried again later, when one behind it may have
    run.
    """

    _event_dispatcher: Any = None  # redis-py's; nothing here announces events

    def __init__(
        self,
        client: "RedisCluster | BoundCalls",
        transaction: bool | None = None,
        shard_hint: Any | None = None,
    ) -> None:
        if shard_hint:
            raise RedisClusterException("shard_hint is deprecated in cluster mode")
        if transaction:
            raise RedisClusterException(
                "pipeline(transaction=True) is not available in this release; use a Lua script or a function "
                "(client.eval, client.fcall) for what must be atomic"
            )
        self.cluster_client = cast("RedisPyCluster", client)
        self._transaction = transaction
        self._commands: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    async def initialize(self) -> "Pipeline":
        """Wait until the client is ready."""
        await self.cluster_client.initialize()
        self._commands = []
        return self

    def execute_command(self, *args: Any, **options: Any) -> "Pipeline":
        """Add a command."""
        self._commands.append((args, options))
        return self

    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        """Send what was collected; results in order. With `raise_on_error` the first error is raised.

        Every command has been answered or has failed by then. Those that failed with OutcomeUnknown may have
        run; the others of the pipeline are not affected. Redirects are always followed.
        """
        commands, self._commands = self._commands, []
        results: list[Any] = await asyncio.gather(
            *(self.cluster_client.execute_command(*args, **options) for args, options in commands),
            return_exceptions=True,
        )
        if raise_on_error:
            for number, result in enumerate(results, 1):
                if isinstance(result, BaseException):
                    raise _explained(result, number, commands[number - 1][0])
        return results

    def _split_command_across_slots(self, command: str, *keys: Any) -> "Pipeline":  # type: ignore[override]
        """DELETE, EXISTS, TOUCH, UNLINK over several slots: one command and result a slot, as redis-py."""
        for slot_keys in self.cluster_client._partition_keys_by_slot(keys).values():
            self.execute_command(command, *slot_keys)
        return self

    def mset_nonatomic(self, mapping: Any) -> "Pipeline":  # type: ignore[override]
        """MSET over several slots: one command, and one result, a slot (as redis-py)."""
        for slot_pairs in self.cluster_client._partition_pairs_by_slot(mapping).values():
            self.execute_command("MSET", *slot_pairs)
        return self

    async def reset(self) -> None:  # type: ignore[override]
        """Forget what was collected."""
        self._commands = []

    async def discard(self) -> None:
        """Transactions are not part of this release."""
        self.multi()

    async def unwatch(self) -> None:  # type: ignore[override]
        """Transactions are not part of this release."""
        await self.watch()

    def multi(self) -> None:
        """Transactions are not part of this release."""
        raise RedisClusterException(
            "transactions are not available in this release; use a script or a function"
        )

    async def watch(self, *names: Any) -> None:  # type: ignore[override]
        """Transactions are not part of this release."""
        raise RedisClusterException("WATCH is not available in this release; use a script or a function")

    async def unlink(self, *names: Any) -> "Pipeline":  # type: ignore[override]
        """Several slots: one command and result a slot. To be awaited, as redis-py's."""
        return self._split_command_across_slots("UNLINK", *names)

    def __len__(self) -> int:
        return len(self._commands)

    def __repr__(self) -> str:
        return f"<Pipeline {len(self._commands)} commands>"

    def __bool__(self) -> bool:
        return True


def _explained(error: BaseException, number: int, args: tuple[Any, ...]) -> BaseException:
    """The same error, saying which command it is of, as redis-py does."""
    command = truncate_text(" ".join(map(safe_str, args)))  # type: ignore[no-untyped-call]
    error.args = (f"Command # {number} ({command}) of pipeline caused error: {error}", *error.args[1:])
    return error
