"""Brings each command to the node that owns its slot, and decides what follows if that does not work out."""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.exceptions import AskError, ReadOnlyError, ResponseError

from tradewind.client.cache import CacheStats
from tradewind.client.command import Command
from tradewind.client.connect import ConnectionSettings
from tradewind.client.errors import (
    ClientClosed,
    ClusterNotReady,
    DeadlineExceeded,
    NodeUnavailable,
    OutcomeUnknown,
    Overloaded,
    SlotNotServed,
)
from tradewind.client.meter import SlowLog
from tradewind.client.node import Node
from tradewind.client.nodes import Nodes
from tradewind.client.policy import (
    Limits,
    RetryPolicy,
    Timeouts,
    Verdict,
    judge,
    unknown_outcome,
)
from tradewind.client.promotions import Promotions
from tradewind.client.refresh import Answer, Question, Refresher
from tradewind.client.retries import Retries, lost_in_redirects
from tradewind.client.slot_news import SlotNews
from tradewind.client.stats import ClientStats
from tradewind.client.topology import SLOT_COUNT, Endpoint, SlotMap, Topology
from tradewind.client.watchdog import Watchdog, Watched

if TYPE_CHECKING:
    from tradewind.client.caching import ReadCaching
    from tradewind.client.commit import Committer
    from tradewind.client.read_routing import ReadRouting

DEFAULT_RETRY = RetryPolicy()


