"""Sharded pub/sub by callback: a dedicated connection per node that owns channels, kept up through failovers.

Messages that are published while a channel has no connection are lost: pub/sub keeps nothing. Whoever needs
an answer asks again.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from redis.crc import key_slot
from redis.exceptions import AskError, RedisError

from tradewind.client.command import Command, pack
from tradewind.client.errors import ClientClosed, DeadlineExceeded, NodeUnavailable, SharedConnectionError
from tradewind.client.lane import Lane, LaneState
from tradewind.client.node import Node
from tradewind.client.router import Router
from tradewind.client.topology import SlotMap

MessageHandler = Callable[[str, bytes], None]
CHANNELS_MAX = 16384
CONNECT_S = 2.0
RETRY_S = 0.1


class ShardedSubscription:
    """Channels and the connections that carry them.

    `on_message(channel, data)` runs in the event loop: be brief. An error that it raises goes to the loop's
    exception handler; the messages behind it are not affected.
    """

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
        self._last_refusal = ""
        self._closed = False
        router.nodes.on_map.append(self._on_map)

    async def subscribe(self, channels: Iterable[str], timeout_s: float = 5.0) -> None:
        """Add channels and wait until the servers have confirmed all that are wanted.

        Raises DeadlineExceeded if some are not confirmed in time; they stay wanted, and are asked for again.
        """
        self.add(channels)
        try:
            async with asyncio.timeout(timeout_s):
                while not self._confirmed >= self._wanted and not self._closed:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            missing = sorted(self._wanted - self._confirmed)
            if missing:
                error = DeadlineExceeded(
                    f"{len(missing)} of {len(self._wanted)} channels not confirmed within {timeout_s:g} s, "
                    f"the first: {missing[0]}; last refusal: {self._last_refusal or 'none'}"
                )
                self._router.count(error)
                raise error from None
        if self._closed:
            raise ClientClosed("the subscription was closed")

    def add(self, channels: Iterable[str]) -> None:
        """Add channels; returns at once, the connections follow. Raises ClientClosed after `aclose`."""
        if self._closed:
            raise ClientClosed("the subscription is closed")
        if not self._router.limits.dedicated_max:
            raise SharedConnectionError(
                "max_connections=1 leaves no connection for a subscription; set it to 2 or more"
            )
        wanted = self._wanted | set(channels)
        if len(wanted) > CHANNELS_MAX:
            raise ValueError(f"{len(wanted)} channels on one subscription, at most {CHANNELS_MAX}")
        self._wanted = wanted
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep_up(), name="subscription")
        self._dirty.set()

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Stop listening to channels; what is on its way may still arrive."""
        for channel in channels:
            self._wanted.discard(channel)
            self._confirmed.discard(channel)
            lane = self._asked.pop(channel, None)
            if lane is not None and lane.state is LaneState.OPEN:
                lane.write_unanswered(pack(("SUNSUBSCRIBE", channel)))
        self._dirty.set()  # a connection may have nothing left to carry
        self._changed.set()

    @property
    def confirmed(self) -> int:
        """Channels that the servers have confirmed."""
        return len(self._confirmed)

    def __repr__(self) -> str:
        return (
            f"<ShardedSubscription channels={len(self._wanted)} confirmed={len(self._confirmed)} "
            f"connections={len(self._lanes)}>"
        )

    # -- keeping the connections in line with the slot map ---------------------------------------------------

    def _on_map(self, _slot_map: SlotMap) -> None:
        self._dirty.set()

    async def _keep_up(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if not await self._reconcile():
                self._router.refresh_soon()
                await asyncio.sleep(RETRY_S)
                self._dirty.set()

    async def _reconcile(self) -> bool:
        """Ask each channel's owner for it; leave connections that carry nothing. False if one is missing.

        A node that cannot be reached keeps no other from being asked.
        """
        by_node: dict[Node, list[str]] = {}
        complete = True
        for channel in sorted(self._wanted):
            node = self._router.nodes.owners[key_slot(channel.encode())]
            if node is None:
                complete = False
            else:
                by_node.setdefault(node, []).append(channel)
        results = await asyncio.gather(*(self._serve(node, channels) for node, channels in by_node.items()))
        for node in [node for node in self._lanes if node not in by_node]:
            self._release(node)
        return complete and all(results)

    async def _serve(self, node: Node, channels: list[str]) -> bool:
        try:
            lane = await self._lane(node)
        except (RedisError, OSError) as error:
            self._router.count(error)
            self._last_refusal = str(error)
            return False
        self._ask(lane, [channel for channel in channels if channel in self._wanted])
        return True

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
        lane = await node.dedicated.acquire(time.monotonic() + CONNECT_S)
        if lane.state is LaneState.CLOSED:  # lost on the way here
            node.dedicated.release(lane)
            raise NodeUnavailable(f"{node.name}: connection lost right after it was made")
        lane.owner = self
        lane.listening = True
        self._lanes[node] = lane
        return lane

    def _release(self, node: Node) -> None:
        lane = self._lanes.pop(node)
        lane.close(ClientClosed("no channels left on this node"))
        node.dedicated.release(lane)

    # -- what the lanes report -------------------------------------------------------------------------------

    def on_push(self, lane: Lane, message: list[Any] | Exception) -> None:
        if isinstance(message, Exception):
            self._on_refusal(lane, message)
            return
        kind, channel = _bytes(message[0]), _bytes(message[1]).decode("utf-8", "replace")
        if kind == b"smessage":
            self._tell(channel, _bytes(message[2]))
        elif self._asked.get(channel) is not lane:
            return  # of a connection that the channel has left, or unsubscribed
        elif kind == b"ssubscribe":
            self._confirmed.add(channel)
            self._changed.set()
        elif kind == b"sunsubscribe":  # the slot has moved away
            self._forget([channel])

    def _tell(self, channel: str, data: bytes) -> None:
        try:
            self._on_message(channel, data)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"on_message failed for channel {channel}", "exception": error}
            )

    def _on_refusal(self, lane: Lane, error: Exception) -> None:
        """SSUBSCRIBE was refused: the slot lives elsewhere, or the node does not serve at the moment."""
        self._last_refusal = f"{lane.name}: {error}"
        refused = [
            channel
            for channel, carrier in self._asked.items()
            if carrier is lane and channel not in self._confirmed
        ]
        if isinstance(error, AskError):
            refused = [
                channel for channel in refused if key_slot(channel.encode()) == error.slot_id
            ] or refused
        self._forget(refused)

    def _forget(self, channels: list[str]) -> None:
        """Ask for them anew, once the map is fresh."""
        for channel in channels:
            self._asked.pop(channel, None)
            self._confirmed.discard(channel)
        self._router.refresh_soon()
        asyncio.get_running_loop().call_later(RETRY_S, self._dirty.set)

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
        """Close the connections; no more messages. Who waits in `subscribe` is told ClientClosed."""
        if not self._closed:
            self._closed = True
            self._router.nodes.on_map.remove(self._on_map)
            self._on_closed(self)
            self._changed.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        for node in list(self._lanes):
            self._release(node)


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
