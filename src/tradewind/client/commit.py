"""Durable writes: a write is acknowledged only when a replica has it. Many callers share one barrier.

The rules, each learned from a measured failure (docs/architecture.md, "Durable writes"):

1. `WAIT` stands right behind the batch on the same connection, nothing behind it; a few such connections per
   node.
2. A write is acknowledged if its own reply is not an error and `WAIT` counted at least `replicas`.
3. An error, a timeout, UNBLOCKED or the end of the connection mean OutcomeUnknown, never success.
4. From Redis 7.2 on `WAIT` covers the connection's last write. A replay that finds its work done and writes
   nothing would be acknowledged at once although the original is on no replica. So nothing that was sent is
   sent again here, idempotent or not; callers that replay must write a marker (the engine's commit always
   moves its cursor).
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from tradewind.client.command import Command
from tradewind.client.errors import (
    ClientClosed,
    NodeUnavailable,
    OutcomeUnknown,
    Overloaded,
    SharedConnectionError,
)
from tradewind.client.exclusive import (
    ConnectionLost,
    answered_by,
    exclusive_request,
    exclusive_submit,
    give_up,
)
from tradewind.client.lane import Lane
from tradewind.client.node import Node
from tradewind.client.policy import unknown_outcome

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
        self.workers: dict[asyncio.Task[None], None] = {}
        self.on_their_way: dict[Lane, tuple[list[Command], asyncio.Future[Any]]] = {}  # with its barrier

    def unanswered(self) -> Iterator[Command]:
        """Those on their way. A batch whose barrier has answered is settled in the next turns of the loop."""
        for batch, barrier in self.on_their_way.values():
            if not barrier.done():
                yield from batch


def _expired(commands: Iterable[Command], now_s: float) -> list[Command]:
    return [command for command in commands if command.deadline <= now_s and not command.future.done()]


class Committer:
    """Group commit for one client and one number of replicas. Order is kept for no two commands."""

    def __init__(self, router: "Router", replicas: int, lanes_per_node_max: int = LANES_PER_NODE_MAX) -> None:
        self._router = router
        self._replicas = replicas
        self._lanes_max = min(lanes_per_node_max, max(1, router.limits.dedicated_max))
        self._queues: dict[Node, _NodeQueue] = {}
        router.committers.append(self)

    def dispatch(self, command: Command) -> None:
        """Queue the write with its slot's owner. It is answered when it is replicated, or told why not."""
        command.committer = self
        node = self._router.nodes.owners[command.slot]
        if node is None:
            self._router.park(command)
        else:
            self.enqueue(command, node)

    def enqueue(self, command: Command, node: Node) -> None:
        """Queue the write with a given node, which a redirect may have named."""
        if self._router.closed:
            self._router.tell(command, ClientClosed("the client is closed"))
            return
        queue = self._queues.get(node)
        if queue is None:
            queue = self._queues[node] = _NodeQueue()
        queue.commands.append(command)
        self._router.keep_watch()
        if len(queue.workers) < self._lanes_max:
            self._start_worker(node, queue)

    # -- batches ---------------------------------------------------------------------------------------------

    def _start_worker(self, node: Node, queue: _NodeQueue) -> None:
        task = asyncio.get_running_loop().create_task(self._run(node, queue), name=f"commit {node.name}")
        queue.workers[task] = None
        task.add_done_callback(lambda done: self._worker_ended(done, node, queue))

    def _worker_ended(self, task: "asyncio.Task[None]", node: Node, queue: _NodeQueue) -> None:
        queue.workers.pop(task, None)
        if queue.commands and not self._router.closed:  # they came between its last look and now
            self._start_worker(node, queue)
        elif not queue.workers and not queue.commands:
            self._queues.pop(node, None)

    async def _run(self, node: Node, queue: _NodeQueue) -> None:
        """One connection's work: batch after batch until nothing is left."""
        while queue.commands:
            try:
                lane = await node.dedicated.acquire(max(command.deadline for command in queue.commands))
            except SharedConnectionError as error:
                for command in _take_all(queue.commands):
                    self._router.tell(command, error)
                return
            except (RedisError, OSError) as error:
                for command in _take_all(queue.commands):
                    self._router.retries.later(command, error)
                self._router.refresh_soon()
                return
            try:
                while queue.commands and await self._commit_batch(node, lane, queue):
                    if node.dedicated.is_outdated(lane):
                        break
            finally:
                node.dedicated.release(lane)

    async def _commit_batch(self, node: Node, lane: Lane, queue: _NodeQueue) -> bool:
        """Send the batch and its barrier, then settle everyone in it. False when the connection is gone."""
        batch = _next_batch(queue.commands)
        if not batch:
            return True
        sent_s = time.monotonic()
        replies = [exclusive_request(lane, command) for command in batch]
        barrier = exclusive_submit(lane, ("WAIT", self._replicas, WAIT_MS))
        queue.on_their_way[lane] = batch, barrier
        failure: Exception | None = ConnectionLost("the client is closed", was_sent=True)
        replicated = 0
        try:
            if await answered_by(barrier, time.monotonic() + WAIT_MS / 1000 + WAIT_MARGIN_S):
                replicated, failure = barrier_result(barrier)
            else:
                give_up(barrier)
                failure = ConnectionLost(f"{node.name}: no answer to the barrier", was_sent=True)
        finally:
            del queue.on_their_way[lane]
            if failure is not None:
                lane.close(failure)
                self._router.refresh_soon()
            self._settle(node, batch, replies, replicated, failure)
            node.meter.committed(batch[0], sent_s)
        return failure is None

    def _settle(
        self,
        node: Node,
        batch: Iterable[Command],
        replies: Iterable[asyncio.Future[Any]],
        replicated: int,
        failure: Exception | None,
    ) -> None:
        """Every reply is there, or its connection is closed and it has an error."""
        for command, reply in zip(batch, replies, strict=True):
            error = reply.exception()
            if isinstance(error, ConnectionLost):
                if not error.was_sent:
                    self._router.retries.later(command, error)
                else:  # rule 4: not even what may run twice is sent again
                    what = f"{node.name}: {command.name} was sent and its connection ended"
                    self._router.tell(command, unknown_outcome(what, error))
            elif isinstance(error, Exception):
                self._router.on_error_reply(node, command, error)
            elif command.future.done():
                continue
            elif failure is None and replicated >= self._replicas:
                command.future.set_result(reply.result())
            else:
                self._router.tell(command, not_replicated(node, command, replicated, self._replicas, failure))

    def under_way(self) -> Iterator[Command]:
        """What waits for a batch or is in one."""
        for queue in self._queues.values():
            yield from queue.commands
            for batch, _barrier in queue.on_their_way.values():
                yield from batch

    # -- the watchdog's view ---------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Somebody waits."""
        return bool(self._queues)

    def has_expired(self, now_s: float) -> bool:
        """Somebody's deadline has passed and nobody has told them yet."""
        return any(
            _expired(commands, now_s)
            for queue in self._queues.values()
            for commands in (queue.commands, queue.unanswered())
        )

    def heard_since(self, time_s: float) -> bool:
        """A node has answered to a batch since then."""
        return any(lane.last_heard_s > time_s for q in self._queues.values() for lane in q.on_their_way)

    def excuse_silence(self, _seconds: float) -> None:
        """Batches have a deadline of their own."""

    def expire(self, now_s: float, stalled_s: float) -> None:
        """Tell the callers whose time is over: nothing was sent, or the outcome is unknown."""
        stalled = f"; this process's event loop stalled for {stalled_s:.2f} s" if stalled_s else ""
        for node, queue in self._queues.items():
            for command in _expired(queue.unanswered(), now_s):
                error = OutcomeUnknown(
                    f"{node.name}: {command.name} was sent and not confirmed by {self._replicas} "
                    f"replicas before its deadline: it may have run, once{stalled}"
                )
                self._router.tell(command, error)
            for command in _expired(queue.commands, now_s):
                self._router.tell(command, self._waited_too_long(node, queue, command, now_s))
            queue.commands = deque(command for command in queue.commands if not command.future.done())

    def _waited_too_long(self, node: Node, queue: _NodeQueue, command: Command, now_s: float) -> Exception:
        waited_s = now_s - command.created_s
        if not queue.on_their_way:
            return NodeUnavailable(
                f"{node.name}: no connection for the durable {command.name} for {waited_s:.2f} s, until its "
                f"deadline; nothing was sent; last error: {node.dialer.last_error or 'none'}"
            )
        return Overloaded(
            f"{node.name}: the durable {command.name} waited {waited_s:.2f} s for a batch, until its "
            f"deadline: {len(queue.on_their_way)} of at most {self._lanes_max} batches on their way, "
            f"{len(queue.commands)} waiting; nothing was sent"
        )

    def tick(self, _now_s: float) -> None:
        """Nothing else to look after."""

    async def aclose(self) -> None:
        """Stop. Batches on their way are settled as unknown, who waits is told that the client is closed."""
        closed = ClientClosed("the client is closed")
        for queue in list(self._queues.values()):
            for command in _take_all(queue.commands):
                self._router.tell(command, closed)
            workers = list(queue.workers)
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


def not_replicated(
    node: Node, command: Command, replicated: int, replicas: int, failure: Exception | None
) -> OutcomeUnknown:
    """The error for a write that ran, and may be on this node only."""
    return OutcomeUnknown(
        f"{node.name}: {command.name} ran there, but {replicated} of {replicas} replicas confirmed "
        f"it within {WAIT_MS} ms{f' ({failure})' if failure else ''}: it may be lost in a failover"
    )


def barrier_result(barrier: "asyncio.Future[Any]") -> tuple[int, Exception | None]:
    """How many replicas have the batch, or why that is not known."""
    try:
        return int(barrier.result()), None
    except (RedisError, ValueError, TypeError) as error:
        return 0, error


def _take_all(commands: deque[Command]) -> list[Command]:
    taken = list(commands)
    commands.clear()
    return taken


def _next_batch(commands: deque[Command]) -> list[Command]:
    """Bounded by count and bytes, without those whose callers have gone."""
    batch: list[Command] = []
    size_bytes = 0
    while commands and len(batch) < BATCH_MAX and size_bytes < BATCH_BYTES_MAX:
        command = commands.popleft()
        if not command.future.done():
            batch.append(command)
            size_bytes += command.size_bytes
    return batch
