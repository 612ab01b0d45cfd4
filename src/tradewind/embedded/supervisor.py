"""Keeps an embedded cluster whole: a server that has ended is replaced by its replica and started again.

What a platform's supervisor does for a cluster in production. The guardian knows of a server's end at once,
so nothing has to wait until the other nodes agree that it failed: its replica takes over by `CLUSTER
FAILOVER FORCE`, which still needs the votes of the other primaries, and only then is the ended server
started again; it joins as a replica. So what was acknowledged by `WAIT` is never overwritten from an older
copy. Two cases differ:

1. No majority of the primaries answers, or it gave no votes for 15 s: the replica takes over without votes
   (`CLUSTER FAILOVER TAKEOVER`). Votes are there so that no two servers serve the same slots; here the other
   one is known to have ended.
2. No replica is there that could take over: the server is started again with what its own disk has. A
   replica that runs and does not answer is waited for, 15 s at most.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal

from redis.exceptions import RedisError

from tradewind.embedded.cluster import EmbeddedCluster, Node
from tradewind.embedded.errors import EmbeddedError
from tradewind.embedded.survey import Admin, NodeReport

POLL_S = 0.1
PAUSE_AFTER_FAILURE_S = 0.5
TAKEOVER_ATTEMPT_S = 0.5  # the votes may be refused while the primaries have not all noticed each other
TAKEOVER_S_MAX = 15.0

logger = logging.getLogger(__name__)


class Supervisor:
    """Watches the servers of a started cluster. `on_event` is called with a few words at each step."""

    def __init__(self, cluster: EmbeddedCluster, on_event: Callable[[str], None] = logger.info) -> None:
        self._cluster = cluster
        self._on_event = on_event
        self._ended_s: dict[int, float] = {}  # by port: since when the server has been known to have ended
        self._failure = ""  # the last one said, so that it is not said in every round

    async def run(self) -> None:
        """Watch until cancelled, or until the cluster is stopped. An error is an event, and no end."""
        while self._cluster.nodes:
            try:
                failed = await self._round()
            except Exception as error:  # whatever it is: who watches must not stop watching
                failed = True
                self._say_failure("the servers cannot be looked after", error)
            if not failed:
                self._failure = ""
            await asyncio.sleep(PAUSE_AFTER_FAILURE_S if failed else POLL_S)

    async def _round(self) -> bool:
        """One step for each server that has ended; says whether one failed."""
        ended = await self._cluster.ended_nodes()
        ports = {node.port for node in ended}
        running = {node.port for node in self._cluster.nodes} - ports
        self._ended_s = {port: since_s for port, since_s in self._ended_s.items() if port in ports}
        failed = False
        for node in ended:
            try:
                await self._bring_back(node, running)
            except Exception as error:  # as in run; the others have their turn nevertheless
                failed = True
                self._say_failure(f"server on port {node.port}", error)
        return failed

    async def _bring_back(self, node: Node, running: set[int]) -> None:
        """The next step towards its return. What has to wait, waits for the next round."""
        if node.port not in self._ended_s:
            self._ended_s[node.port] = time.monotonic()
            self._say(f"server on port {node.port} has ended")
        if await self._is_replaced(node.port, running):
            await self._cluster.restart(node)
            del self._ended_s[node.port]
            self._say(f"server on port {node.port} started again")

    async def _is_replaced(self, port: int, running: set[int]) -> bool:
        """Whether the ended server may start again: it has no slots any more, or nobody can take them."""
        reports = [report for report in await self._cluster.survey() if report.myself is not None]
        overdue = time.monotonic() - self._ended_s[port] > TAKEOVER_S_MAX
        if reports and not _owns_slots(reports, port):
            return True
        replicas = [report for report in reports if report.primary_port == port]
        if replicas:
            return await self._replace(max(replicas, key=_replicated_bytes), reports, overdue)
        silent = _silent_replicas(reports, port, running) if reports else running
        if silent and overdue:
            self._say(
                f"server on port {port}: no replica has answered for {TAKEOVER_S_MAX:g} s; it starts again "
                "without a takeover, with what its own disk has"
            )
        return overdue or not silent

    async def _replace(self, replica: NodeReport, reports: Sequence[NodeReport], overdue: bool) -> bool:
        """Have the replica take the slots of its primary, by votes if they can be had."""
        by_votes = _can_vote(reports, replica) and not overdue
        done = await _take_over(replica.port, "FORCE" if by_votes else "TAKEOVER")
        if done:
            how = "" if by_votes else ", without votes: no majority of the primaries gave them"
            self._say(f"server on port {replica.port} took over its slots{how}")
        return done

    # -- what is said ----------------------------------------------------------------------------------------

    def _say_failure(self, what: str, error: Exception) -> None:
        """Once, however often it is met in a row; nothing when the cluster was stopped meanwhile."""
        expected = isinstance(error, RedisError | OSError | EmbeddedError) and str(error)
        text = f"{what}: {error if expected else repr(error)}; trying again"
        if self._cluster.nodes and text != self._failure:
            self._failure = text
            logger.debug(text, exc_info=error)
            self._say(text)

    def _say(self, event: str) -> None:
        try:
            self._on_event(event)
        except Exception:
            logger.exception("on_event failed for: %s", event)


async def _take_over(port: int, how: Literal["FORCE", "TAKEOVER"]) -> bool:
    async with Admin(port) as admin:
        await admin.ask("CLUSTER", "FAILOVER", how)
        return await _is_primary(admin, time.monotonic() + TAKEOVER_ATTEMPT_S)


async def _is_primary(admin: Admin, deadline_s: float) -> bool:
    while time.monotonic() < deadline_s:
        role, *_ = await admin.ask("ROLE")
        if role == "master":
            return True
        await asyncio.sleep(0.02)
    return False


def _owns_slots(reports: Sequence[NodeReport], port: int) -> bool:
    return any(view.port == port and view.slots for report in reports for view in report.views)


def _silent_replicas(reports: Sequence[NodeReport], port: int, running: set[int]) -> set[int]:
    """Replicas of the server on `port` that run and do not answer, by the word of the servers that do."""
    views = [view for report in reports for view in report.views]
    ids = {view.id for view in views if view.port == port}
    replicas = {view.port for view in views if view.primary_id in ids}
    return (replicas & running) - {report.port for report in reports}


def _can_vote(reports: Sequence[NodeReport], replica: NodeReport) -> bool:
    """Whether a majority of the primaries with slots, as many as the replica knows of, answers."""
    voters = sum(
        report.role == "primary" and report.myself is not None and report.myself.slots > 0
        for report in reports
    )
    return voters > int(replica.cluster.get("cluster_size", 0)) // 2


def _replicated_bytes(replica: NodeReport) -> int:
    """How far the replica has come in what its primary sent."""
    return int(replica.info.get("slave_repl_offset", 0))
