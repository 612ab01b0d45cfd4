"""How long the callbacks of the event loop hold it: a probe for what stops everybody else.

Each callback is timed by the thread's CPU clock, less what the garbage collector took in it: a busy machine
changes the figure little. What sleeps inside a callback (a blocking look-up of a name) is not seen by that
clock, so the wall clock is kept beside it.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

WORTH_KEEPING_S = 0.002


@dataclass(frozen=True, order=True)
class Hold:
    """One callback that took long."""

    cpu_s: float
    wall_s: float
    what: str

    def __str__(self) -> str:
        return f"{self.cpu_s * 1000:.1f} ms of CPU, {self.wall_s * 1000:.1f} ms in all: {self.what}"


class LoopHolds:
    """Every callback that took over 2 ms since the start or the last `clear()`."""

    def __init__(self) -> None:
        self.holds: list[Hold] = []
        self._collecting_s = 0.0
        self._collection_begun_s = 0.0

    def clear(self) -> None:
        self.holds.clear()

    @property
    def longest(self) -> Hold:
        return max(self.holds, default=Hold(0.0, 0.0, "nothing took over 2 ms"))

    async def of(self, work: Awaitable[None]) -> Hold:
        """The longest one while this is done."""
        await asyncio.sleep(0)  # the turn that asks for it is not part of it
        self.clear()
        await work
        return self.longest

    def timed(self, run: Callable[[Any], None]) -> Callable[[Any], None]:
        """`run` is `asyncio.Handle._run`."""

        def timed_run(handle: Any) -> None:
            begun_s, begun_cpu_s, collected_s = time.perf_counter(), time.thread_time(), self._collecting_s
            run(handle)
            cpu_s = time.thread_time() - begun_cpu_s - (self._collecting_s - collected_s)
            if cpu_s > WORTH_KEEPING_S:
                self.holds.append(Hold(cpu_s, time.perf_counter() - begun_s, _what(handle)))

        return timed_run

    def on_collection(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._collection_begun_s = time.thread_time()
        else:
            self._collecting_s += time.thread_time() - self._collection_begun_s


def _what(handle: Any) -> str:
    """The coroutine of a task, the protocol behind a socket, or the callback as it is."""
    callback = handle._callback
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"task {owner.get_name()}: {getattr(owner.get_coro(), '__qualname__', owner)}"
    protocol = getattr(owner, "_protocol", None)
    if protocol is not None:
        return f"{type(protocol).__module__}.{type(protocol).__qualname__}"
    return str(getattr(callback, "__qualname__", callback))


@pytest.fixture
def loop_holds(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopHolds]:
    """Watches asyncio's own event loop; uvloop's runs its callbacks itself."""
    holds = LoopHolds()
    monkeypatch.setattr(asyncio.Handle, "_run", holds.timed(asyncio.Handle._run))
    gc.callbacks.append(holds.on_collection)
    yield holds
    gc.callbacks.remove(holds.on_collection)
