"""Runs a program's event loop: uvloop where it is installed, else asyncio's own."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with suppress(ImportError):  # not made for this platform
    from uvloop import new_event_loop

T = TypeVar("T")

# Python's default, a collection every 700 new objects, suits programs that make cycles. Orders make none,
# and a thousand of them in flight are looked through at each collection: measured, 5 to 20 % of a busy
# process's time.
GC_THRESHOLDS = (20_000, 20, 20)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the faster loop, in a process that is ours alone."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)
