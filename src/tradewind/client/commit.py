"""Durable writes: a write is acknowledged only when a replica has it. Many callers share one barrier.

The rules, each learned from a measured failure (docs/architecture.md, "Durable writes"):

1. `WAIT` stands right behind the batch on the same connection, nothing behind it; a few such connections per node.
2. A write is acknowledged if its own reply is not an error and `WAIT` counted at least `replicas`.
3. An error, a timeout, UNBLOCKED or the end of the connection mean OutcomeUnknown, never success.
4. From Redis 7.2 on `WAIT` covers the connection's last write. A replay that finds its work done and writes nothing
   would be acknowledged at once; callers that replay must write a marker (the engine's commit always moves its cursor).
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from tradewind.client.command import Command
from tradewind.client.connect import ConnectionLost, exclusive_request, exclusive_submit
from tradewind.client.errors import OutcomeUnknown
from tradewind.client.lane import Lane
from tradewind.client.node import Node

if TYPE_CHECKING:
    from tradewind.client.router import Router

BATCH_MAX = 256
BATCH_BYTES_MAX = 1024 * 1024
LANES_PER_NODE_MAX = 2
WAIT_MS = 1000  # how long the server may wait for the replicas of one batch
WAIT_MARGIN_S = 1.0  # ... and how much longer its answer may take before the connection is given up


class _NodeQueue:
    """What waits to be committed on one node, and the batches on their way."""

    def __init__(self) -> None:
        self.commands: deque[Command] = deque()
        self.batches: set[asyncio.Task[None]] = set()


class Committer:
    """Group commit for one client and one number of replicas."""

    def __init__(self, router: "Router", replicas: int, lanes_per_node_max: int = LANES_PER_NODE_MAX) -> None:
        self._router = router
        self._replicas = replicas
        self._lanes_max = min(lanes_per_node_max, max(1, router.limits.dedicated_max))
        self._queues: dict[Node, _NodeQueue] = {}

    def dispatch(self, command: Command) -> None:
        """Queue the write with its slot's owner. Its future is resolved when it is replicated, or told why not."""
        command.committer = self
        node = self._router.slot_nodes[command.slot]
        if node is None:
            self._router.park(command)
        else:
            self.enqueue(command, node)

    def enqueue(self, command: Command, node: Node) -> None:
        """Queue the write with a given node, which a redirect may have named."""
        queue = self._queues.get(node)
        if queue is None:
            queue = self._queues[node] = _NodeQueue()
        queue.commands.append(command)
        if len(queue.batches) < self._lanes_max:
            self._start_batches(node, queue)

    def _start_batches(self, node: Node, queue: _NodeQueue) -> None:
        task = asyncio.get_running_loop().create_task(self._run(node, queue), name=f"commit {node.name}")
        queue.batches.add(task)
        task.add_done_callback(queue.batches.discard)

    async def _run(self, node: Node, queue: _NodeQueue) -> None:
        """One connection's work: batch after batch until nothing is left."""
        while queue.commands:
            deadline_s = max(command.deadline for command in queue.commands)
            try:
                lane = await node.dedicated.acquire(deadline_s)
            except (RedisError, OSError) as error:
                for command in _take(queue.commands, len(queue.commands)):
                    self._router.retry_later(command, error)
                return
            try:
                while queue.commands:
                    if not await self._commit_batch(node, lane, _take(queue.commands, BATCH_MAX)):
                        break
            finally:
                node.dedicated.release(lane)

    async def _commit_batch(self, node: Node, lane: Lane, batch: list[Command]) -> bool:
        """Send the batch and its barrier, then settle everyone in it. False when the connection is gone."""
        replies = [exclusive_request(lane, command) for command in batch]
        barrier = exclusive_submit(lane, ("WAIT", self._replicas, WAIT_MS))
        failure: Exception | None = None
        replicated = 0
        try:
            async with asyncio.timeout(WAIT_MS / 1000 + WAIT_MARGIN_S):
                replicated = int(await barrier)
        except TimeoutError:
            failure = ConnectionLost(f"{node.name}: no answer to the barrier", was_sent=True)
        except (RedisError, ValueError) as error:
            failure = error
        except asyncio.CancelledError:
            lane.close(ConnectionLost("the client is closed", was_sent=True))
            self._settle(node, batch, replies, 0, ConnectionLost("the client is closed", was_sent=True))
            raise
        if failure is not None:
            lane.close(failure)
            self._router.refresh_soon()
        self._settle(node, batch, replies, replicated, failure)
        return failure is None

    def _settle(
        self,
        node: Node,
        batch: Iterable[Command],
        replies: Iterable[asyncio.Future[Any]],
        replicated: int,
        failure: Exception | None,
    ) -> None:
        for command, reply in zip(batch, replies, strict=True):
            if not reply.done():
                reply.cancel()
                self._router.lost(
                    node.name, command, failure or RuntimeError("no reply before the barrier's")
                )
                continue
            error = reply.exception()
            if isinstance(error, ConnectionLost):
                if error.was_sent:
                    self._router.lost(node.name, command, error)
                else:
                    self._router.retry_later(command, error)
            elif isinstance(error, Exception):
                self._router.on_error_reply(node, command, error)
            elif failure is None and replicated >= self._replicas:
                if not command.future.done():
                    command.future.set_result(reply.result())
            else:
                command.fail(self._not_replicated(node, command, replicated, failure))

    def _not_replicated(
        self, node: Node, command: Command, replicated: int, failure: Exception | None
    ) -> OutcomeUnknown:
        self._router.errors["OutcomeUnknown"] += 1
        return OutcomeUnknown(
            f"{node.name}: {command.name} ran there, but {replicated} of {self._replicas} replicas confirmed it "
            f"within {WAIT_MS} ms{f' ({failure})' if failure else ''}: it may be lost in a failover"
        )

    async def aclose(self) -> None:
        """Stop; batches under way are settled as unknown."""
        tasks = [task for queue in self._queues.values() for task in queue.batches]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _take(commands: deque[Command], count_max: int) -> list[Command]:
    """The next batch, bounded by count and bytes, without those whose callers have gone."""
    batch: list[Command] = []
    size_bytes = 0
    while commands and len(batch) < count_max and size_bytes < BATCH_BYTES_MAX:
        command = commands.popleft()
        if not command.future.done():
            batch.append(command)
            size_bytes += len(command.packed)
    return batch
