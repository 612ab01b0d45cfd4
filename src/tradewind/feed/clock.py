"""Time for the feed, in one place, so that tests can inject it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from tradewind import clock


class Clock(Protocol):
    """What the feed needs to know about time."""

    def elapsed_s(self) -> float:
        """Seconds since some fixed moment; never goes back. Paces the feed."""
        ...

    def wall_ms(self) -> int:
        """UTC milliseconds since 1970. Stamps quotes, so that another process can tell how old they are."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; gives other tasks a turn even for 0."""
        ...


class SystemClock:
    """The machine's clocks, with the event loop's own for pacing. Use inside a running loop."""

    def elapsed_s(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        return clock.now_ms()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
