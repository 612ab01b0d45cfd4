"""Brings each command to the node that owns its slot, and decides what happens when that does not work out.

Owns the nodes, the slot map, redirects and retries. The old map serves while a refresh runs; the endpoints
that the client was given are kept for ever as the last resort.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.exceptions import AskError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from tradewind.client.command import Command, pack
from tradewind.client.connect import ConnectionSettings
from tradewind.client.errors import (
    ClientClosed,
    ClusterNotReady,
    DeadlineExceeded,
    NodeUnavailable,
    Overloaded,
    SlotNotServed,
)
from tradewind.client.exclusive import ConnectionLost
from tradewind.client.meter import SlowLog
from tradewind.client.node import Node
from tradewind.client.policy import (
    Limits,
    RetryPolicy,
    Timeouts,
    Verdict,
    backoff_s,
    judge,
    unknown_outcome,
)
from tradewind.client.refresh import Answer, Question, Refresher
from tradewind.client.stats import ClientStats
from tradewind.client.topology import SLOT_COUNT, Endpoint, SlotMap, Topology
from tradewind.client.watchdog import Watchdog, Watched

if TYPE_CHECKING:
    from tradewind.client.commit import Committer
    from tradewind.client.read_routing import ReadRouting

DEFAULT_RETRY = RetryPolicy()
START_BACKOFF_BASE_S = 0.05
ASKED_MAX = 6  # nodes asked in one refresh, besides the original endpoints
DEMOTED_GRACE_S = 1.0  # a demoted node tells who blocks there; after that they are told by us


class Router:
    """One cluster, or one server. Not thread safe; belongs to one event loop.

    `asks_only_seeds`: nodes that are not among the given addresses are not asked for the slot map.
    `refreshes_when_moved`: a MOVED is news about its own slot, and reason to learn the whole map anew.
    `seed_names`: what the user called the given addresses, for TLS.
    """

    def __init__(
        self,
        seeds: Iterable[Endpoint],
        *,
        limits: Limits,
        timeouts: Timeouts,
        settings: ConnectionSettings,
        topology: Topology,
        retry: RetryPolicy = DEFAULT_RETRY,
        asks_only_seeds: bool = False,
        refreshes_when_moved: bool = True,
        seed_names: Mapping[Endpoint, str] | None = None,
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
        self.committers: list[Committer] = []
        self.on_map = [on_map]
        self.retry = retry
        self.reads: ReadRouting | None = None  # for clients that do not read from primaries alone
        self.closed = False
        self._closing = asyncio.Event()  # for those who pause
        self.commands = self.moved = self.asked = self.retries = self.refreshes = 0
        self.errors: Counter[str] = Counter()
        self._settings = settings
        self._topology = topology
        self._seed_names = seed_names or {}
        self._asks_only_seeds = asks_only_seeds
        self._refreshes_when_moved = refreshes_when_moved
        self._require_full_coverage = require_full_coverage
        self._rng = rng or random.Random()
        self._parked: deque[Command] = deque()  # no node owns their slot at the moment
        self._delayed: dict[Command, asyncio.TimerHandle] = {}  # waiting for their next try
        self._slot_tries: dict[int, float] = {}  # when the last of a slot's delayed commands is due
        self._demotions: dict[Node, asyncio.TimerHandle] = {}
        self.watchdog = Watchdog(self._watched)
        self.slow_log = SlowLog(timeouts.slow_s, self.watchdog.stalled_since)
        self._refresher = Refresher(
            candidates=self._to_ask,
            dispatch=self.dispatch,
            install=self._install,
            is_urgent=self._is_urgent,
            timeouts=timeouts,
            topology=topology,
            count=self.count,
            rng=self._rng,
        )
        self.refresh_soon, self.refresh_if_older = self._refresher.soon, self._refresher.if_older

    # -- the way of a command --------------------------------------------------------------------------------

    def dispatch(self, command: Command) -> None:
        """Send the command on its way. Its future gets the reply or, by its deadline, an error."""
        node = command.pinned or self.slot_nodes[command.slot]
        if node is None:
            self.park(command)
        elif command.read_from is None or command.pinned is not None or self.reads is None:
            node.submit(command)
        elif (reader := self.reads.node_for(command, node)) is not None:
            reader.submit(command)
        if self.watchdog.timer is None:
            self.watchdog.start()

    def noted(self, slot: int, *, writes: bool) -> AbstractContextManager[None]:
        """Around a write that is not dispatched here."""
        return self.reads.choice.writing(slot) if writes and self.reads is not None else nullcontext()

    def dispatch_again(self, command: Command) -> None:
        """As `dispatch`, by the way that the command first came: alone, or in a durable batch."""
        if not command.future.done():
            (command.committer or self).dispatch(command)

    def keep_watch(self) -> None:
        """See `Watchdog`."""
        self.watchdog.start()

    def park(self, command: Command) -> None:
        """Nobody owns the slot at the moment: hold the command until somebody does, or its deadline."""
        if self.closed:
            self.tell(command, ClientClosed("the client is closed"))
            return
        self._parked.append(command)
        self.refresh_soon()
        self.keep_watch()

    def on_error_reply(self, node: Node, command: Command, error: Exception) -> None:
        """What an error reply leads to; see `policy.judge`."""
        if self.reads is not None and self.reads.on_error_reply(node, command, error):
            return
        try:
            target = self.learn(node, command, error)
        except Exception as answer:  # of redis-py, or UnicodeDecodeError
            if command.repeatable and isinstance(answer, self.retry.errors):
                self.retry_later(command, answer)
            else:
                self.tell(command, answer)
            return
        if target is None or target is node:
            self.retry_later(command, error)
        elif not command.future.done():
            if command.committer is not None:
                command.committer.enqueue(command, target)
            else:
                target.submit(command)

    def learn(self, node: Node | None, command: Command, error: Exception) -> Node | None:
        """Take from an error reply what it says about the topology.

        Returns the node to go on with at once, or None to try again after a pause. Raises what the caller
        must be told: `error` itself, or that redirects lead nowhere. Each command follows its own redirect; a
        burst of them causes one refresh.
        """
        verdict = judge(error)
        if verdict is Verdict.FAIL:
            raise error
        if self.reads is not None:
            self.reads.look_for_move(command, error)
        if verdict is Verdict.RETRY_AND_REFRESH or (verdict is Verdict.MOVED and self._refreshes_when_moved):
            self.refresh_soon()
        if node is not None and isinstance(error, ReadOnlyError):
            node.renew_connections()
        if node is None or not isinstance(error, AskError):
            return None
        command.redirects += 1
        node.redirects += 1
        if command.redirects > self.limits.redirects_max:
            raise lost_in_redirects(command, error) from error
        if not 0 <= error.slot_id < SLOT_COUNT:
            raise ResponseError(
                f"{node.name}: redirected for slot {error.slot_id}, which does not exist"
            ) from error
        target = self._redirected(node, command, error, asking=verdict is Verdict.ASK)
        return target if command.redirects <= self.limits.redirects_in_a_row_max else None

    def _redirected(self, node: Node, command: Command, error: AskError, *, asking: bool) -> Node:
        """ASK is for this command only; MOVED is news for all, except of a command that somebody pinned."""
        target = self.node(self._topology.redirected(error, node.endpoint))
        command.asking = asking
        if asking:
            self.asked += 1
        elif command.pinned is not None:
            command.pinned = target
        else:
            self.moved += 1
            if self.reads is not None and self.slot_nodes[error.slot_id] is not target:
                self.reads.on_moved(error.slot_id)
            self.slot_nodes[error.slot_id] = target
        return target

    def on_lost(self, node: Node, sent: list[Command], error: Exception) -> None:
        """A shared connection ended. What was sent is repeated, or its outcome is unknown."""
        self.refresh_soon()
        for command in sent:
            self.lost(node.name, command, error)
        if self.reads is not None:
            self.reads.on_lost(node)

    def lost(self, node_name: str, command: Command, error: Exception) -> None:
        """The command was sent and its connection ended without a reply."""
        if command.repeatable or self.retry.always:
            command.may_have_run = True
            self.retry_later(command, error)
        else:
            what = f"{node_name}: {command.name} was sent and its connection ended"
            self.tell(command, unknown_outcome(what, error))

    # -- what callers are told -------------------------------------------------------------------------------

    def tell(self, command: Command, error: Exception) -> None:
        """Fail the command. Every error for a caller goes through here or through `count`, so that
        `stats().errors` has it; a caller who has gone, or was told before, counts no more.
        """
        if not command.future.done():
            if command.may_have_run and isinstance(error, Overloaded | NodeUnavailable | ClusterNotReady):
                error = DeadlineExceeded(
                    f"{command.name} was sent before, and its reply was lost; then {error}"
                )
            self.count(error)
            command.fail(error)

    def count(self, error: Exception) -> None:
        """Count an error that is raised elsewhere, or that no caller hears of (a dial, a refresh)."""
        self.errors[type(error).__name__] += 1

    # -- another try -----------------------------------------------------------------------------------------

    def retry_later(self, command: Command, error: Exception) -> None:
        """Try again after a pause, or answer with `error` if the deadline comes first.

        Commands of one slot keep the order in which they come here, so that a pipeline's do.
        """
        if command.future.done():
            return
        command.attempts += 1
        command.asking = False
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        due_s = now_s + self.retry.pause_s(command.attempts, self._rng)
        if command.slot >= 0:
            due_s = max(due_s, self._slot_tries.get(command.slot, 0.0) + 1e-6)
        if self._is_last(command, due_s - now_s):
            self.tell(command, self._last_word(command, error))
            return
        self.retries += 1
        if command.slot >= 0:
            self._slot_tries[command.slot] = due_s
        self._delayed[command] = loop.call_at(due_s, self._retry_now, command, due_s)

    def _retry_now(self, command: Command, due_s: float) -> None:
        self._delayed.pop(command, None)
        if self._slot_tries.get(command.slot) == due_s:
            del self._slot_tries[command.slot]
        self.dispatch_again(command)

    async def pause(self, command: Command, error: Exception) -> None:
        """The same for a command that runs in a task of its own: sleep, or raise if the deadline is near."""
        command.attempts += 1
        command.asking = False
        delay_s = self.retry.pause_s(command.attempts, self._rng)
        if self._is_last(command, delay_s):
            raise self._last_word(command, error)
        self.retries += 1
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._closing.wait()
                raise self._last_word(command, error)

    def _is_last(self, command: Command, delay_s: float) -> bool:
        """There is no other try: too many already, or no time for it."""
        late = time.monotonic() + delay_s >= command.deadline
        return self.closed or late or command.attempts > self.retry.tries_max

    def _last_word(self, command: Command, error: Exception) -> Exception:
        """What the caller is told when there is no other try."""
        if self.closed:
            return ClientClosed(f"the client is closed; {error}")
        if isinstance(error, ConnectionLost):
            return _connection_lost(command, error)
        return lost_in_redirects(command, error) if isinstance(error, AskError) else error

    # -- nodes and the slot map ------------------------------------------------------------------------------

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
            node.announced_name = self._announced_name(endpoint)
        return node

    def _announced_name(self, endpoint: Endpoint) -> str | None:
        return self.slot_map.names.get(endpoint) or self._seed_names.get(endpoint)

    def primaries(self) -> list[Node]:
        """Nodes that own slots, each once."""
        return list(dict.fromkeys(node for node in self.slot_nodes if node is not None))

    def reachable(self, preferred: Node | None) -> Node:
        """For what any node can do: the preferred one while it answers, else another that does."""
        known = [node for node in self.nodes.values() if node.role != "unknown" and not node.is_failing]
        connected = [node for node in known if node.connected]
        candidates = connected or known or list(self.nodes.values())
        return preferred if preferred in candidates else self._rng.choice(candidates)

    def on_dial_failed(self, node: Node, error: Exception) -> None:
        """The node may have been replaced."""
        self.count(error)
        self._refresher.on_dial_failed(node, error)
        self.refresh_soon()

    def reauthenticate(self, credentials: tuple[str, ...]) -> None:
        """Open connections take these credentials in line; new ones ask the provider themselves."""
        auth = pack(("AUTH", *credentials))
        for node in self.nodes.values():
            node.upkeep.reauthenticate(auth)

    def on_suspect(self, _node: Node) -> None:
        """A silent node sends no redirects: ask the others."""
        self.refresh_soon()

    async def refresh(self) -> None:
        """Learn the slot map now. Raises ClusterNotReady with each node's own reason."""
        await self._refresher.refresh()

    def _is_urgent(self) -> bool:
        """Somebody waits for better news than the last refresh brought."""
        return bool(self._parked) or any(node.waiting and not node.connected for node in self.nodes.values())

    def _to_ask(self) -> list[Node]:
        """Known nodes in random order, connected and answering ones first, then the original endpoints."""
        if self._asks_only_seeds:
            return [self.node(seed) for seed in self.seeds]
        now_s = time.monotonic()
        known = [self.nodes[endpoint] for endpoint, _ in self.slot_map.endpoints() if endpoint in self.nodes]
        self._rng.shuffle(known)
        known.sort(key=lambda node: (node.is_silent(now_s), not node.connected))
        return list(dict.fromkeys((*known[:ASKED_MAX], *(self.node(seed) for seed in self.seeds))))

    def _install(self, slot_map: SlotMap) -> None:
        self.refreshes += 1
        slot_nodes: list[Node | None] = [None] * SLOT_COUNT
        for item in slot_map.ranges:
            slot_nodes[item.first : item.last + 1] = [self.node(item.primary)] * (item.last - item.first + 1)
        roles = dict(slot_map.endpoints())
        self.slot_map, self.slot_nodes = slot_map, slot_nodes
        for endpoint, node in self.nodes.items():
            node.announced_name = self._announced_name(endpoint)
        for listener in tuple(self.on_map):
            listener(slot_map)
        self._settle_nodes(roles)
        self._reroute()

    def _settle_nodes(self, roles: dict[Endpoint, bool]) -> None:
        """Set roles; give up silent connections to demoted nodes, and in a while those that somebody has for
        himself at demoted or lost nodes; forget nodes that are gone and empty.
        """
        now_s = time.monotonic()
        for endpoint, node in list(self.nodes.items()):
            before = node.role
            node.role = "primary" if roles.get(endpoint) else "replica" if endpoint in roles else "unknown"
            if node.role == "primary":
                continue
            if before == "primary" or before != node.role == "unknown":
                self._demoted(node)
            if node.is_silent(now_s):
                node.drop_connections(
                    RedisConnectionError(f"{node.name}: silent, and it owns no slots any more")
                )
            if endpoint not in roles and endpoint not in self.seeds and not node.busy:
                del self.nodes[endpoint]
                node.forget()

    def _demoted(self, node: Node) -> None:
        """If it still is so in a while: the map that said so may have been a stale node's."""
        if node not in self._demotions:
            loop = asyncio.get_running_loop()
            self._demotions[node] = loop.call_later(DEMOTED_GRACE_S, self._settle_demotion, node)

    def _settle_demotion(self, node: Node) -> None:
        del self._demotions[node]
        if node.role != "primary":
            node.on_demoted()

    def _reroute(self) -> None:
        """What waits for a node that lost its slot, or for a slot without owner, finds its way anew."""
        waiting = list(self._parked)
        self._parked.clear()
        for node in self.nodes.values():
            if node.waiting:
                waiting.extend(node.take_waiting(partial(self._is_astray, node)))
        for command in waiting:
            command.asking = False
            self.dispatch_again(command)

    def _is_astray(self, node: Node, command: Command) -> bool:
        return command.pinned is None and self.slot_nodes[command.slot] is not node

    def under_way(self) -> Iterator[Command]:
        """The commands that have not been answered, but for those on dedicated connections of their own."""
        yield from (*self._parked, *self._delayed)
        holders: list[Node | Committer] = [*self.nodes.values(), *self.committers]
        for holder in holders:
            yield from holder.under_way()

    # -- the watchdog's view of what is parked here ----------------------------------------------------------

    def _watched(self) -> Iterator[Watched]:
        yield from self.nodes.values()
        yield from self.committers
        yield self

    @property
    def active(self) -> bool:
        """Somebody waits for a slot's owner."""
        return bool(self._parked)

    def has_expired(self, _now_s: float) -> bool:
        """Nothing to drain for here."""
        return False

    def heard_since(self, _time_s: float) -> bool:
        """Nothing to hear here."""
        return False

    def excuse_silence(self, _seconds: float) -> None:
        """Nobody is silent here."""

    def expire(self, now_s: float, _stalled_s: float) -> None:
        """Tell those whose slot has had no owner until their deadline."""
        if not self._parked:
            return
        for command in self._parked:
            if command.deadline <= now_s:
                error = SlotNotServed(
                    f"slot {command.slot} had no owner until the deadline of {command.name}; nothing was "
                    f"sent; last refresh: {self._refresher.last_error or 'answered'}"
                )
                self.tell(command, error)
        self._parked = deque(command for command in self._parked if not command.future.done())

    def tick(self, now_s: float) -> None:
        """The periodic refresh, and reads that could be answered elsewhere."""
        self.refresh_if_older(self.timeouts.refresh_period_s)
        if self.reads is not None:
            self.reads.tick(now_s)

    # -- start and end ---------------------------------------------------------------------------------------

    async def start(self, deadline_s: float) -> None:
        """Learn the slot map; wait until every slot is served, at most to `deadline_s`.

        Raises ClusterNotReady, what a single server has said for good, or ClientClosed when it is closed
        meanwhile.
        """
        await self._until_ready(lambda: self._learn_whole_map(deadline_s), deadline_s)

    async def _learn_whole_map(self, deadline_s: float) -> None:
        await self._refresher.refresh(deadline_s)
        missing = SLOT_COUNT - self.slot_map.covered
        if missing and self._require_full_coverage:
            raise ClusterNotReady(
                f"{missing} of {SLOT_COUNT} slots have no primary; the cluster is not complete, or pass "
                "require_full_coverage=False to use what is there"
            )

    async def ask_primaries(
        self, question: Question, read: Callable[[Node, Any], Answer], deadline_s: float
    ) -> Answer:
        """The first answer of a primary, as they are when it is asked. Raises as `start`."""
        ask_any = self._refresher.ask_any
        return await self._until_ready(
            lambda: ask_any(self.primaries(), question, read, deadline_s), deadline_s
        )

    async def _until_ready(self, attempt: Callable[[], Awaitable[Answer]], deadline_s: float) -> Answer:
        """Try until it works: servers may be starting, full, or changing their roles at this moment."""
        tries = 0
        while True:
            try:
                return await attempt()
            except ClusterNotReady as failure:
                error, cause = failure, failure.__cause__
                if cause is not None and self._topology.is_final(cause):
                    raise cause from None
            tries += 1
            delay_s = backoff_s(tries, self._rng, START_BACKOFF_BASE_S)
            if time.monotonic() + delay_s >= deadline_s:
                raise ClusterNotReady(f"{error} (waited {self.timeouts.connect_s:g} s)", error.reasons)
            await asyncio.sleep(delay_s)

    def close(self) -> None:
        """Close every connection, at once: the client may be opened again in the next turn of the loop, and
        what both have together would be more than its limits. `aclose` does the rest.
        """
        if self.closed:
            return
        self.closed = True
        self._closing.set()
        self.watchdog.stop()
        for timer in (*self._delayed.values(), *self._demotions.values()):
            timer.cancel()
        for node in self.nodes.values():
            node.forget("the client is closed")

    async def aclose(self) -> None:
        """Close every connection and tell everyone who waits."""
        self.close()
        await self._refresher.aclose()
        if self.reads is not None:
            await self.reads.aclose()
        await asyncio.gather(*(committer.aclose() for committer in self.committers))
        await asyncio.gather(*(node.aclose() for node in self.nodes.values()))
        for command in (*self._delayed, *self._parked):
            self.tell(command, ClientClosed("the client is closed"))
        self._delayed.clear()
        self._parked.clear()
        self._demotions.clear()
        self.nodes.clear()
        self.slot_nodes = [None] * SLOT_COUNT

    def stats(self) -> ClientStats:
        """The whole client now."""
        now_s = time.monotonic()
        return ClientStats(
            nodes=tuple(node.stats(now_s) for node in tuple(self.nodes.values())),
            slots_covered=self.slot_map.covered,
            commands=self.commands,
            redirects_moved=self.moved,
            redirects_ask=self.asked,
            retries=self.retries,
            refreshes=self.refreshes,
            delayed=len(self._delayed),
            parked=len(self._parked),
            waits=sum(node.waits for node in tuple(self.nodes.values())),
            replica_reads=self.reads.from_replicas if self.reads else 0,
            held_back_reads=self.reads.choice.held_back if self.reads else 0,
            errors=dict(self.errors),
            loop_stalls=self.watchdog.stalls,
            loop_stalled_s=self.watchdog.stalled_s,
            slow=self.slow_log.count,
            slow_commands=self.slow_log.kept,
        )


def lost_in_redirects(command: Command, error: Exception) -> RedisConnectionError:
    """The nodes do not agree on who owns the slot."""
    return RedisConnectionError(
        f"{command.name} was redirected {command.redirects} times, last by {type(error).__name__} {error}: "
        f"the nodes do not agree on who owns slot {command.slot}; it was not executed"
    )


def _connection_lost(command: Command, error: ConnectionLost) -> RedisConnectionError:
    """In a class that callers know."""
    if error.was_sent:  # only of what may run twice
        return RedisConnectionError(str(error))
    return NodeUnavailable(
        f"{command.name}: its connection ended before it was sent, with no time for another try before its "
        f"deadline; {error}"
    )
