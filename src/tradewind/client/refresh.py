"""Learning the slot map: single-flight, rate limited, asked of a random node, never on a caller's path."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from redis.exceptions import NoPermissionError, RedisError

from tradewind.client.command import Command, pack
from tradewind.client.errors import ClientClosed, ClusterNotReady
from tradewind.client.exclusive import give_up
from tradewind.client.node import Node
from tradewind.client.policy import Timeouts, backoff_s
from tradewind.client.topology import SlotMap, Topology

ANSWER_S = 2.0  # how long one node may take to answer
HEDGE_S = 0.25  # ... and after how long another is asked as well
Answer = TypeVar("Answer")
START_BACKOFF_BASE_S = 0.05
JITTER = 0.2  # so that clients that lost the same node do not ask in step


class Question(NamedTuple):
    """One harmless command, which any node can answer."""

    args: tuple[str, ...]
    answer_s: float  # how long one node may take
    unready: str  # the beginning of the sentence that says that nobody answered
    refusal_will_do: bool = False  # a node that refuses it to this user has answered: with None


class Refresher:
    """Asks nodes for their slot map and hands the first good one on. The old map serves meanwhile."""

    def __init__(
        self,
        *,
        candidates: Callable[[], list[Node]],
        dispatch: Callable[[Command], None],
        install: Callable[[SlotMap], None],
        is_urgent: Callable[[], bool],
        timeouts: Timeouts,
        topology: Topology,
        count: Callable[[Exception], None],
        rng: random.Random,
    ) -> None:
        self.begun_s = 0.0  # when the last refresh began
        self.last_error = ""
        self._candidates = candidates
        self._dispatch = dispatch
        self._install = install
        self._is_urgent = is_urgent
        self._timeouts = timeouts
        self._topology = topology
        self._count = count
        self._rng = rng
        self._first: Node | None = None  # has news, and is asked first
        self._questions: dict[Command, None] = {}  # that are on their way, in order
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def soon(self) -> None:
        """Have the map refreshed, at most once in `refresh_interval_s`; returns at once."""
        if self._closed or self._task is not None or self._timer is not None:
            return
        pause_s = self._timeouts.refresh_interval_s * self._rng.uniform(1.0, 1.0 + JITTER)
        wait_s = max(0.0, self.begun_s + pause_s - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._begin)

    def at_once(self, first: Node) -> None:
        """Have the map refreshed now, whatever the limit says: this node has news."""
        self._first = first
        if self._timer is not None:
            self._timer.cancel()
        self._begin()  # or, if one is under way, after it

    def if_older(self, age_s: float) -> None:
        """Have the map refreshed if that was last begun longer ago."""
        if time.monotonic() - self.begun_s > age_s:
            self.soon()

    def _begin(self) -> None:
        self._timer = None
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="refresh")

    async def _run(self) -> None:
        try:
            await self.refresh()
        except ClusterNotReady as error:
            self._count(error)
            self.last_error = str(error)
        finally:
            self._task = None
        if self._first is not None:
            self._begin()
        elif self._is_urgent():
            self.soon()

    async def refresh(self, deadline_s: float = float("inf")) -> None:
        """Learn the slot map now, by `deadline_s` of the monotonic clock. Raises as `ask_any`."""
        self.begun_s = time.monotonic()
        topology = self._topology
        question = Question(topology.question, ANSWER_S, topology.unready, topology.refusal_will_do)
        first, self._first = self._first, None
        nodes = self._candidates() if first is None else dict.fromkeys((first, *self._candidates()))
        self._install(await self.ask_any(nodes, question, self._read_map, deadline_s))

    def _read_map(self, node: Node, reply: Any) -> SlotMap:
        slot_map = self._topology.slot_map(reply, node.endpoint)
        if not slot_map.covered:
            raise ValueError("it knows of no slots")
        return slot_map

    async def ask_any(
        self,
        nodes: Iterable[Node],
        question: Question,
        read: Callable[[Node, Any], Answer],
        deadline_s: float,
    ) -> Answer:
        """The first answer that `read` can read. The next node is asked when one fails, or takes long.

        Raises ClusterNotReady with each node's own reason, or ClientClosed.
        """
        reasons: dict[str, str] = {}
        cause: Exception | None = None
        candidates = deque(nodes)
        asked: dict[asyncio.Future[Any], Node] = {}
        try:
            while (candidates or asked) and not self._closed:
                if candidates:
                    node = candidates.popleft()
                    left_s = max(0.0, deadline_s - time.monotonic())
                    asked[self.ask(node, question.args, min(question.answer_s, left_s))] = node
                done, _ = await asyncio.wait(
                    asked, timeout=HEDGE_S if candidates else None, return_when=asyncio.FIRST_COMPLETED
                )
                for reply in [reply for reply in asked if reply in done]:
                    node = asked.pop(reply)
                    try:
                        return read(node, _answer(question, reply))
                    except Exception as error:  # a server's answer, a lost connection, garbage: a reason
                        reasons[node.name] = _reason(node, error)
                        cause = error
        finally:
            for reply in asked:
                give_up(reply)
        if self._closed:
            raise ClientClosed("the client is closed")
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ClusterNotReady(f"{question.unready}: {listed}", reasons) from cause

    async def until_ready(self, attempt: Callable[[], Awaitable[Answer]], deadline_s: float) -> Answer:
        """Try until it works: servers may be starting, full, or changing their roles at this moment."""
        tries, begun_s = 0, time.monotonic()
        while True:
            try:
                return await attempt()
            except ClusterNotReady as failure:
                error, cause = failure, failure.__cause__
                if cause is not None and self._topology.is_final(cause):
                    raise cause from None
            tries += 1
            delay_s = backoff_s(tries, self._rng, START_BACKOFF_BASE_S)
            if time.monotonic() + delay_s >= deadline_s:
                waited_s = time.monotonic() - begun_s
                raise ClusterNotReady(f"{error} (waited {waited_s:.2f} s, {tries} tries)", error.reasons)
            await asyncio.sleep(delay_s)

    def ask(self, node: Node, args: tuple[Any, ...], timeout_s: float) -> "asyncio.Future[Any]":
        """One harmless command to one node, by a deadline of its own."""
        now_s = time.monotonic()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        question = Command(str(args[0]), pack(args), future, -1, True, now_s, now_s + timeout_s)
        question.pinned = node
        self._questions[question] = None
        future.add_done_callback(lambda _reply: self._questions.pop(question, None))
        self._dispatch(question)
        return future

    def on_dial_failed(self, node: Node, error: Exception) -> None:
        """Who only asks a question asks somebody else at once."""
        for question in [question for question in self._questions if question.pinned is node]:
            question.fail(error)

    async def aclose(self) -> None:
        """No more refreshes."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _answer(question: Question, reply: "asyncio.Future[Any]") -> Any:
    if question.refusal_will_do and isinstance(reply.exception(), NoPermissionError):
        return None
    return reply.result()


def _reason(node: Node, error: Exception) -> str:
    """Without the name of the node, which stands before it anyway; with the class where it says more."""
    text = str(error).removeprefix(f"{node.name}: ") or "no reason given"
    plain = isinstance(error, ValueError) or type(error).__module__ != RedisError.__module__
    return text if plain else f"{type(error).__name__}: {text}"
