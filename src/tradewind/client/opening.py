"""Opening a client: once for all callers who wait for it, whoever of them gives up."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from redis.exceptions import RedisError

from tradewind.client.catalog import CommandSpec, parse_catalog, untold_catalog
from tradewind.client.errors import ClientClosed, ClusterNotReady
from tradewind.client.node import Node
from tradewind.client.refresh import Question
from tradewind.client.router import Router

CATALOG = Question(("COMMAND",), answer_s=5.0, unready="no node could tell its commands")
CLOSED_MEANWHILE = "the client was closed while it was being opened"


class Opening:
    """The task in which `open_client` runs, while it does. Not thread safe; one event loop at a time."""

    def __init__(self, open_client: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._open_client = open_client
        self._task: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        """Returns when the client is open. Raises what `open_client` does, or ClientClosed."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._open_client(), name="open")
            self._task.add_done_callback(self._ended)
        task = self._task
        try:
            await asyncio.shield(task)
        except RedisError as error:
            raise _own(error) from error.__cause__  # each caller gets its own
        except asyncio.CancelledError:
            if task.cancelled():  # before it began
                raise ClientClosed(CLOSED_MEANWHILE) from None
            raise

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled():
            task.exception()  # the callers have been told; there may be none left

    async def cancel(self) -> None:
        """End it; those who wait are told ClientClosed."""
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def let_go(self) -> object:
        """Forget the task, which belongs to another process."""
        task, self._task = self._task, None
        return task


def _own(error: RedisError) -> RedisError:
    """Another one that says the same: each that raises an error adds to its traceback."""
    if isinstance(error, ClusterNotReady):
        return ClusterNotReady(str(error), error.reasons)
    return type(error)(*error.args)


async def start(
    router: Router, deadline_s: float, *, needs_catalog: bool, needs_keys: bool
) -> dict[str, CommandSpec]:
    """Start a router, and learn the server's commands where they are not known yet.

    `needs_keys`: a user whom the server does not tell its commands cannot go on. Raises as `Router.start`, or
    ClientClosed when it is cancelled; the router has been closed then.
    """
    try:
        await router.start(deadline_s)
        if not needs_catalog:
            return {}
        question = CATALOG._replace(refusal_will_do=not needs_keys)
        return await router.ask_primaries(question, _read_catalog, deadline_s)
    except BaseException as error:
        await router.aclose()
        if isinstance(error, asyncio.CancelledError):
            raise ClientClosed(CLOSED_MEANWHILE) from None
        raise


def _read_catalog(_node: Node, reply: Any) -> dict[str, CommandSpec]:
    """Raises ValueError for what is not understood."""
    try:
        return untold_catalog() if reply is None else parse_catalog(reply)
    except (LookupError, TypeError) as error:
        raise ValueError(f"COMMAND answered in a form that is not understood: {error}") from error
