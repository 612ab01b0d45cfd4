"""Where commands are handed in: from a caller, into a partition's stream, and the answer back.

A command that may be lost is handed in again under the same client order id until its deadline; the engine
answers a repeat with the first answer. So every call ends with the one answer, or with OutcomeUnknown.

A partition answers in the order of its stream. A command that merely waits behind others is not repeated: the
repeats of a long line would make it longer.
"""

import asyncio
import logging
import math
import os
import secrets
import time
from collections import deque
from dataclasses import dataclass

import msgspec
from redis.exceptions import RedisError

from tradewind import ClientClosed, OutcomeUnknown, Overloaded, RedisCluster
from tradewind.client.subscription import ShardedSubscription
from tradewind.engine.keys import PartitionKeys, partition_of
from tradewind.engine.messages import Answer, Command, decode_command, encode, fingerprint

PENDING_MAX = 100_000
RESEND_FIRST_S = 1.0
RESEND_S_MAX = 4.0
DEADLINE_S = 30.0
SWEEP_S = 0.25

logger = logging.getLogger(__name__)
_decode_answers = msgspec.json.Decoder(list[tuple[str, Answer]]).decode


@dataclass(slots=True)
class _Line:
    """A partition, and what its answers say of the commands that wait in it."""

    keys: PartitionKeys
    heard_s: float = -math.inf
    answered_s: float = -math.inf  # when the last of those that are answered was handed in

    def heard(self, now_s: float, answered_s: float) -> None:
        """There were answers, the last of them to what was handed in at `answered_s`."""
        self.heard_s = now_s
        self.answered_s = max(self.answered_s, answered_s)

    def may_have_lost(self, handed_in_s: float, now_s: float) -> bool:
        """Nothing is heard, or what was handed in clearly later has been answered. Else it waits in line."""
        return now_s - self.heard_s >= RESEND_FIRST_S or self.answered_s - handed_in_s >= RESEND_FIRST_S


@dataclass(slots=True, eq=False)
class _Pending:
    """`body` tells an answer to it from one to another order under the same id, which may come late."""

    command: Command
    body: str
    payload: bytes
    answer: "asyncio.Future[Answer]"
    line: _Line
    first_s: float  # when it was handed in: its answer may be to that, or to a repeat
    last_s: float
    resend_after_s: float
    deadline_s: float


