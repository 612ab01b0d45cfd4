"""redis-py's pub/sub of a cluster, on connections that follow the topology. Needs redis-py 8.

Channels and patterns reach every node of a cluster: one connection to any of them is enough, and a lost one
is made again to whichever answers. A shard channel lives where its slot lives: there is a `ShardPubSub` for
each node that owns some, and they are brought in line with every new slot map.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.cluster import ClusterPubSub as RedisPyClusterPubSub
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, SlotNotCoveredError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tradewind.client.errors import ClientClosed, NodeUnavailable, Overloaded
from tradewind.client.node import Node
from tradewind.client.pool import DedicatedConnection, NodePool, ServerNode
from tradewind.client.router import Router
from tradewind.client.topology import Endpoint

if TYPE_CHECKING:
    from tradewind.client.cluster import RedisCluster

SHARD_COMMANDS = frozenset({"SSUBSCRIBE", "SUNSUBSCRIBE", "SPUBLISH"})
REPAIR_PAUSE_S = 0.1
NODES_MAX = 1000  # of a cluster, as its specification has it; each is read from once at a time
# What a reader of shard channels need not know: it is mended behind its back.
TROUBLES = (RedisConnectionError, RedisTimeoutError, AskError, ClusterDownError, OSError)


class OneConnection(PubSub):
    """redis-py's, without its race: two tasks that subscribe first would each take a connection."""

    # redis-py's is not annotated, and it looks for it also when its constructor has failed.
    connection: DedicatedConnection | None = None  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._first_connect = asyncio.Lock()
        super().__init__(*args, **kwargs)

    async def connect(self) -> None:
        """As redis-py's."""
        if self.connection is None:
            async with self._first_connect:
                await super().connect()  # type: ignore[no-untyped-call]
        else:
            await super().connect()  # type: ignore[no-untyped-call]


class ShardPubSub(OneConnection):
    """The shard channels of one node. A lost connection is told to its owner instead of the reader."""

    # One SSUBSCRIBE for each slot: one for several would be refused.
    _resubscribe_shard_channels = RedisPyClusterPubSub._resubscribe_shard_channels

    def __init__(self, owner: "ClusterPubSub", node: ServerNode) -> None:
        super().__init__(
            cast(Any, node.pool),
            encoder=owner.encoder,
            push_handler_func=owner.push_handler_func,
            event_dispatcher=owner._event_dispatcher,
        )
        self.name = node.name
        self.trouble: Exception | None = None
        self.troubled_since_s = 0.0
        self._owner = owner

    @property
    def is_connected(self) -> bool:
        """As far as is known without reading."""
        return self.connection is not None and self.connection.is_connected

    async def parse_response(self, block: bool = True, timeout: float | None = 0) -> Any:
        """As redis-py's, but None when the connection is lost, or a channel is not this node's."""
        if self.connection is None:  # closed by now: its channels have gone elsewhere
            return None
        try:
            return await super().parse_response(block, timeout)  # type: ignore[arg-type]
        except (ClientClosed, Overloaded):
            raise
        except TROUBLES as error:
            await self._owner.mend(self, error)
            return None

    async def on_connect(self, connection: Any) -> None:
        """As redis-py's, but what was being unsubscribed has gone with the former connection."""
        self._owner.forget_unsubscribed(self)
        await super().on_connect(connection)

    async def _reconnect(self, conn: Any, error: Any = None, *_args: Any, **_kwargs: Any) -> None:
        await conn.disconnect(nowait=True)
        raise error  # whoever reads shall not wait for a dial

    async def handle_message(self, response: Any, ignore_subscribe_messages: bool = False) -> Any:
        """As redis-py's; a channel that the server has put out, since its slot moves, finds its new place."""
        asked = set(self.pending_unsubscribe_shard_channels)
        handle: Callable[..., Awaitable[Any]] = super().handle_message
        message = await handle(response, ignore_subscribe_messages)
        if message and message["type"] == "sunsubscribe" and message["channel"] not in asked:
            self._owner.misplaced(self, [message["channel"]])
        return message

    def drop_channel(self, channel: Any) -> None:
        """Forget it: it is not to be subscribed here again."""
        self.shard_channels.pop(channel, None)
        self.pending_unsubscribe_shard_channels.discard(channel)


