"""Pipelines for blocking code: the async client's. It collects in the calling thread and runs in the loop."""

import inspect
from typing import Any, Self

import redis.client
from redis.commands.core import BitFieldOperation

from tradewind.threads.background import background


class Pipeline:
    """`client.pipeline()`, for one thread at a time. Every method of the async client's pipeline is here.

    What it answers at once comes at once; what it awaits (`execute`, `watch`, a command after `watch`) runs
    in the background loop, and is waited for. Errors are those of the async pipeline.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._pipe, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._answer(value(*args, **kwargs))

        return call

    def _answer(self, result: Any) -> Any:
        if result is self._pipe:
            return self
        if not inspect.isawaitable(result):
            return result

        async def wait() -> Any:
            return await result

        answer = background().run(wait)
        return self if answer is self._pipe else answer

    def bitfield(self, key: Any, default_overflow: Any = None) -> BitFieldOperation:
        """As redis-py's; what it collects is added to this pipeline."""
        return BitFieldOperation(self, key, default_overflow)  # type: ignore[arg-type]  # all that it asks for

    def close(self) -> None:
        """Forget what was collected, and watch nothing any more."""
        self.reset()

    def __len__(self) -> int:
        return len(self._pipe)

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.reset()

    def __repr__(self) -> str:
        return repr(self._pipe)


class ServerPipeline(Pipeline):
    """For a single server. redis-py's scripts look whether they are called with a `redis.client.Pipeline`."""

    @property  # type: ignore[misc]  # as test doubles do it
    def __class__(self) -> type:
        return redis.client.Pipeline
