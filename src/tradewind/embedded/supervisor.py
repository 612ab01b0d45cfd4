"""Keeps an embedded cluster whole: a server that has ended is replaced by its replica and started again.

What a platform's supervisor does for a cluster in production. The guardian knows of a server's end at once,
so nothing has to wait until the other nodes agree that it failed: its replica takes over by `CLUSTER
FAILOVER FORCE`, which still needs the votes of the other primaries. Only then is the ended server started
again, and it joins as a replica. So what was acknowledged by `WAIT` is never overwritten from an older copy.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from redis.exceptions import RedisError

from tradewind.embedded.cluster import EmbeddedCluster, Node
from tradewind.embedded.errors import EmbeddedError
from tradewind.embedded.survey import Admin, NodeReport

POLL_S = 0.1
TAKEOVER_ATTEMPT_S = 0.5  # the votes may be refused while the primaries have not all noticed each other
TAKEOVER_S_MAX = 15.0

logger = logging.getLogger(__name__)


class Supervisor:
    """Watches the servers of a started cluster. `on_event` is called with a few words at each step."""

    def __init__(self, cluster: EmbeddedCluster, on_event: Callable[[str], None] = logger.info) -> None:
        self._cluster = cluster
        self._on_event = on_event

    async def run(self) -> None:
        """Watch until cancelled, or until the cluster is stopped."""
        while self._cluster.nodes:
            for node in await self._cluster.ended_nodes():
                try:
                    await self._bring_back(node)
                except (RedisError, OSError, EmbeddedError) as error:
                    self._on_event(f"server on port {node.port}: {error}; trying again")
            await asyncio.sleep(POLL_S)

    async def _bring_back(self, node: Node) -> None:
        self._on_event(f"server on port {node.port} has ended")
        await self._replace(node)
        await self._cluster.restart(node)
        self._on_event(f"server on port {node.port} started again")

    async def _replace(self, node: Node) -> None:
        """Have a replica take the ended server's slots, if it had any. A shard without a replica just comes
        back.
        """
        deadline_s = time.monotonic() + TAKEOVER_S_MAX
        while time.monotonic() < deadline_s:
            reports = [report for report in await self._cluster.survey() if report.myself is not None]
            replicas = [report.port for report in reports if report.primary_port == node.port]
            if not replicas or not _owns_slots(reports, node.port):
                return
            async with Admin(replicas[0]) as admin:
                await admin.ask("CLUSTER", "FAILOVER", "FORCE")
                if await _is_primary(admin, time.monotonic() + TAKEOVER_ATTEMPT_S):
                    self._on_event(f"server on port {replicas[0]} took over its slots")
                    return


def _owns_slots(reports: list[NodeReport], port: int) -> bool:
    return any(view.port == port and view.slots for report in reports for view in report.views)


async def _is_primary(admin: Admin, deadline_s: float) -> bool:
    while time.monotonic() < deadline_s:
        role, *_ = await admin.ask("ROLE")
        if role == "master":
            return True
        await asyncio.sleep(0.02)
    return False
