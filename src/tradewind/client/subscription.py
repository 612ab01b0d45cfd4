"""Sharded pub/sub by callback: one dedicated connection per node that owns a channel, kept up through failovers.

Messages that are published while a channel has no connection are lost: pub/sub keeps nothing. Whoever needs an answer
asks again.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from redis.crc import key_slot
from redis.exceptions import RedisError

from tradewind.client.command import Command, pack
from tradewind.client.errors import ClientClosed, DeadlineExceeded
from tradewind.client.lane import Lane, LaneState
from tradewind.client.node import Node
from tradewind.client.router import Router
from tradewind.client.topology import SlotMap

MessageHandler = Callable[[str, bytes], None]
CHANNELS_MAX = 16384
CONFIRM_S = 2.0
RETRY_S = 0.1


class ShardedSubscription:
    """Channels and the connections that carry them. `on_message(channel, data)` runs in the event loop: be brief."""

    def __init__(
        self, router: Router, on_message: MessageHandler, on_closed: Callable[["ShardedSubscription"], None]
    ) -> None:
        self._router = router
        self._on_message = on_message
        self._on_closed = on_closed
        self._wanted: set[str] = set()
        self._lanes: dict[Node, Lane] = {}
        self._asked: dict[str, Lane] = {}  # SSUBSCRIBE sent
        self._confirmed: set[str] = set()
        self._dirty = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        router.on_map.append(self._on_map)

    async def subscribe(self, channels: Iterable[str], timeout_s: float = 5.0) -> None:
        """Add channels and wait until the servers have confirmed them. Raises DeadlineExceeded."""
        self._wanted.update(channels)
        if len(self._wanted) > CHANNELS_MAX:
            raise ValueError(f"{len(self._wanted)} channels on one subscription, at most {CHANNELS_MAX}")
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep_up(), name="subscription")
        self._dirty.set()
        try:
            async with asyncio.timeout(timeout_s):
                while not self._confirmed >= self._wanted:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            missing = sorted(self._wanted - self._confirmed)
            raise DeadlineExceeded(
                f"{len(missing)} of {len(self._wanted)} channels not confirmed within {timeout_s:g} s, "
                f"the first: {missing[0]}"
            ) from None

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Stop listening to channels; what is on its way may still arrive."""
        for channel in channels:
            self._wanted.discard(channel)
            self._confirmed.discard(channel)
            lane = self._asked.pop(channel, None)
            if lane is not None and lane.state is LaneState.OPEN:
                lane.write_unanswered(pack(("SUNSUBSCRIBE", channel)))

    @property
    def confirmed(self) -> int:
        """Channels that the servers have confirmed."""
        return len(self._confirmed)

    # -- keeping the connections in line with the slot map -------------------------------------------------------

    def _on_map(self, _slot_map: SlotMap) -> None:
        self._dirty.set()

    async def _keep_up(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                complete = await self._reconcile()
            except (RedisError, OSError):
                complete = False
            if not complete:
                self._router.refresh_soon()
                await asyncio.sleep(RETRY_S)
                self._dirty.set()

    async def _reconcile(self) -> bool:
        """Ask each channel's owner for it; leave connections that carry nothing. False if an owner is missing."""
        by_node: dict[Node, list[str]] = {}
        for channel in sorted(self._wanted):
            node = self._router.slot_nodes[key_slot(channel.encode())]
            if node is None:
                return False
            by_node.setdefault(node, []).append(channel)
        complete = True
        for node, channels in by_node.items():
            try:
                self._ask(await self._lane(node), channels)
            except (RedisError, OSError):
                complete = False
        for node in [node for node in self._lanes if node not in by_node]:
            self._release(node)
        return complete

    def _ask(self, lane: Lane, channels: list[str]) -> None:
        missing = [channel for channel in channels if self._asked.get(channel) is not lane]
        for channel in missing:
            self._asked[channel] = lane
            self._confirmed.discard(channel)
        lane.write_unanswered(b"".join(pack(("SSUBSCRIBE", channel)) for channel in missing))

    async def _lane(self, node: Node) -> Lane:
        lane = self._lanes.get(node)
        if lane is not None and lane.state is LaneState.OPEN:
            return lane
        loop = asyncio.get_running_loop()
        lane = await node.dedicated.acquire(loop.time() + CONFIRM_S)
        lane.owner = self
        lane.listening = True
        self._lanes[node] = lane
        return lane

    def _release(self, node: Node) -> None:
        lane = self._lanes.pop(node)
        lane.close(ClientClosed("no channels left on this node"))
        node.dedicated.release(lane)

    # -- what the lanes report -----------------------------------------------------------------------------------

    def on_push(self, lane: Lane, message: list[Any]) -> None:
        kind, channel = _bytes(message[0]), _bytes(message[1]).decode("utf-8", "replace")
        if kind == b"smessage":
            self._on_message(channel, _bytes(message[2]))
        elif kind == b"ssubscribe":
            self._confirmed.add(channel)
            self._changed.set()
        elif kind == b"sunsubscribe" and self._asked.get(channel) is lane:  # the slot has moved away
            del self._asked[channel]
            self._confirmed.discard(channel)
            self._router.refresh_soon()
            self._dirty.set()

    def on_lost(self, lane: Lane, _sent: list[Command], _unsent: list[Command], _error: Exception) -> None:
        for channel in [channel for channel, carrier in self._asked.items() if carrier is lane]:
            del self._asked[channel]
            self._confirmed.discard(channel)
        for node in [node for node, carrier in self._lanes.items() if carrier is lane]:
            del self._lanes[node]
            node.dedicated.release(lane)
        self._router.refresh_soon()
        self._dirty.set()

    def on_answered(self, _lane: Lane, _count: int, _size_bytes: int) -> None:
        return None

    def on_error_reply(self, _lane: Lane, command: Command, error: Exception) -> None:
        command.fail(error)

    async def aclose(self) -> None:
        """Close the connections; no more messages."""
        if self._on_map in self._router.on_map:
            self._router.on_map.remove(self._on_map)
            self._on_closed(self)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        for node in list(self._lanes):
            self._release(node)


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
