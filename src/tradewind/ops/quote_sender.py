"""Sends quote frames to every partition. A shard that does not answer holds up its own partitions only.

One send a shard is under way at a time, so that its frames keep their order. Frames that come meanwhile are
merged: the last quote of a symbol wins, so what waits is bounded by the number of symbols.
"""

import asyncio
from collections.abc import Mapping, Sequence

from redis.exceptions import RedisError

from tradewind import RedisCluster
from tradewind.engine.instruments import Quote, QuoteFrame, encode_frame, encode_quote
from tradewind.engine.keys import LAST_QUOTES_KEY, PartitionKeys

SEND_S_MAX = 0.5


class QuoteSender:
    """`shards`: the partitions of each shard."""

    def __init__(self, client: RedisCluster, shards: Mapping[str, Sequence[int]]) -> None:
        publishers = [_Partitions(client, partitions) for partitions in shards.values()]
        self._targets: list[_Target] = [*publishers, _LastQuotes(client)]

    async def publish(self, frame: QuoteFrame) -> None:
        """Pass a frame on; returns at once."""
        for target in self._targets:
            target.take(frame)

    @property
    def failures(self) -> int:
        """Sends that failed; their quotes went out with a later one."""
        return sum(target.failures for target in self._targets)

    async def aclose(self) -> None:
        """Drop what waits and end what is under way."""
        for target in self._targets:
            await target.aclose()


class _Target:
    def __init__(self, client: RedisCluster) -> None:
        self.failures = 0
        # Sending the same quotes twice does no harm: a lost reply may be tried again.
        self._calls = client.with_options(timeout_s=SEND_S_MAX, idempotent=True)
        self._waiting: dict[str, Quote] = {}
        self._sequence = 0
        self._task: asyncio.Task[None] | None = None

    def take(self, frame: QuoteFrame) -> None:
        self._sequence = frame.sequence
        for quote in frame.quotes:
            self._waiting[quote.symbol] = quote
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send_all(), name="send quotes")

    async def _send_all(self) -> None:
        while self._waiting:
            quotes, self._waiting = self._waiting, {}
            try:
                await self._send(QuoteFrame(self._sequence, list(quotes.values())))
            except (RedisError, OSError):
                self.failures += 1
                self._waiting = quotes | self._waiting
                await asyncio.sleep(SEND_S_MAX / 10)

    async def _send(self, frame: QuoteFrame) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class _Partitions(_Target):
    """The quotes channel of every partition of one shard."""

    def __init__(self, client: RedisCluster, partitions: Sequence[int]) -> None:
        super().__init__(client)
        self._channels = [PartitionKeys(partition).quotes_channel for partition in partitions]

    async def _send(self, frame: QuoteFrame) -> None:
        data = encode_frame(frame)
        results = await asyncio.gather(
            *(self._calls.execute_command("SPUBLISH", channel, data) for channel in self._channels),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result


class _LastQuotes(_Target):
    """The hash of the last quotes, for whoever starts later."""

    async def _send(self, frame: QuoteFrame) -> None:
        fields = [item for quote in frame.quotes for item in (quote.symbol, encode_quote(quote))]
        await self._calls.execute_command("HSET", LAST_QUOTES_KEY, *fields)
