"""A primary is out of reach: its replicas are asked at a short pace whether one of them has taken its place.

Refreshes of the map are limited in rate, because maps are large and clients many. ROLE costs a server next to
nothing, and only replicas of the primary in question are asked: so callers wait for the servers' election
alone, and not for the next refresh after it.
"""

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from redis.exceptions import NoPermissionError

from tradewind.client.exclusive import give_up
from tradewind.client.node import Node
from tradewind.client.nodes import Nodes

PACE_S = 0.05
JITTER = 0.5  # so that the clients of one primary do not ask in step
ANSWER_S = 0.5
WATCH_S_MAX = 30.0  # then the refreshes alone look on, until the primary is given up anew
REPEAT_S_MIN = 0.5  # a node that says so, and owns no slots all the same, causes no storm of refreshes
PRIMARY = ("master", b"master")

Ask = Callable[[Node, tuple[Any, ...], float], "asyncio.Future[Any]"]


class Promotions:
    """Watches replicas, each in a task of its own, and asks while somebody waits (`is_missed`).

    `on_promoted` hears of one that says it is a primary.
    """

    def __init__(
        self,
        nodes: Nodes,
        *,
        is_missed: Callable[[Node], bool],
        ask: Ask,
        on_promoted: Callable[[Node], None],
        rng: random.Random,
    ) -> None:
        self._nodes = nodes
        self._is_missed = is_missed
        self._ask = ask
        self._on_promoted = on_promoted
        self._rng = rng
        self._tasks: dict[Node, asyncio.Task[None]] = {}  # by replica
        self._closed = False

    def watch(self, primary: Node) -> None:
        """Ask until one is promoted or the primary is back. Harmless if it is under way, or none is known."""
        if self._closed or primary.role != "primary":
            return
        for replica in self._nodes.replicas_of(primary):
            if replica not in self._tasks:
                task = asyncio.get_running_loop().create_task(
                    self._watch(primary, replica), name=f"promotion {replica.name}"
                )
                self._tasks[replica] = task
                task.add_done_callback(partial(self._ended, replica))

    def _ended(self, replica: Node, _task: "asyncio.Task[None]") -> None:
        del self._tasks[replica]

    async def _watch(self, primary: Node, replica: Node) -> None:
        until_s = time.monotonic() + WATCH_S_MAX
        while time.monotonic() < until_s:
            await asyncio.sleep(PACE_S * self._rng.uniform(1.0, 1.0 + JITTER))
            if not _is_out_of_reach(primary):
                return
            if self._is_missed(primary) and await self._is_promoted(replica):
                self._on_promoted(replica)
                await asyncio.sleep(REPEAT_S_MIN)
                return

    async def _is_promoted(self, replica: Node) -> bool:
        reply = self._ask(replica, ("ROLE",), ANSWER_S)
        try:
            await asyncio.wait((reply,))
        finally:
            give_up(reply)
        error = reply.exception()
        if isinstance(error, NoPermissionError):  # it will not say: the refreshes find out, as they would
            await asyncio.sleep(WATCH_S_MAX)
        return error is None and bool(reply.result()) and reply.result()[0] in PRIMARY

    def close(self) -> None:
        """Watch no more."""
        self._closed = True
        for task in self._tasks.values():
            task.cancel()

    async def aclose(self) -> None:
        """As `close`, and wait for its end."""
        self.close()
        await asyncio.gather(*tuple(self._tasks.values()), return_exceptions=True)


def _is_out_of_reach(primary: Node) -> bool:
    """It is the primary as far as we know, and answers nothing."""
    is_lost = not primary.connected or primary.deadlines.is_silent(time.monotonic())
    return primary.role == "primary" and is_lost
