"""`tradewind.Redis.pipeline()`: redis-py's pipeline of a single server over the client's lanes.

redis-py's class decides what is written down and what runs at once; here both find their way.
"""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, cast

import redis.asyncio.client
from redis.exceptions import ResponseError

from tradewind.client.pipeline import Transactions, raise_first, run_each

if TYPE_CHECKING:
    from tradewind.client.base import ClientCore
    from tradewind.client.calls import Call, CallOptions

THE_SLOT = 0  # a single server has all of them


class ServerPipeline(redis.asyncio.client.Pipeline):
    """`client.pipeline()`: a transaction; with `transaction=False` every command stands for itself.

    A transaction needs no connection of its own, except from WATCH to EXEC. The server runs all its commands
    with nothing between them, or none. One that fails when it runs (WRONGTYPE) does not undo the others.
    """

    def __init__(
        self,
        client: "ClientCore",
        call: "CallOptions",
        transaction: bool = True,
        shard_hint: Any | None = None,
    ) -> None:
        self._core = client
        self._call = call
        self._transactions = Transactions(client, call)
        self.response_callbacks = cast(Any, client.response_callbacks)
        self.is_transaction = transaction
        self.shard_hint = shard_hint
        self.connection = None  # redis-py's; the connection that watches is held by what watches
        self.explicit_transaction = False
        self.command_stack: Any = []  # of `Call`s, as redis-py's
        self.scripts = set()

    @property
    def watching(self) -> bool:  # type: ignore[override]  # redis-py's is a variable
        """WATCH has been sent: commands run at once until `multi()`."""
        return self._transactions.watching

    def immediate_execute_command(self, *args: Any, **options: Any) -> Awaitable[Any]:  # type: ignore[override]
        """WATCH, and what follows it before `multi()`. Raises WatchError when the watch has ended."""
        if args[0] == "WATCH":
            return self._transactions.watch(args[1:], THE_SLOT)
        if args[0] == "UNWATCH":
            return self._unwatch()
        if self.watching:
            return self._transactions.send(args, options, THE_SLOT)
        return self._core.execute_call(args, options, self._call)

    async def _unwatch(self) -> bool:
        await self._transactions.close()
        return True

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Make the calls that were written down; results in order. With `raise_on_error` the first is raised.

        Of a transaction also WatchError when something watched has changed, what the server refused a command
        for (nothing was executed), OutcomeUnknown when no reply came and it may have written.
        """
        calls: list[Call] = self.command_stack
        try:
            if not calls and not self.watching:
                return []
            if self.scripts:
                await self.load_scripts()  # type: ignore[no-untyped-call]
            results = await self._results(calls)
        finally:
            await self.reset()
        if raise_on_error:
            raise_first(results, calls)
        return results

    async def _results(self, calls: "list[Call]") -> list[Any]:
        if not (self.is_transaction or self.explicit_transaction):
            return await run_each(self._core, calls, self._call)
        if any(args[0] == "DISCARD" for args, _ in calls):
            raise ResponseError("EXEC without MULTI")  # what the server says; here nothing is sent
        await self._core.initialize()
        return await self._transactions.execute(calls, THE_SLOT)

    async def reset(self) -> None:  # type: ignore[override]  # not the command RESET
        """Forget what was written down, and watch nothing any more."""
        self.command_stack = []
        self.scripts = set()
        self.explicit_transaction = False
        await self._transactions.close()

    def __repr__(self) -> str:
        kind = "transaction" if self.is_transaction else "pipeline"
        return f"<ServerPipeline {kind} of {len(self)} commands>"