class OrderDesk:
    """Hands commands in and waits for their answers. One per process; any number of concurrent callers.

    At most `pending_max` commands wait for answers at once; further callers wait in line, within their
    deadlines.
    """

    def __init__(self, client: RedisCluster, partitions: int, *, pending_max: int = PENDING_MAX) -> None:
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.resent = 0
        self._client = client
        self._partitions = partitions
        self._lines = [_Line(PartitionKeys(partition)) for partition in range(partitions)]
        self._line_of_channel = {line.keys.results_channel(self.name): line for line in self._lines}
        self._pending: dict[tuple[str, str], _Pending] = {}
        self._pending_max = pending_max
        self._places = asyncio.Semaphore(pending_max)
        self._is_open = False
        self._subscription: ShardedSubscription | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Commands handed in and not answered yet."""
        return len(self._pending)

    async def start(self) -> None:
        """Listen for answers. Raises DeadlineExceeded when the servers do not confirm in time."""
        self._subscription = await self._client.sharded_subscription(self._on_answers)
        await self._subscription.subscribe(list(self._line_of_channel))
        self._sweeper = asyncio.create_task(self._sweep(), name="order desk")
        self._is_open = True

    async def submit(self, command: Command, *, deadline_s: float = DEADLINE_S) -> Answer:
        """Have a command carried out, exactly once, and return the engine's answer (which may be a
        rejection).

        The answer is replicated before it is given. Raises OutcomeUnknown if none came within `deadline_s`
        seconds: the command may still take effect; submit it again with the same id to learn the outcome.
        A malformed command, and two calls with the same account and id at the same time in one process, are
        refused with ValueError (the caller's mistake). Nothing was sent when it raises Overloaded (its turn
        did not come within `deadline_s`) or ClientClosed (the desk is closed, or was not started).
        """
        expires_s = time.monotonic() + deadline_s
        if self._places.locked():
            await self._wait_for_place(command, deadline_s)
        else:
            await self._places.acquire()  # at once; a timeout costs three times what all else here does
        try:
            if not self._is_open:
                name = f"account {command.account}: {command.id}"
                raise ClientClosed(f"{name} was not sent: the order desk is not open")
            return await self._answer(command, expires_s)
        finally:
            self._places.release()

    async def _wait_for_place(self, command: Command, deadline_s: float) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                await self._places.acquire()
        except TimeoutError:
            raise Overloaded(
                f"account {command.account}: {self._pending_max} commands wait for answers, and the turn of "
                f"{command.id} did not come in {deadline_s:g} s; it was not sent"
            ) from None

    async def _answer(self, command: Command, expires_s: float) -> Answer:
        """Hand in and wait. Only the answer is waited for: a server that does not take the command in, or
        does not say so, must not keep the caller beyond its deadline.
        """
        payload = _checked_payload(msgspec.structs.replace(command, reply_to=self.name))
        key = (command.account, command.id)
        if key in self._pending:
            raise ValueError(f"account {command.account}: id {command.id} is being submitted already")
        now_s = time.monotonic()
        pending = _Pending(
            command,
            fingerprint(command),
            payload,
            asyncio.get_running_loop().create_future(),
            self._lines[partition_of(command.account, self._partitions)],
            now_s,
            now_s,
            RESEND_FIRST_S,
            expires_s,
        )
        self._pending[key] = pending
        try:
            self._hand_in(pending)
            return await pending.answer
        finally:
            del self._pending[key]

    def _hand_in(self, pending: _Pending) -> None:
        """Append to the partition's stream. What goes wrong here is mended by handing in again."""
        try:
            self._client.post("XADD", pending.line.keys.commands, "*", "command", pending.payload)
        except (RedisError, OSError) as error:
            logger.debug("handing in %s: %s", pending.command.id, error)

    def _on_answers(self, channel: str, data: bytes) -> None:
        answered_s = -math.inf
        for body, answer in _decode_answers(data):
            pending = self._pending.get((answer.account, answer.id))
            if pending is not None and pending.body == body and not pending.answer.done():
                pending.answer.set_result(answer)
                answered_s = max(answered_s, pending.first_s)
        self._line_of_channel[channel].heard(time.monotonic(), answered_s)

    async def _sweep(self) -> None:
        """Hand in again what may be lost; give up at the deadline."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = time.monotonic()
            for pending in deque(self._pending.values()):
                if pending.answer.done():
                    continue
                if now_s >= pending.deadline_s:
                    pending.answer.set_exception(self._no_answer(pending))
                elif now_s >= pending.last_s + pending.resend_after_s and pending.line.may_have_lost(
                    pending.last_s, now_s
                ):
                    self._resend(pending, now_s)

    def _resend(self, pending: _Pending, now_s: float) -> None:
        pending.resend_after_s = min(RESEND_S_MAX, pending.resend_after_s * 2)
        pending.last_s = now_s
        self.resent += 1
        self._hand_in(pending)

    def _no_answer(self, pending: _Pending) -> OutcomeUnknown:
        command = pending.command
        partition = pending.line.keys.partition
        return OutcomeUnknown(
            f"account {command.account}: no answer to {command.id} in partition {partition} by its deadline; "
            "it may take effect still: submit it again with the same id to learn the outcome"
        )

    async def aclose(self) -> None:
        """Stop listening. Callers who still wait are told OutcomeUnknown, those in line ClientClosed."""
        self._is_open = False
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(self._no_answer(pending))
        if self._subscription is not None:
            await self._subscription.aclose()


def _checked_payload(command: Command) -> bytes:
    """The command for the wire, as the engine will be able to read it: one that it cannot has no answer.

    :raises ValueError: a field is not what the command's class says; making an object does not check that
    """
    try:
        payload = encode(command)
        decode_command(payload)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{type(command).__name__} was not sent: {error}") from error
    return payload