class Router:
    """One cluster, or one server. Not thread safe; belongs to one event loop.

    The old map serves while a refresh runs. What is tried again waits in `retries`.

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
        self.limits = limits
        self.timeouts = timeouts
        self.committers: list[Committer] = []
        self.on_node_lost: list[Callable[[Node], None]] = []  # one of its shared connections has ended
        self.news = SlotNews()
        self.on_push: Callable[[Node, Any], None] = lambda _node, _message: None
        self.caching: ReadCaching | None = None  # for clients that cache replies
        self.reads: ReadRouting | None = None  # for clients that do not read from primaries alone
        self.closed = False
        self.commands = self.moved = self.asked = self.refreshes = 0
        self.errors: Counter[str] = Counter()
        self._topology = topology
        self._refreshes_when_moved = refreshes_when_moved
        self._require_full_coverage = require_full_coverage
        self._rng = rng or random.Random()
        self._parked: deque[Command] = deque()  # no node owns their slot at the moment
        self.watchdog = Watchdog(self._watched)
        self.slow_log = SlowLog(timeouts.slow_s, self.watchdog.stalled_since)
        self.retries = Retries(retry, dispatch_again=self.dispatch_again, tell=self.tell, rng=self._rng)
        self.nodes = Nodes(
            seeds,
            make_node=partial(
                Node, owner=self, limits=limits, timeouts=timeouts, settings=settings, rng=self._rng
            ),
            seed_names=seed_names or {},
            asks_only_seeds=asks_only_seeds,
            on_map=on_map,
            rng=self._rng,
        )
        self._refresher = Refresher(
            candidates=self.nodes.to_ask,
            dispatch=self.dispatch,
            install=self._install,
            is_urgent=self._is_urgent,
            timeouts=timeouts,
            topology=topology,
            count=self.count,
            rng=self._rng,
        )
        self._promotions = Promotions(
            self.nodes,
            is_missed=self._is_missed,
            ask=self._refresher.ask,
            on_promoted=self._refresher.at_once,
            rng=self._rng,
        )
        self.refresh_soon, self.refresh_if_older = self._refresher.soon, self._refresher.if_older

    # -- the way of a command --------------------------------------------------------------------------------

    def dispatch(self, command: Command) -> None:
        """Send the command on its way. Its future gets the reply or, by its deadline, an error."""
        node = command.pinned or self.nodes.owners[command.slot]
        if node is None:
            self.park(command)
        elif command.read_from is None or command.pinned is not None or self.reads is None:
            node.submit(command)
        elif (reader := self.reads.node_for(command, node)) is not None:
            reader.submit(command)
        if self.watchdog.timer is None:
            self.watchdog.start()

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
            if command.repeatable and isinstance(answer, self.retries.policy.errors):
                self.retries.later(command, answer)
            else:
                self.tell(command, answer)
            return
        if target is None or target is node:
            self.retries.later(command, error)
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
        self.news.look_for_move(command.slot, error)
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
        target = self.nodes.at(self._topology.redirected(error, node.endpoint))
        command.asking = asking
        if asking:
            self.asked += 1
        elif command.pinned is not None:
            command.pinned = target
        else:
            self.moved += 1
            if self.nodes.owners[error.slot_id] is not target:
                self.news.owner_changed((error.slot_id,))
            self.nodes.owners[error.slot_id] = target
        return target

    def on_lost(self, node: Node, sent: list[Command], error: Exception) -> None:
        """A shared connection ended. What was sent is repeated, or its outcome is unknown."""
        self.refresh_soon()
        self._promotions.watch(node)
        for command in sent:
            self.lost(node.name, command, error)
        for told in self.on_node_lost:
            told(node)

    def lost(self, node_name: str, command: Command, error: Exception) -> None:
        """The command was sent and its connection ended without a reply."""
        if command.repeatable or self.retries.policy.always:
            command.may_have_run = True
            self.retries.later(command, error)
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
                kind = DeadlineExceeded if command.repeatable else OutcomeUnknown
                error = kind(f"{command.name} was sent before, and its reply was lost; then {error}")
            self.count(error)
            command.fail(error)

    def count(self, error: Exception) -> None:
        """Count an error that is raised elsewhere, or that no caller hears of (a dial, a refresh)."""
        self.errors[type(error).__name__] += 1

    # -- news of the nodes -----------------------------------------------------------------------------------

    def on_dial_failed(self, node: Node, error: Exception) -> None:
        """The node may have been replaced."""
        self.count(error)
        self._refresher.on_dial_failed(node, error)
        self.refresh_soon()
        self._promotions.watch(node)

    def on_suspect(self, node: Node) -> None:
        """A silent node sends no redirects: ask the others."""
        self.refresh_soon()
        self._promotions.watch(node)

    async def refresh(self) -> None:
        """Learn the slot map now. Raises ClusterNotReady with each node's own reason."""
        await self._refresher.refresh()

    def _is_urgent(self) -> bool:
        """Somebody waits for better news than the last refresh brought: other than a refresh itself."""
        unreached = (node.waiting for node in self.nodes if not node.connected)
        return bool(self._parked) or any(_has_callers(line) for line in unreached)

    def _is_missed(self, node: Node) -> bool:
        """Callers wait for it, or pause before another try."""
        return bool(self.retries.delayed) or _has_callers(node.under_way())

    def _install(self, slot_map: SlotMap) -> None:
        self.refreshes += 1
        before = self.nodes.owners
        self.nodes.install(slot_map)
        self.news.compare(before, self.nodes.owners)
        self._reroute()

    def _reroute(self) -> None:
        """What waits for a node that lost its slot, or for a slot without owner, finds its way anew."""
        waiting = list(self._parked)
        self._parked.clear()
        for node in self.nodes:
            if node.waiting:
                waiting.extend(node.take_waiting(partial(self._is_astray, node)))
        for command in waiting:
            command.asking = False
            self.dispatch_again(command)

    def _is_astray(self, node: Node, command: Command) -> bool:
        return command.pinned is None and self.nodes.owners[command.slot] is not node

    def under_way(self) -> Iterator[Command]:
        """The commands that have not been answered, but for those on dedicated connections of their own."""
        yield from (*self._parked, *self.retries.delayed)
        holders: list[Node | Committer] = [*self.nodes, *self.committers]
        for holder in holders:
            yield from holder.under_way()

    # -- the watchdog's view of what is parked here ----------------------------------------------------------

    def _watched(self) -> Iterator[Watched]:
        yield from (node.deadlines for node in self.nodes)
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
        await self._refresher.until_ready(lambda: self._learn_whole_map(deadline_s), deadline_s)

    async def _learn_whole_map(self, deadline_s: float) -> None:
        await self._refresher.refresh(deadline_s)
        missing = SLOT_COUNT - self.nodes.slot_map.covered
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
        return await self._refresher.until_ready(
            lambda: ask_any(self.nodes.primaries(), question, read, deadline_s), deadline_s
        )

    def close(self) -> None:
        """Close every connection, at once: the client may be opened again in the next turn of the loop, and
        what both have together would be more than its limits. `aclose` does the rest.
        """
        if self.closed:
            return
        self.closed = True
        self.watchdog.stop()
        self.retries.close()
        self._promotions.close()
        self.nodes.close()

    async def aclose(self) -> None:
        """Close every connection and tell everyone who waits."""
        self.close()
        await self._promotions.aclose()
        await self._refresher.aclose()
        if self.reads is not None:
            await self.reads.aclose()
        await asyncio.gather(*(committer.aclose() for committer in self.committers))
        await self.nodes.aclose()
        self.retries.tell_delayed()
        for command in self._parked:
            self.tell(command, ClientClosed("the client is closed"))
        self._parked.clear()

    def stats(self) -> ClientStats:
        """The whole client now."""
        now_s = time.monotonic()
        return ClientStats(
            nodes=tuple(node.stats(now_s) for node in tuple(self.nodes)),
            slots_covered=self.nodes.slot_map.covered,
            commands=self.commands,
            redirects_moved=self.moved,
            redirects_ask=self.asked,
            retries=self.retries.count,
            refreshes=self.refreshes,
            delayed=len(self.retries.delayed),
            parked=len(self._parked),
            waits=sum(node.waits for node in tuple(self.nodes)),
            replica_reads=self.reads.from_replicas if self.reads else 0,
            held_back_reads=self.reads.choice.held_back if self.reads else 0,
            cache=self.caching.cache.stats() if self.caching else CacheStats(),
            errors=dict(self.errors),
            loop_stalls=self.watchdog.stalls,
            loop_stalled_s=self.watchdog.stalled_s,
            slow=self.slow_log.count,
            slow_commands=self.slow_log.kept,
        )


def _has_callers(commands: Iterable[Command]) -> bool:
    """Questions about the cluster, which have no slot, are nobody's."""
    return any(command.slot >= 0 and not command.future.done() for command in commands)
