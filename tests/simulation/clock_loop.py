"""An event loop whose time is a number: nothing waits, everything happens at its own moment, in one order.

`Outside` is what an event loop would see through its selector: a queue of what happens outside the process
(bytes that travel, servers that answer, faults) at given times. `ClockLoop` is asyncio's own loop on top.
As with real sockets, what has come from outside is handed to the process before the timers that are due.
"""

import asyncio
import contextlib
import functools
import heapq
import random
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

START_S = 1000.0  # monotonic clocks do not begin at 0
TURNS_WITHOUT_TIME_MAX = 20_000  # more turns at one moment: something spins

Connect = Callable[..., Any]


class Stuck(AssertionError):
    """Nothing will ever happen again, or nothing but turns of the loop."""


class Outside:
    """Everything outside the process, in the order of time; what was arranged first comes first."""

    def __init__(self) -> None:
        self.now_s = START_S
        self.turn_ended: Callable[[], None] = lambda: None
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._arranged = 0
        self._readable: list[asyncio.Handle] = []
        self._turns_at_this_moment = 0

    def at(self, time_s: float, happen: Callable[..., None], *args: Any) -> None:
        """Let something happen outside, at a time of the virtual clock."""
        self._arranged += 1
        heapq.heappush(self._events, (time_s, self._arranged, happen, args))

    def after(self, delay_s: float, happen: Callable[..., None], *args: Any) -> None:
        self.at(self.now_s + delay_s, happen, *args)

    def wake(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        """A socket of the process is ready: run the callback in the loop's next turn."""
        self._readable.append(asyncio.Handle(callback, (), loop))

    def select(self, timeout_s: float | None) -> list[asyncio.Handle]:
        """What a selector does: let time pass until a socket is ready, at most so long.

        What happened while the process stood still happened at its own time: `now_s` goes back for it.
        """
        self.turn_ended()
        before_s = reached_s = self.now_s
        until_s = float("inf") if timeout_s is None else reached_s + max(0.0, timeout_s)
        while self._events:
            time_s = self._events[0][0]
            if time_s > until_s or (time_s > reached_s and self._readable):
                break
            _, _, happen, args = heapq.heappop(self._events)
            self.now_s, reached_s = time_s, max(reached_s, time_s)
            happen(*args)
        if not self._readable:
            if until_s == float("inf"):
                raise Stuck("somebody waits, and nothing will ever happen again")
            reached_s = until_s
        self.now_s = reached_s
        self._watch_for_spinning(before_s)
        ready, self._readable = self._readable, []
        return ready

    def _watch_for_spinning(self, before_s: float) -> None:
        self._turns_at_this_moment = 0 if self.now_s > before_s else self._turns_at_this_moment + 1
        if self._turns_at_this_moment > TURNS_WITHOUT_TIME_MAX:
            raise Stuck(f"the loop turned {TURNS_WITHOUT_TIME_MAX} times without time passing")


class ClockLoop(asyncio.BaseEventLoop):
    """asyncio's loop with a virtual clock. `connect` makes its connections."""

    def __init__(self, outside: Outside) -> None:
        super().__init__()
        self.outside = outside
        self.connect: Connect | None = None
        self.stalled_s = 0.0
        self._selector = outside  # asyncio's _run_once calls its select()
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.outside.now_s

    def stall(self, seconds: float) -> None:
        """The process stands still, as in a long computation: time passes, and no callback runs."""
        self.outside.now_s += seconds
        self.stalled_s += seconds

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        **_: Any,
    ) -> Any:
        assert self.connect is not None
        return await self.connect(protocol_factory, host, port)

    def pending_timers(self) -> list[asyncio.TimerHandle]:
        return [timer for timer in self._scheduled if not timer.cancelled()]

    def _process_events(self, event_list: list[asyncio.Handle]) -> None:
        self._ready.extend(event_list)

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""


@contextlib.contextmanager
def taken_over(package: str, clock: Callable[[], float], seed: int) -> Iterator[None]:
    """The modules of a package see a virtual clock and seeded randomness in place of `time` and `random`.

    Their own names are replaced for the time being, so that the code itself needs no indirection.
    """
    dice = random.Random(seed)
    replacements = {
        id(time): SimpleNamespace(monotonic=clock),
        id(time.monotonic): clock,
        id(random): SimpleNamespace(
            Random=functools.partial(random.Random, seed), choice=dice.choice, randrange=dice.randrange,
            uniform=dice.uniform, random=dice.random,
        ),
        id(random.Random): functools.partial(random.Random, seed),
    }  # fmt: skip
    originals = [
        (module, name, value)
        for module_name, module in sys.modules.items()
        if module_name.startswith(package)
        for name, value in vars(module).items()
        if id(value) in replacements
    ]
    for module, name, value in originals:
        setattr(module, name, replacements[id(value)])
    try:
        yield
    finally:
        for module, name, value in originals:
            setattr(module, name, value)