class ClusterPubSub(OneConnection, RedisPyClusterPubSub):
    """`client.pubsub()`: redis-py's, with connections that are bounded, waited for and made again.

    Each takes a dedicated connection of its node until `aclose` (for shard channels: of every node that owns
    some), and waits for it in arrival order. A lost connection is made again, and what was subscribed is
    subscribed again; messages published meanwhile are lost, as always in pub/sub. Made without `node`, it
    goes to another node when its own has left or does not answer.

    Raises Overloaded when no connection became free before the client's deadline, NodeUnavailable when none
    could be made for as long, ClientClosed, SharedConnectionError with `max_connections=1`.
    """

    connection_pool: Any
    node: ClusterNode | None  # type: ignore[assignment]  # redis-py's is not annotated

    def __init__(
        self,
        client: "RedisCluster",
        node: ClusterNode | None = None,
        host: str | None = None,
        port: int | None = None,
        *,
        find_router: Callable[[], Router],
        wait_s: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(client, node, host, port, **kwargs)
        self._find_router = find_router  # ClientClosed
        self._wait_s = wait_s
        self._is_pinned = self.node is not None
        self._arrived: deque[tuple[ShardPubSub, Any]] = deque(maxlen=NODES_MAX)
        self._changed = asyncio.Event()  # there is another connection to read from
        if self._is_pinned:
            self.connection_pool = self._make_pool()

    def _make_pool(self) -> NodePool:
        return NodePool(self._find_node, self.cluster.connection_kwargs, wait_s=self._wait_s, lasting=True)

    async def _find_node(self, last: Node | None) -> Node:
        router = self._find_router()
        if self.node is not None and (last is None or self._is_pinned):
            return router.nodes.at(Endpoint(self.node.host, int(self.node.port)))
        place = router.nodes.reachable(last)
        self.node = self.cluster.get_node(node_name=place.name)
        return place

    # -- channels and patterns -------------------------------------------------------------------------------

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """As redis-py's; the first command chooses the node, by its first channel."""
        await self.cluster.initialize()
        if self.connection_pool is None and args[0] not in SHARD_COMMANDS:
            if len(args) > 1:
                self.node = self.cluster.get_node_from_key(args[1])
            self.connection_pool = self._make_pool()
        return await super().execute_command(*args, **kwargs)

    # -- shard channels: subscribing -------------------------------------------------------------------------

    def _get_node_pubsub(self, node: ClusterNode) -> PubSub:
        known = self.node_pubsub_mapping.get(node.name)
        if known is None:
            known = self.node_pubsub_mapping[node.name] = ShardPubSub(self, cast(ServerNode, node))
        return known

    async def ssubscribe(self, *args: Any, **kwargs: Any) -> None:
        """As redis-py's. Waits, within the client's deadline, for a node that owns the slot and answers."""
        await self.cluster.initialize()
        await self._within_deadline(lambda: RedisPyClusterPubSub.ssubscribe(self, *args, **kwargs))
        self._changed.set()

    async def _within_deadline(self, subscribe: Callable[[], Awaitable[None]]) -> None:
        deadline_s = time.monotonic() + self._wait_s
        while True:
            try:
                await subscribe()
                return
            except (NodeUnavailable, SlotNotCoveredError):
                if time.monotonic() + REPAIR_PAUSE_S >= deadline_s:
                    raise
                self._find_router().refresh_soon()
                await asyncio.sleep(REPAIR_PAUSE_S)

    async def reinitialize_shard_subscriptions(self) -> None:
        """Bring the subscriptions in line with the slot map. What does not work now does with a later map."""
        try:
            await super().reinitialize_shard_subscriptions()
        except ClientClosed:
            return
        except (*TROUBLES, SlotNotCoveredError):
            self._find_router().refresh_soon()

    async def _migrate_shard_channel(
        self, channel: Any, handler: Any, old_name: str | None, new_node: ClusterNode
    ) -> None:
        """As redis-py's, without a farewell to a node that has gone: it would be dialled for it."""
        old = self.node_pubsub_mapping.get(old_name or "")
        if isinstance(old, ShardPubSub) and not old.is_connected:
            old.drop_channel(channel)
            old_name = None
        await super()._migrate_shard_channel(channel, handler, old_name, new_node)
        if isinstance(old, ShardPubSub) and not old.is_connected:  # found to have gone
            old.drop_channel(channel)
        self._changed.set()

    # -- shard channels: reading -----------------------------------------------------------------------------

    async def _sharded_message_generator(
        self, timeout: float | None = 0.0
    ) -> tuple[PubSub | None, dict[str, Any] | None]:
        """The next message of any node, in the order in which they come."""
        ends_s = float("inf") if timeout is None else time.monotonic() + timeout
        while not self._arrived:
            left_s = max(0.0, ends_s - time.monotonic())
            if not self.shard_channels:
                await asyncio.sleep(0)  # nothing to wait for, as in redis-py; others shall run
                return None, None
            await self._read(left_s)
            if not self._arrived and not left_s:
                return None, None
        pubsub, response = self._arrived.popleft()
        return pubsub, await pubsub.handle_message(response)

    async def _read(self, timeout_s: float) -> None:
        """Take what is there, or wait until something is, or there is another connection to read from."""
        listening = self._listening()
        for pubsub in listening:
            response = await pubsub.parse_response(block=False, timeout=0)
            if response is not None:
                self._arrived.append((pubsub, response))
        if self._arrived or not timeout_s:
            return
        self._changed.clear()
        loop = asyncio.get_running_loop()
        reads = {loop.create_task(_read_one(pubsub, timeout_s)): pubsub for pubsub in listening}
        waits = (*reads, loop.create_task(self._changed.wait()))
        try:
            await asyncio.wait(waits, timeout=_seconds(timeout_s), return_when=asyncio.FIRST_COMPLETED)
        finally:  # also when the caller goes: what has been read is for the next one
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            self._take(reads)

    def _take(self, reads: "Mapping[asyncio.Task[Any], ShardPubSub]") -> None:
        for read, pubsub in reads.items():
            if not read.cancelled() and (response := read.result()) is not None:
                self._arrived.append((pubsub, response))

    def _listening(self) -> list[ShardPubSub]:
        """Those with a connection; the others are under repair. Raises NodeUnavailable when one has been so
        for as long as the client's deadline, and ClientClosed.
        """
        self._find_router()
        everyone = [cast(ShardPubSub, pubsub) for pubsub in self.node_pubsub_mapping.values()]
        for pubsub in everyone:
            if pubsub.trouble is None and pubsub.connection is not None and not pubsub.is_connected:
                self._start_repair(pubsub, RedisConnectionError(f"{pubsub.name}: connection lost"))
            lost_s = time.monotonic() - pubsub.troubled_since_s
            if pubsub.trouble is not None and lost_s > self._wait_s:
                raise NodeUnavailable(
                    f"{pubsub.name}: {len(pubsub.shard_channels)} shard channels without a connection for "
                    f"{lost_s:.1f} s; last error: {pubsub.trouble}"
                )
        return [pubsub for pubsub in everyone if pubsub.trouble is None and pubsub.is_connected]

    # -- shard channels: mending -----------------------------------------------------------------------------

    async def mend(self, pubsub: ShardPubSub, error: Exception) -> None:
        """A reader met trouble: the slot is not this node's, or the node does not serve, or is lost."""
        if isinstance(error, AskError):
            slot = error.slot_id
            self.misplaced(pubsub, [c for c in pubsub.shard_channels if self._slot(c) == slot])
            return
        if pubsub.connection is not None:
            await pubsub.connection.disconnect(nowait=True)
        self._start_repair(pubsub, error)

    def _start_repair(self, pubsub: ShardPubSub, error: Exception) -> None:
        if pubsub.trouble is None:
            pubsub.trouble, pubsub.troubled_since_s = error, time.monotonic()
            task = asyncio.get_running_loop().create_task(self._repair(pubsub), name=f"repair {pubsub.name}")
            self._reconcile_tasks.add(task)  # `aclose` ends them
            task.add_done_callback(self._reconcile_tasks.discard)

    async def _repair(self, pubsub: ShardPubSub) -> None:
        """Connect again, unless the channels have found another node meanwhile."""
        while self.node_pubsub_mapping.get(pubsub.name) is pubsub:
            self.forget_unsubscribed(pubsub)
            if not pubsub.subscribed:
                del self.node_pubsub_mapping[pubsub.name]
                await pubsub.aclose()  # type: ignore[no-untyped-call]
                break
            try:
                self._find_router().refresh_soon()
                await pubsub.connect()
                pubsub.trouble = None
                break
            except ClientClosed:
                break
            except TROUBLES as error:
                pubsub.trouble = error
            self._changed.set()
            await asyncio.sleep(REPAIR_PAUSE_S)
        self._changed.set()

    def forget_unsubscribed(self, pubsub: ShardPubSub) -> None:
        """What was being unsubscribed when the connection ended: nobody will confirm it."""
        for channel in tuple(pubsub.pending_unsubscribe_shard_channels):
            pubsub.drop_channel(channel)
            if channel in self.pending_unsubscribe_shard_channels:  # by the caller; else it has moved
                self.pending_unsubscribe_shard_channels.discard(channel)
                self.shard_channels.pop(channel, None)
                self._shard_channel_to_node.pop(channel, None)

    def misplaced(self, pubsub: ShardPubSub, channels: Iterable[Any]) -> None:
        """The node does not serve these channels any more: they are subscribed anew with the next map."""
        for channel in channels:
            pubsub.drop_channel(channel)
            if self._shard_channel_to_node.get(channel) == pubsub.name:
                del self._shard_channel_to_node[channel]
        self._find_router().refresh_soon()

    def _slot(self, channel: Any) -> int:
        return key_slot(self.encoder.encode(channel))

    async def aclose(self) -> None:
        """As redis-py's: close the connections and forget the subscriptions. It can be used again."""
        await super().aclose()
        self._arrived.clear()
        self._changed.set()


async def _read_one(pubsub: ShardPubSub, timeout_s: float) -> Any:
    return await pubsub.parse_response(block=timeout_s == float("inf"), timeout=timeout_s)


def _seconds(timeout_s: float) -> float | None:
    return None if timeout_s == float("inf") else timeout_s
