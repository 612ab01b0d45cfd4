"""Brings reads to the nodes that `replica_reads` chooses, and learns what the choice is made by.

Owns the tasks that compare replicas with their primary (one for each shard, and only while reads are held
back for want of a comparison) and the one that measures latencies (only while "lowest_latency" is used).
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from tradewind.client.command import Command, pack, second_try
from tradewind.client.errors import NodeUnavailable
from tradewind.client.node import Node
from tradewind.client.policy import Verdict, judge
from tradewind.client.replica_reads import OVERDUE_S, History, ReplicaReads, parse_history
from tradewind.client.slot_news import NO_KEY
from tradewind.client.topology import SlotMap

if TYPE_CHECKING:
    from tradewind.client.router import Router

COMPARE_PAUSE_S = 0.01  # between two comparisons of a shard...
COMPARE_PAUSE_S_MAX = 0.5  # ... doubled up to this while replicas do not get on
ANSWER_S = 1.0
MEASURE_PERIOD_S = 1.0
LOOKOUT_PERIOD_S = 2.0  # how often missing replicas are looked for


class ReadRouting:
    """The part of a router that a client needs which does not read from primaries alone."""

    def __init__(self, router: "Router", *, read_your_writes: bool) -> None:
        self.choice: ReplicaReads[Node] = ReplicaReads(
            read_your_writes=read_your_writes, now=time.monotonic, compare=self._compare_soon
        )
        self._router = router
        self._nodes_known = self._nodes_known_max = 0
        self.from_replicas = 0  # reads sent to one
        self._replicas: dict[Node, tuple[Node, ...]] = {}
        self._wanted: set[Node] = set()  # primaries whose replicas are to be compared
        self._comparisons: dict[Node, asyncio.Task[None]] = {}
        self._measurement: asyncio.Task[None] | None = None
        self._measured_s = 0.0
        router.news.listeners.append(self.choice)
        for command in router.under_way():
            if command.part_of is None and not command.future.done():  # it may be a write
                router.news.note(command.slot, command.future)
        router.nodes.on_map.append(self._on_map)
        router.on_node_lost.append(self._on_lost)
        self._on_map(router.nodes.slot_map)

    # -- the way of a read -----------------------------------------------------------------------------------

    def node_for(self, command: Command, primary: Node) -> Node | None:
        """Where the read goes now. None: nowhere yet; it will be tried again, or has been told."""
        assert command.read_from is not None
        if command.read_from == "lowest_latency":
            self._measure_soon()
        node = self.choice.choose(command.slot, primary, command.read_from)
        if node is None:
            self._router.retries.later(command, self._no_replica(command, primary))
        elif node is not primary:
            self.from_replicas += 1
        return node

    def _no_replica(self, command: Command, primary: Node) -> NodeUnavailable:
        replicas = self._replicas.get(primary, ())
        named = ", ".join(f"{node.name} ({node.dialer.last_error or 'no answer'})" for node in replicas)
        return NodeUnavailable(
            f"{command.name} may be answered by a replica only (read_from='replica'), and none of "
            f"{primary.name}'s can answer: {named or 'it has none'}"
        )

    def on_error_reply(self, node: Node, command: Command, error: Exception) -> bool:
        """True: the node cannot serve reads at the moment and another one has been asked."""
        primary = self._router.nodes.owners[command.slot]
        verdict = judge(error)
        if command.read_from is None or primary is None or node not in self._replicas.get(primary, ()):
            return False
        if verdict not in (Verdict.RETRY, Verdict.RETRY_AND_REFRESH):
            return False
        self.choice.refused(node)
        if verdict is Verdict.RETRY_AND_REFRESH:
            self._router.refresh_soon()
        other = self._another(node, command)
        if other is not None:
            other.submit(command)
        return other is not None

    def _another(self, node: Node, command: Command) -> Node | None:
        """Who else could answer the read."""
        primary = self._router.nodes.owners[command.slot]
        if primary is None or command.read_from is None or command.future.done():
            return None
        other = self.choice.choose(command.slot, primary, command.read_from)
        return None if other is node else other

    def _on_lost(self, node: Node) -> None:
        """Reads in its line find their way anew: the next server there may be one that has forgotten."""
        if not node.connected:
            for command in node.take_waiting(lambda command: command.read_from is not None):
                self._router.dispatch(command)

    def tick(self, now_s: float) -> None:
        """Reads that wait for a node which does not answer are asked of another; lost lanes are made anew.

        A map leaves out replicas that are down or new, and nothing tells when they are there: it is asked for
        again.
        """
        if self._nodes_known < self._nodes_known_max or not all(self._replicas.values()):
            self._router.refresh_if_older(LOOKOUT_PERIOD_S)
        for primary, replicas in self._replicas.items():
            for replica in replicas:
                replica.connect_soon()
            for node in (primary, *replicas):
                if not node.is_ready(now_s, OVERDUE_S):
                    self._try_elsewhere(node, now_s)

    def _try_elsewhere(self, node: Node, now_s: float) -> None:
        for command in list(node.under_way()):
            if command.read_from is not None and now_s - command.created_s > OVERDUE_S:
                other = self._another(node, command)
                if other is not None:
                    other.submit(second_try(command))

    # -- topology --------------------------------------------------------------------------------------------

    def _on_map(self, slot_map: SlotMap) -> None:
        node = self._router.nodes.at
        self._replicas = {
            node(item.primary): tuple(node(replica) for replica in item.replicas) for item in slot_map.ranges
        }
        self._nodes_known = sum(1 for _ in slot_map.endpoints())
        self._nodes_known_max = max(self._nodes_known, self._nodes_known_max)
        self.choice.set_shards(self._replicas)
        for primary, replicas in self._replicas.items():
            primary.upkeep.set_read_only(False)
            for replica in replicas:
                replica.upkeep.set_read_only(True)
                replica.connect_soon()

    # -- comparing replicas with their primary ---------------------------------------------------------------

    def _compare_soon(self, primary: Node) -> None:
        self._wanted.add(primary)
        if primary not in self._comparisons and not self._router.closed:
            self._comparisons[primary] = _task(self._compare(primary), f"compare {primary.name}")

    async def _compare(self, primary: Node) -> None:
        pause_s = COMPARE_PAUSE_S
        try:
            while primary in self._wanted and not self._router.closed:
                self._wanted.discard(primary)
                if await self._compare_once(primary):
                    pause_s = COMPARE_PAUSE_S
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, COMPARE_PAUSE_S_MAX)
        finally:
            del self._comparisons[primary]

    async def _compare_once(self, primary: Node) -> bool:
        """Whether a replica has got on."""
        replicas = self._replicas.get(primary, ())
        _, *got_on = await asyncio.gather(
            self._ask_primary(primary), *(self._ask_replica(replica) for replica in replicas)
        )
        return any(got_on)

    async def _ask_primary(self, primary: Node) -> None:
        sequence = self.choice.sequence
        history = await self._ask_history(primary)
        if history is not None:
            self.choice.primary_has(primary, history, sequence)

    async def _ask_replica(self, replica: Node) -> bool:
        generation = replica.generation
        history = await self._ask_history(replica)
        if history is None or replica.generation != generation:
            return False
        return self.choice.replica_has(replica, history, generation)

    async def _ask_history(self, node: Node) -> History | None:
        """None if it does not answer now."""
        if not node.is_ready(time.monotonic(), OVERDUE_S):
            return None
        try:
            return parse_history(await self._ask(node, "INFO", "REPLICATION"))
        except (RedisError, ValueError):
            return None

    async def _ask(self, node: Node, *args: str) -> Any:
        now_s = time.monotonic()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        question = Command(args[0], pack(args), future, NO_KEY, True, now_s, now_s + ANSWER_S)
        question.pinned = node
        self._router.dispatch(question)
        return await future

    # -- latencies -------------------------------------------------------------------------------------------

    def _measure_soon(self) -> None:
        due = time.monotonic() - self._measured_s > MEASURE_PERIOD_S
        if due and self._measurement is None and not self._router.closed:
            self._measurement = _task(self._measure(), "measure latencies")

    async def _measure(self) -> None:
        self._measured_s = time.monotonic()
        try:
            nodes = [node for shard in self._replicas.items() for node in (shard[0], *shard[1])]
            await asyncio.gather(*(self._measure_node(node) for node in nodes))
            self.choice.settle_nearest()
        finally:
            self._measurement = None

    async def _measure_node(self, node: Node) -> None:
        begun_s = time.monotonic()
        if not node.is_ready(begun_s, OVERDUE_S):
            return
        try:
            await self._ask(node, "PING")
        except RedisError:
            return
        self.choice.measured(node, time.monotonic() - begun_s)

    async def aclose(self) -> None:
        """End the tasks. The router is closed by then, so no others begin."""
        tasks = [*self._comparisons.values(), *([self._measurement] if self._measurement else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _task(work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
    return asyncio.get_running_loop().create_task(work, name=name)
