"""Callers that count up keys of their own and keep what they were told: a history, checked afterwards."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

from tests.support.waiting import eventually
from tradewind import OutcomeUnknown, RedisCluster


class Writers:
    """One task a key: INCR (or what `_ask` says), again and again, until the end of `async with`.

    `client` may be a view, as `client.durable()`. Errors other than OutcomeUnknown mean that the write did
    not happen: they are counted by name, and the writer goes on.
    """

    def __init__(self, client: Any, keys: Iterable[str], pause_s: float = 0.001) -> None:
        self.keys = list(keys)
        self.acknowledged: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {key: [] for key in self.keys}  # of acknowledgements
        self._client = client
        self._pause_s = pause_s
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._write(key)) for key in self.keys]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _write(self, key: str) -> None:
        while not self._stopping:
            try:
                await self._ask(key)
            except OutcomeUnknown:
                self.unknown[key] += 1
            except Exception as error:
                self.errors[f"{type(error).__name__}: {error}"[:150]] += 1
                await asyncio.sleep(0.01)
            else:
                self.acknowledged[key] += 1
                self.times[key].append(time.monotonic())
            await asyncio.sleep(self._pause_s)

    async def _ask(self, key: str) -> None:
        """Add 1 to the key."""
        await self._client.execute_command("INCR", key)

    async def more(self, count: int, timeout_s: float = 15.0) -> None:
        """Wait until so many more are acknowledged."""
        goal = self.total + count
        await eventually(lambda: self.total >= goal, timeout_s)

    @property
    def total(self) -> int:
        return self.acknowledged.total()

    def longest_gap_s(self, key: str) -> float:
        times = self.times[key]
        return max((later - earlier for earlier, later in pairwise(times)), default=float("inf"))

    async def check(self, client: RedisCluster, *, may_lose: bool = False) -> None:
        """Every key holds what was acknowledged and at most what is unknown too: none lost, none twice."""
        for key in self.keys:
            value = int(await client.get(key) or 0)
            most = self.acknowledged[key] + self.unknown[key]
            assert value <= most, f"{key} is {value}: more than {most} were asked for, some ran twice"
            least = 0 if may_lose else self.acknowledged[key]
            assert value >= least, f"{key} is {value}: {least} were acknowledged, some are lost"
