"""Brings each command to the node that owns its slot, and decides what happens when that does not work out.

Owns the nodes, the slot map and its refresh, redirects, retries, and the one watchdog of the client. The old map
serves while a refresh runs; refreshes are single-flight, rate limited, asked of a random node, and never on a
caller's path. The endpoints that the client was given are kept for ever as the last resort.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import AskError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from tradewind.client.command import Command, pack
from tradewind.client.connect import ConnectionSettings
from tradewind.client.errors import ClientClosed, ClusterNotReady, OutcomeUnknown
from tradewind.client.node import Node
from tradewind.client.policy import Limits, Timeouts, Verdict, backoff_s, judge
from tradewind.client.stats import ClientStats
from tradewind.client.topology import (
    SLOT_COUNT,
    AddressRemap,
    Endpoint,
    SlotMap,
    parse_cluster_slots,
    resolve_endpoint,
)

TICK_S = 0.05
STALL_S = 0.25  # a tick so late means that the event loop, not the server, was slow
REFRESH_ANSWER_S = 2.0  # how long one node may take to answer CLUSTER SLOTS
ASKED_MAX = 6  # nodes asked in one refresh, besides the original endpoints


class Router:
    """One cluster. Not thread safe; belongs to one event loop."""

    def __init__(
        self,
        seeds: Iterable[Endpoint],
        *,
        limits: Limits,
        timeouts: Timeouts,
        settings: ConnectionSettings,
        address_remap: AddressRemap | None = None,
        require_full_coverage: bool = True,
        on_map: Callable[[SlotMap], None] = lambda _map: None,
        rng: random.Random | None = None,
    ) -> None:
        self.seeds = tuple(dict.fromkeys(seeds))
        self.limits = limits
        self.timeouts = timeouts
        self.slot_map = SlotMap(())
        self.slot_nodes: list[Node | None] = [None] * SLOT_COUNT
        self.nodes: dict[Endpoint, Node] = {}
        self.retry_always = False
        self.commands = self.moved = self.asked = self.retries = self.refreshes = 0
        self.errors: Counter[str] = Counter()
        self._settings = settings
        self._address_remap = address_remap
        self._require_full_coverage = require_full_coverage
        self.on_map = [on_map]
        self._rng = rng or random.Random()
        self._parked: deque[Command] = deque()  # no node owns their slot at the moment
        self._delayed: dict[Command, asyncio.TimerHandle] = {}  # waiting for their next try
        self._refresh_task: asyncio.Task[None] | None = None
        self._refresh_timer: asyncio.TimerHandle | None = None
        self._refreshed_s = 0.0
        self._tick_timer: asyncio.TimerHandle | None = None
        self._tick_due_s = 0.0
        self._drained = False
        self._closed = False

    # -- the way of a command ------------------------------------------------------------------------------------

    def dispatch(self, command: Command) -> None:
        """Send the command on its way. Its future gets the reply or an error by its deadline, whatever happens."""
        node = command.pinned or self.slot_nodes[command.slot]
        if node is None:
            self.park(command)
        else:
            node.submit(command)
        if self._tick_timer is None:
            self._start_ticking()

    def dispatch_again(self, command: Command) -> None:
        """As `dispatch`, by the way that the command first came: alone, or in a durable batch."""
        if not command.future.done():
            (command.committer or self).dispatch(command)

    def park(self, command: Command) -> None:
        """Nobody owns the slot at the moment: hold the command until somebody does, or its deadline."""
        if self._closed:
            command.fail(ClientClosed("the client is closed"))
            return
        self._parked.append(command)
        self.refresh_soon()
        if self._tick_timer is None:
            self._start_ticking()

    def on_error_reply(self, node: Node, command: Command, error: Exception) -> None:
        """What an error reply leads to; see `policy.judge`."""
        try:
            target = self.learn(node, command, error)
        except RedisError as answer:
            self.errors[type(answer).__name__] += 1
            command.fail(answer)
            return
        if target is None or target is node:
            self.retry_later(command, error)
        else:
            self._send_again(command, target)

    def learn(self, node: Node | None, command: Command, error: Exception) -> Node | None:
        """Take from an error reply what it says about the topology.

        Returns the node to go on with at once, or None to try again after a pause. Raises what the caller must be
        told: `error` itself, or that redirects lead nowhere. Each command follows its own redirect; a burst of them
        causes one refresh.
        """
        verdict = judge(error)
        if verdict is Verdict.FAIL:
            raise error
        if verdict is not Verdict.RETRY and verdict is not Verdict.ASK:
            self.refresh_soon()
        if node is None or not isinstance(error, AskError):
            return None
        command.attempts += 1
        if command.attempts > self.limits.redirects_max:
            raise RedisConnectionError(
                f"{node.name}: {command.name} was redirected {self.limits.redirects_max} times, last by "
                f"{type(error).__name__} {error}; the nodes do not agree on who owns slot {command.slot}"
            ) from error
        if not 0 <= error.slot_id < SLOT_COUNT:
            raise ResponseError(
                f"{node.name}: redirected for slot {error.slot_id}, which does not exist"
            ) from error
        target = self.node(resolve_endpoint(error.host, error.port, node.endpoint, self._address_remap))
        command.asking = verdict is Verdict.ASK
        if command.asking:
            self.asked += 1
            return target
        if command.pinned is not None:
            command.pinned = target
            return target
        self.moved += 1
        self.slot_nodes[error.slot_id] = target
        return target

    def _send_again(self, command: Command, node: Node) -> None:
        if command.future.done():
            return
        if command.committer is not None:
            command.committer.enqueue(command, node)
        else:
            node.submit(command)

    def on_lost(self, node: Node, sent: list[Command], unsent: list[Command], error: Exception) -> None:
        """A shared connection ended: what was not sent goes on, what was sent is repeated or unknown."""
        if self._closed:
            for command in unsent:
                command.fail(ClientClosed(str(error)))
        else:
            self.refresh_soon()
            for command in unsent:
                self.retry_later(command, error)
        for command in sent:
            self.lost(node.name, command, error)

    def lost(self, node_name: str, command: Command, error: Exception) -> None:
        """The command was sent and its connection ended without a reply."""
        if self._closed and command.repeatable:
            command.fail(ClientClosed(str(error)))
        elif command.repeatable or self.retry_always:
            self.retry_later(command, error)
        else:
            self.errors["OutcomeUnknown"] += 1
            command.fail(
                OutcomeUnknown(
                    f"{node_name}: {command.name} was sent and the connection ended before its reply: it may have "
                    f"run, once; {error}"
                )
            )

    def retry_later(self, command: Command, error: Exception) -> None:
        """Try again after a pause, or answer with `error` if the deadline comes first."""
        if command.future.done():
            return
        command.attempts += 1
        command.asking = False
        delay_s = backoff_s(command.attempts, self._rng)
        if self._closed or time.monotonic() + delay_s >= command.deadline:
            command.fail(error)
            return
        self.retries += 1
        loop = asyncio.get_running_loop()
        self._delayed[command] = loop.call_later(delay_s, self._retry_now, command)

    async def pause(self, command: Command, error: Exception) -> None:
        """The same for a command that runs in a task of its own: sleep, or raise `error` if the deadline is near."""
        command.attempts += 1
        delay_s = backoff_s(command.attempts, self._rng)
        if self._closed or time.monotonic() + delay_s >= command.deadline:
            raise error
        self.retries += 1
        await asyncio.sleep(delay_s)

    def _retry_now(self, command: Command) -> None:
        self._delayed.pop(command, None)
        self.dispatch_again(command)

    # -- nodes and the slot map ----------------------------------------------------------------------------------

    def node(self, endpoint: Endpoint) -> Node:
        """The node at an address, made when it is first heard of. Dials nothing."""
        node = self.nodes.get(endpoint)
        if node is None:
            node = self.nodes[endpoint] = Node(
                endpoint,
                owner=self,
                limits=self.limits,
                timeouts=self.timeouts,
                settings=self._settings,
                rng=self._rng,
            )
        return node

    def primaries(self) -> list[Node]:
        """Nodes that own slots, each once."""
        return list(dict.fromkeys(node for node in self.slot_nodes if node is not None))

    def on_dial_failed(self, _node: Node, error: Exception) -> None:
        """The node may have been replaced."""
        self.errors[type(error).__name__] += 1
        self.refresh_soon()

    def on_suspect(self, _node: Node) -> None:
        """A silent node sends no redirects: ask the others."""
        self.refresh_soon()

    def refresh_soon(self) -> None:
        """Have the map refreshed, at most once in `refresh_interval_s`; returns at once."""
        if self._closed or self._refresh_task is not None or self._refresh_timer is not None:
            return
        wait_s = (
            self._refreshed_s
            + self.timeouts.refresh_interval_s * self._rng.uniform(1.0, 1.2)
            - time.monotonic()
        )
        self._refresh_timer = asyncio.get_running_loop().call_later(max(0.0, wait_s), self._start_refresh)

    def _start_refresh(self) -> None:
        self._refresh_timer = None
        if self._refresh_task is None and not self._closed:
            self._refresh_task = asyncio.get_running_loop().create_task(
                self._refresh_and_rearm(), name="refresh"
            )

    async def _refresh_and_rearm(self) -> None:
        try:
            await self.refresh()
        except ClusterNotReady as error:
            self.errors["ClusterNotReady"] += 1
            self.last_refresh_error = str(error)
        finally:
            self._refresh_task = None
        if self._parked or any(node.waiting and not node.connected for node in self.nodes.values()):
            self.refresh_soon()

    async def refresh(self) -> None:
        """Learn the slot map now. Raises ClusterNotReady with each node's own reason when nobody could tell it."""
        reasons: dict[str, str] = {}
        for node in self._to_ask():
            self._refreshed_s = time.monotonic()
            try:
                reply = await self.ask(node, ("CLUSTER SLOTS",), REFRESH_ANSWER_S)
                slot_map = parse_cluster_slots(reply, node.endpoint, self._address_remap)
            except (RedisConnectionError, ResponseError, TimeoutError, ValueError, OSError) as error:
                reasons[node.name] = str(error) or type(error).__name__
                continue
            except Exception as error:  # redis-py's TimeoutError and authentication errors
                reasons[node.name] = f"{type(error).__name__}: {error}"
                continue
            if slot_map.covered:
                self._install(slot_map)
                return
            reasons[node.name] = "it knows of no slots"
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ClusterNotReady(f"no node could tell the slot map: {listed}", reasons)

    def _to_ask(self) -> list[Node]:
        """Known nodes in random order, connected and answering ones first, then the original endpoints."""
        now_s = time.monotonic()
        known = [self.nodes[endpoint] for endpoint, _ in self.slot_map.endpoints() if endpoint in self.nodes]
        self._rng.shuffle(known)
        known.sort(key=lambda node: (node.is_silent(now_s), not node.connected))
        return list(dict.fromkeys((*known[:ASKED_MAX], *(self.node(seed) for seed in self.seeds))))

    async def ask(self, node: Node, args: tuple[Any, ...], timeout_s: float) -> Any:
        """One harmless command to one node, by a deadline of its own."""
        now_s = time.monotonic()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.dispatch(Command(str(args[0]), pack(args), future, -1, False, now_s, now_s + timeout_s, node))
        return await future

    def _install(self, slot_map: SlotMap) -> None:
        self.refreshes += 1
        slot_nodes: list[Node | None] = [None] * SLOT_COUNT
        for item in slot_map.ranges:
            slot_nodes[item.first : item.last + 1] = [self.node(item.primary)] * (item.last - item.first + 1)
        roles = dict(slot_map.endpoints())
        self.slot_map, self.slot_nodes = slot_map, slot_nodes
        for listener in tuple(self.on_map):
            listener(slot_map)
        self._settle_nodes(roles)
        self._reroute(roles)

    def _settle_nodes(self, roles: dict[Endpoint, bool]) -> None:
        """Set roles; give up silent connections to demoted nodes; forget nodes that are gone and empty."""
        now_s = time.monotonic()
        for endpoint, node in list(self.nodes.items()):
            node.role = "primary" if roles.get(endpoint) else "replica" if endpoint in roles else "unknown"
            if not roles.get(endpoint) and node.is_silent(now_s):
                node.drop_connections(
                    RedisConnectionError(f"{node.name}: silent, and it owns no slots any more")
                )
            if endpoint not in roles and endpoint not in self.seeds and not node.busy:
                del self.nodes[endpoint]
                node.forget()

    def _reroute(self, roles: dict[Endpoint, bool]) -> None:
        """What waits for a node that lost its slots, or for a slot without owner, finds its way anew."""
        waiting = list(self._parked)
        self._parked.clear()
        for endpoint, node in self.nodes.items():
            if not roles.get(endpoint):
                waiting.extend(node.take_waiting(lambda command: command.pinned is None))
        for command in waiting:
            self.dispatch_again(command)

    # -- start, watchdog, end ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Learn the slot map, waiting up to `connect_s` until every slot is served. Raises ClusterNotReady."""
        deadline_s = time.monotonic() + self.timeouts.connect_s
        attempt = 0
        while True:
            try:
                await self.refresh()
                missing = SLOT_COUNT - self.slot_map.covered
                if not missing or not self._require_full_coverage:
                    return
                error = ClusterNotReady(
                    f"{missing} of {SLOT_COUNT} slots have no primary; the cluster is not complete, or pass "
                    "require_full_coverage=False to use what is there"
                )
            except ClusterNotReady as failure:
                error = failure
            attempt += 1
            delay_s = backoff_s(attempt, self._rng, 0.05)
            if time.monotonic() + delay_s >= deadline_s:
                raise ClusterNotReady(f"{error} (waited {self.timeouts.connect_s:g} s)", error.reasons)
            await asyncio.sleep(delay_s)

    def _start_ticking(self) -> None:
        if not self._closed:
            self._tick_due_s = time.monotonic() + TICK_S
            self._tick_timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        """Deadlines, silence, periodic refresh. Runs only while something is in flight or waits.

        Before a caller is told that its time is over, the sockets are drained once more: on the first sight of an
        expired command the verdict is put off by one round of the loop, so that a reply that is already here wins.
        """
        now_s = time.monotonic()
        stalled_s = now_s - self._tick_due_s
        nodes = list(self.nodes.values())
        if not self._drained and any(node.expired(now_s) for node in nodes):
            self._drained = True
            self._stalled_s = stalled_s
            self._tick_timer = asyncio.get_running_loop().call_later(0.001, self._tick)
            return
        if self._drained:
            stalled_s = self._stalled_s
            self._drained = False
            for node in nodes:
                node.expire(now_s, stalled_s if stalled_s > STALL_S else 0.0)
        for node in nodes:
            node.tick(now_s)
        self._expire_parked(now_s)
        if now_s - self._refreshed_s > self.timeouts.refresh_period_s:
            self.refresh_soon()
        self._tick_timer = None
        if self._parked or any(node.active for node in nodes):
            self._start_ticking()

    def _expire_parked(self, now_s: float) -> None:
        if not self._parked:
            return
        for command in self._parked:
            if command.deadline <= now_s:
                command.fail(
                    ClusterNotReady(
                        f"slot {command.slot} had no owner until the deadline; last refresh: "
                        f"{self.last_refresh_error or 'answered'}"
                    )
                )
        self._parked = deque(command for command in self._parked if not command.future.done())

    last_refresh_error = ""
    _stalled_s = 0.0

    async def aclose(self) -> None:
        """Close every connection and tell everyone who waits."""
        self._closed = True
        for timer in (self._tick_timer, self._refresh_timer, *self._delayed.values()):
            if timer is not None:
                timer.cancel()
        self._tick_timer = self._refresh_timer = None
        if self._refresh_task is not None:
            self._refresh_task.cancel()
            await asyncio.gather(self._refresh_task, return_exceptions=True)
        await asyncio.gather(*(node.aclose() for node in self.nodes.values()))
        for command in (*self._delayed, *self._parked):
            command.fail(ClientClosed("the client is closed"))
        self._delayed.clear()
        self._parked.clear()
        self.nodes.clear()
        self.slot_nodes = [None] * SLOT_COUNT

    def stats(self) -> ClientStats:
        """The whole client now."""
        now_s = time.monotonic()
        return ClientStats(
            nodes=tuple(node.stats(now_s) for node in self.nodes.values()),
            slots_covered=self.slot_map.covered,
            commands=self.commands,
            redirects_moved=self.moved,
            redirects_ask=self.asked,
            retries=self.retries,
            refreshes=self.refreshes,
            delayed=len(self._delayed),
            parked=len(self._parked),
            waits=sum(node.waits for node in self.nodes.values()),
            errors=dict(self.errors),
        )
