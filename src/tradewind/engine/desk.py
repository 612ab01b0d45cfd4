"""Where commands are handed in: from a caller, into a partition's stream, and the answer back.

A command that hears no answer is handed in again under the same client order id until its deadline; the
engine answers a repeat with the first answer. So every call ends with the one answer, or with OutcomeUnknown.
"""

import asyncio
import logging
import os
import secrets
import time
from collections import deque
from dataclasses import dataclass

import msgspec
from redis.exceptions import RedisError

from tradewind import OutcomeUnknown, RedisCluster
from tradewind.client.subscription import ShardedSubscription
from tradewind.engine.keys import PartitionKeys, partition_of
from tradewind.engine.messages import Answer, Command, encode

PENDING_MAX = 100_000
RESEND_FIRST_S = 1.0
RESEND_S_MAX = 4.0
DEADLINE_S = 30.0
SWEEP_S = 0.25

logger = logging.getLogger(__name__)
_decode_answers = msgspec.json.Decoder(list[Answer]).decode


@dataclass(slots=True, eq=False)
class _Pending:
    command: Command
    payload: bytes
    answer: "asyncio.Future[Answer]"
    resend_at_s: float
    resend_after_s: float
    deadline_s: float


class OrderDesk:
    """Hands commands in and waits for their answers. One per process; any number of concurrent callers.

    At most `pending_max` commands wait for answers at once; further callers wait in line.
    """

    def __init__(self, client: RedisCluster, partitions: int, *, pending_max: int = PENDING_MAX) -> None:
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.resent = 0
        self._client = client
        self._partitions = partitions
        self._keys = [PartitionKeys(partition) for partition in range(partitions)]
        self._pending: dict[tuple[str, str], _Pending] = {}
        self._places = asyncio.Semaphore(pending_max)
        self._subscription: ShardedSubscription | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._resends: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> int:
        """Commands handed in and not answered yet."""
        return len(self._pending)

    async def start(self) -> None:
        """Listen for answers. Raises DeadlineExceeded when the servers do not confirm in time."""
        self._subscription = await self._client.sharded_subscription(self._on_answers)
        await self._subscription.subscribe([keys.results_channel(self.name) for keys in self._keys])
        self._sweeper = asyncio.create_task(self._sweep(), name="order desk")

    async def submit(self, command: Command, *, deadline_s: float = DEADLINE_S) -> Answer:
        """Have a command carried out, exactly once, and return the engine's answer (which may be a
        rejection).

        The answer is replicated before it is given. Raises OutcomeUnknown if none came within `deadline_s`
        seconds: the command may still take effect; submit it again with the same id to learn the outcome.
        Two calls with the same account and id at the same time in one process are refused with ValueError
        (the caller's mistake).
        """
        async with self._places:
            key = (command.account, command.id)
            if key in self._pending:
                raise ValueError(f"account {command.account}: id {command.id} is being submitted already")
            now_s = time.monotonic()
            payload = encode(msgspec.structs.replace(command, reply_to=self.name))
            pending = _Pending(
                command,
                payload,
                asyncio.get_running_loop().create_future(),
                now_s + RESEND_FIRST_S,
                RESEND_FIRST_S,
                now_s + deadline_s,
            )
            self._pending[key] = pending
            try:
                await self._hand_in(pending)
                return await pending.answer
            finally:
                del self._pending[key]

    async def _hand_in(self, pending: _Pending) -> None:
        """Append to the partition's stream. What goes wrong here is mended by handing in again."""
        keys = self._keys[partition_of(pending.command.account, self._partitions)]
        try:
            await self._client.execute_command("XADD", keys.commands, "*", "command", pending.payload)
        except (RedisError, OSError) as error:
            logger.debug("handing in %s: %s", pending.command.id, error)

    def _on_answers(self, _channel: str, data: bytes) -> None:
        for answer in _decode_answers(data):
            pending = self._pending.get((answer.account, answer.id))
            if pending is not None and not pending.answer.done():
                pending.answer.set_result(answer)

    async def _sweep(self) -> None:
        """Hand in again what has heard nothing for long; give up at the deadline."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = time.monotonic()
            for pending in deque(self._pending.values()):
                if pending.answer.done():
                    continue
                if now_s >= pending.deadline_s:
                    pending.answer.set_exception(self._no_answer(pending))
                elif now_s >= pending.resend_at_s:
                    self._resend(pending, now_s)

    def _resend(self, pending: _Pending, now_s: float) -> None:
        pending.resend_after_s = min(RESEND_S_MAX, pending.resend_after_s * 2)
        pending.resend_at_s = now_s + pending.resend_after_s
        self.resent += 1
        task = asyncio.create_task(self._hand_in(pending))
        self._resends.add(task)
        task.add_done_callback(self._resends.discard)

    def _no_answer(self, pending: _Pending) -> OutcomeUnknown:
        command = pending.command
        partition = partition_of(command.account, self._partitions)
        return OutcomeUnknown(
            f"account {command.account}: no answer to {command.id} in partition {partition} by its deadline; "
            "it may take effect still: submit it again with the same id to learn the outcome"
        )

    async def aclose(self) -> None:
        """Stop listening. Callers who still wait are told OutcomeUnknown."""
        tasks = [task for task in (self._sweeper, *self._resends) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(self._no_answer(pending))
        if self._subscription is not None:
            await self._subscription.aclose()
