"""What each server says about itself and the others, and what is missing until the cluster is ready."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tradewind.embedded.ports import HOST

SLOTS = 16_384
ADMIN_TIMEOUT_S = 2.0

_BAD_FLAGS = frozenset({"fail", "fail?", "handshake", "noaddr"})


class Admin:
    """One administration connection to one server, closed by `async with`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._redis = Redis(
            host=HOST,
            port=port,
            protocol=2,
            decode_responses=True,
            socket_timeout=ADMIN_TIMEOUT_S,
            socket_connect_timeout=ADMIN_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )

    async def __aenter__(self) -> "Admin":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._redis.aclose()

    async def ask(self, *words: str | int) -> Any:
        """The server's reply; asked once, never again by itself."""
        return await self._redis.execute_command(*words)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class NodeView:
    """One line of CLUSTER NODES: how one node sees another, or itself."""

    id: str
    port: int
    flags: frozenset[str]
    primary_id: str | None
    linked: bool
    slots: int

    @property
    def myself(self) -> bool:
        return "myself" in self.flags

    @property
    def healthy(self) -> bool:
        return not self.flags & _BAD_FLAGS and (self.linked or self.myself)


def parse_cluster_nodes(text: str) -> list[NodeView]:
    return [_parse_view(line.split()) for line in text.splitlines() if line.strip()]


def _parse_view(words: Sequence[str]) -> NodeView:
    address = words[1].split(",")[0]
    return NodeView(
        id=words[0],
        port=int(address.partition("@")[0].rpartition(":")[2]),
        flags=frozenset(words[2].split(",")),
        primary_id=None if words[3] == "-" else words[3],
        linked=words[7] == "connected",
        slots=sum(_slot_count(word) for word in words[8:]),
    )


def _slot_count(word: str) -> int:
    if word.startswith("["):  # a slot on its way to another node is counted where it still is
        return 0
    first, _, last = word.partition("-")
    return int(last or first) - int(first) + 1


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What one server answered; `error` alone is set when it did not."""

    port: int
    error: str | None = None
    views: tuple[NodeView, ...] = ()
    cluster: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def myself(self) -> NodeView | None:
        return next((view for view in self.views if view.myself), None)

    @property
    def role(self) -> str:
        """ "primary", "replica", or "down" when it did not answer."""
        if self.myself is None:
            return "down"
        return "primary" if "master" in self.myself.flags else "replica"

    @property
    def primary_port(self) -> int | None:
        """For a replica, the port of its primary."""
        primary_id = self.myself.primary_id if self.myself else None
        return next((view.port for view in self.views if view.id == primary_id), None)


async def survey(ports: Sequence[int]) -> list[NodeReport]:
    """Ask every server at once. Never raises for a server that does not answer."""
    return list(await asyncio.gather(*(_report(port) for port in ports)))


async def _report(port: int) -> NodeReport:
    try:
        async with Admin(port) as admin:
            views = parse_cluster_nodes(await admin.ask("CLUSTER", "NODES"))
            cluster = await admin.ask("CLUSTER", "INFO")
            info = await admin.ask("INFO")
    except (RedisError, OSError) as error:
        return NodeReport(port, error=str(error) or type(error).__name__)
    pairs = dict(line.split(":", 1) for line in cluster.split() if ":" in line)
    return NodeReport(port, views=tuple(views), cluster=pairs, info=info)


def missing(reports: Sequence[NodeReport]) -> list[str]:
    """What still keeps the cluster from being ready; empty when every server

    1. answers, and has loaded its data,
    2. sees every other, with no failure and a connected link,
    3. serves all slots between them,
    4. and, as a replica, is linked to its primary, which knows of it.
    """
    return [reason for report in reports for reason in _missing_at(report, reports)]


def _missing_at(report: NodeReport, reports: Sequence[NodeReport]) -> list[str]:
    node = f"node {report.port}"
    if report.error is not None:
        return [f"{node} does not answer: {report.error}"]
    reasons = []
    if report.info.get("loading"):
        reasons.append(f"{node} loads its data")
    healthy = {view.port for view in report.views if view.healthy}
    unseen = sorted({other.port for other in reports} - healthy)
    if unseen:
        reasons.append(f"{node} does not see {unseen}")
    if report.cluster.get("cluster_state") != "ok" or report.cluster.get("cluster_slots_ok") != str(SLOTS):
        state, served = report.cluster.get("cluster_state"), report.cluster.get("cluster_slots_ok")
        reasons.append(f"{node} has cluster state {state} with {served} of {SLOTS} slots")
    if report.role == "replica" and report.info.get("master_link_status") != "up":
        reasons.append(f"{node} is not linked to its primary {report.primary_port}")
    if report.role == "primary":
        reasons += _missing_replicas(report, reports)
    return reasons


def _missing_replicas(report: NodeReport, reports: Sequence[NodeReport]) -> list[str]:
    """Its replicas, as they see themselves, that the primary does not have online."""
    expected = {other.port for other in reports if other.primary_port == report.port}
    slaves = (
        value for name, value in report.info.items() if name.startswith("slave") and isinstance(value, dict)
    )
    online = {slave["port"] for slave in slaves if slave.get("state") == "online"}
    return [f"node {report.port} has no online replica {port}" for port in sorted(expected - online)]
