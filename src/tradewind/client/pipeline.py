"""Pipelines under redis-py's API: commands are collected, then all sent at once, each on its own way.

Since every command of the client is pipelined anyway, a pipeline is only a way to write several calls down. Each
command follows its own redirects and has its own deadline; results come in the order of the calls.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from redis.asyncio.cluster import ClusterPipeline
from redis.exceptions import RedisClusterException

if TYPE_CHECKING:
    from tradewind.client.cluster import RedisCluster


class Pipeline(ClusterPipeline):
    """`client.pipeline()`. Not atomic: every command stands for itself, whatever its slot."""

    def __init__(self, client: "RedisCluster", transaction: bool | None = None) -> None:
        if transaction:
            raise RedisClusterException(
                "pipeline(transaction=True) is not available in this release; use a Lua script or a function "
                "(client.eval, client.fcall) for what must be atomic"
            )
        self.cluster_client = client
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
        """Send what was collected; results in order. With `raise_on_error` the first error is raised at the end.

        Commands that failed with OutcomeUnknown may have run; the others of the pipeline are not affected.
        """
        commands, self._commands = self._commands, []
        results = await asyncio.gather(
            *(self.cluster_client.execute_command(*args, **options) for args, options in commands),
            return_exceptions=True,
        )
        if raise_on_error:
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        return list(results)

    def _split_command_across_slots(self, command: str, *keys: Any) -> "Pipeline":
        """DELETE, EXISTS, TOUCH, UNLINK over several slots: one command, and one result, a slot (as redis-py)."""
        for slot_keys in self.cluster_client._partition_keys_by_slot(keys).values():
            self.execute_command(command, *slot_keys)
        return self

    def mset_nonatomic(self, mapping: Any) -> "Pipeline":
        """MSET over several slots: one command, and one result, a slot (as redis-py)."""
        for slot_pairs in self.cluster_client._partition_pairs_by_slot(mapping).values():
            self.execute_command("MSET", *slot_pairs)
        return self

    async def reset(self) -> None:
        """Forget what was collected."""
        self._commands = []

    def multi(self) -> None:
        """Transactions are not part of this release."""
        raise RedisClusterException(
            "transactions are not available in this release; use a script or a function"
        )

    async def watch(self, *names: Any) -> bool:
        """Transactions are not part of this release."""
        raise RedisClusterException("WATCH is not available in this release; use a script or a function")

    def __len__(self) -> int:
        return len(self._commands)

    def __repr__(self) -> str:
        return f"<Pipeline {len(self._commands)} commands>"

    def __bool__(self) -> bool:
        return True
