"""New events, read once for each partition and shared by all who listen to its accounts.

Events are on the primary before a replica has them, and only what a replica has may be shown. So the primary
is the doorbell: `XREAD BLOCK`, on a dedicated connection of the partition, ends when there is something new.
What is new is then read from a replica, as soon as that has it.
"""

import asyncio
import logging
from collections import deque
from contextlib import suppress
from typing import Final

import msgspec
from redis.exceptions import RedisError

from tradewind import RedisCluster
from tradewind.client.calls import BoundCalls
from tradewind.engine.keys import PartitionKeys, partition_of

EVENTS_WAITING_MAX: Final = 1_000
SUBSCRIBERS_MAX: Final = 2_000
READ_MAX: Final = 500
BLOCK_MS: Final = 5_000
RETRY_S: Final = 0.5
LAG_LOOK_S: Final = 0.003  # between two looks at a replica that has not got it yet: as a commit takes

logger = logging.getLogger(__name__)


class _Owner(msgspec.Struct, frozen=True):
    """Of an event, only whose it is."""

    account: str


_decode_owner: Final = msgspec.json.Decoder(_Owner).decode


class Subscriber:
    """Events of one account that wait to be sent: EVENTS_WAITING_MAX at most, then it is too slow."""

    def __init__(self, account: str) -> None:
        self.account = account
        self.is_too_slow = False
        self.is_closed = False
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._wake = asyncio.Event()

    def push(self, sequence: int, event: bytes) -> None:
        if len(self._waiting) >= EVENTS_WAITING_MAX:
            self.is_too_slow = True
        else:
            self._waiting.append((sequence, event))
        self._wake.set()

    def close(self) -> None:
        """The server is stopping."""
        self.is_closed = True
        self._wake.set()

    async def next(self, timeout_s: float) -> list[tuple[int, bytes]]:
        """What has come, in order; empty after `timeout_s`, or when it is too slow or closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        self._wake.clear()
        events, self._waiting = list(self._waiting), deque()
        return events


class PartitionTail:
    """Follows one partition while somebody listens. `sequence` is the last event that was handed on."""

    def __init__(self, client: RedisCluster, reads: BoundCalls, partition: int) -> None:
        self.sequence = 0
        self.subscribers: dict[Subscriber, None] = {}
        self._client = client
        self._reads = reads
        self._key = PartitionKeys(partition).events
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """From the last event that a replica has. Raises what reading raises."""
        last = await self._reads.execute_command("XREVRANGE", self._key, "+", "-", "COUNT", 1)
        self.sequence = sequence_of(last[0][0]) if last else 0
        self._task = asyncio.create_task(self._follow(), name=f"events {self._key}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                await self._doorbell()
                await self._hand_on()
            except (RedisError, OSError) as error:
                logger.info("following %s: %s", self._key, error)
                await asyncio.sleep(RETRY_S)

    async def _doorbell(self) -> None:
        """Returns when the primary has an event behind `sequence`."""
        words = ("XREAD", "COUNT", 1, "BLOCK", BLOCK_MS, "STREAMS", self._key, f"{self.sequence}-0")
        while not await self._client.execute_command(*words):
            continue

    async def _hand_on(self) -> None:
        """What the replica has of it. Returns without any when it lags: the doorbell then rings at once."""
        words = ("XRANGE", self._key, f"({self.sequence}-0", "+", "COUNT", READ_MAX)
        entries = await self._reads.execute_command(*words)
        if not entries:
            await asyncio.sleep(LAG_LOOK_S)
        for entry_id, fields in entries:
            self.sequence = sequence_of(entry_id)
            event = fields[b"event"]
            account = _decode_owner(event).account
            for subscriber in self.subscribers:
                if subscriber.account == account:
                    subscriber.push(self.sequence, event)


class EventHub:
    """All tails of this process, each while somebody listens to one of its accounts."""

    def __init__(self, client: RedisCluster, reads: BoundCalls, partitions: int) -> None:
        self._client = client
        self._reads = reads
        self._partitions = partitions
        self._tails: dict[int, PartitionTail] = {}
        self._lock = asyncio.Lock()
        self.subscribers = 0

    @property
    def is_full(self) -> bool:
        return self.subscribers >= SUBSCRIBERS_MAX

    async def subscribe(self, subscriber: Subscriber) -> PartitionTail:
        """From here on every event of the account is pushed. Raises what reading raises."""
        partition = partition_of(subscriber.account, self._partitions)
        async with self._lock:
            tail = self._tails.get(partition)
            if tail is None:
                tail = PartitionTail(self._client, self._reads, partition)
                await tail.start()
                self._tails[partition] = tail
            tail.subscribers[subscriber] = None
            self.subscribers += 1
        return tail

    async def unsubscribe(self, subscriber: Subscriber) -> None:
        """The last one of a partition ends its tail."""
        partition = partition_of(subscriber.account, self._partitions)
        async with self._lock:
            tail = self._tails.get(partition)
            if tail is None or subscriber not in tail.subscribers:
                return
            del tail.subscribers[subscriber]
            self.subscribers -= 1
            if not tail.subscribers:
                del self._tails[partition]
                await tail.stop()

    async def aclose(self) -> None:
        """Everybody is told, and nobody is waited for."""
        async with self._lock:
            tails, self._tails = self._tails, {}
            for tail in tails.values():
                for subscriber in tail.subscribers:
                    subscriber.close()
                await tail.stop()


def sequence_of(entry_id: bytes) -> int:
    """Events have the ids `<sequence>-0`."""
    return int(entry_id.partition(b"-")[0])
