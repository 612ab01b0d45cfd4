"""What each server says about itself and the others, and what is missing until the cluster is ready."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError

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
        """The server's reply; asked once, never again by itself.

        :raises RedisError: it refuses, or does not answer
        """
        try:
            return await self._redis.execute_command(*words)  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # uvloop's word for writing to a connection that has just ended
            raise ConnectionError(f"port {self.port}: {error}") from error


@dataclass(frozen=True, slots=True)
class NodeView:
    """One line of CLUSTER NODES: how one node sees another, or itself."""

    id: str
    port: int
    flags: frozenset[str]
    primary_id: str | None
    config_epoch: int
    linked: bool
    ranges: tuple[tuple[int, int], ...]

    @property
    def slots(self) -> int:
        """How many."""
        return sum(last - first + 1 for first, last in self.ranges)

    def owns(self, slot: int) -> bool:
        return any(first <= slot <= last for first, last in self.ranges)

    @property
    def is_primary(self) -> bool:
        return "master" in self.flags

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
        config_epoch=int(words[6]),
        linked=words[7] == "connected",
        # A slot on its way to another node, in brackets, still is where it was.
        ranges=tuple(_parse_range(word) for word in words[8:] if not word.startswith("[")),
    )


def _parse_range(word: str) -> tuple[int, int]:
    first, _, last = word.partition("-")
    return int(first), int(last or first)


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
        return "primary" if self.myself.is_primary else "replica"

    @property
    def primary_id(self) -> str | None:
        """For a replica, the id of its primary."""
        return self.myself.primary_id if self.myself else None

    @property
    def primary_port(self) -> int | None:
        """For a replica, the port that its primary announces."""
        return next((view.port for view in self.views if view.id == self.primary_id), None)


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


def owner_of(slot: int, reports: Sequence[NodeReport]) -> NodeView | None:
    """The primary of the slot, by the newest claim that any server knows of.

    A primary that was cut off goes on believing in its own, older one.
    """
    claims = [view for report in reports for view in report.views if view.owns(slot)]
    return max(claims, key=lambda view: view.config_epoch, default=None)


def missing(reports: Sequence[NodeReport]) -> list[str]:
    """What still keeps the cluster from being ready; empty when every server

    1. answers, and has loaded its data,
    2. sees every other, with no failure and a connected link,
    3. serves all slots between them,
    4. sees every other as that one sees itself: its role, its primary, its slots,
    5. and, as a replica, is linked to its primary, which knows of it.

    Servers are told apart by their ids, so the ports that they announce may be others than `reports` has.
    """
    return [reason for report in reports for reason in _missing_at(report, reports)]


def _missing_at(report: NodeReport, reports: Sequence[NodeReport]) -> list[str]:
    node = f"node {report.port}"
    if report.error is not None:
        return [f"{node} does not answer: {report.error}"]
    reasons = []
    if report.info.get("loading"):
        reasons.append(f"{node} loads its data")
    reasons += _missing_in_its_views(report, reports)
    if report.cluster.get("cluster_state") != "ok" or report.cluster.get("cluster_slots_ok") != str(SLOTS):
        state, served = report.cluster.get("cluster_state"), report.cluster.get("cluster_slots_ok")
        reasons.append(f"{node} has cluster state {state} with {served} of {SLOTS} slots")
    if report.role == "replica" and report.info.get("master_link_status") != "up":
        reasons.append(f"{node} is not linked to its primary {report.primary_port}")
    if report.role == "primary":
        reasons += _missing_replicas(report, reports)
    return reasons


def _missing_in_its_views(report: NodeReport, reports: Sequence[NodeReport]) -> list[str]:
    unseen, misseen = [], []
    for other in reports:
        seen = _view_of(other, report)
        if seen is None or not seen.healthy:
            unseen.append(other.port)
        elif other.myself is not None and _duty(seen) != _duty(other.myself):
            misseen.append(other.port)
    node = f"node {report.port}"
    reasons = [f"{node} does not see {sorted(unseen)}"] if unseen else []
    return reasons + ([f"{node} has not heard what {sorted(misseen)} now serve"] if misseen else [])


def _view_of(other: NodeReport, report: NodeReport) -> NodeView | None:
    """One that does not answer is looked for by its port."""
    if other.myself is None:
        return next((view for view in report.views if view.port == other.port), None)
    return next((view for view in report.views if view.id == other.myself.id), None)


def _duty(view: NodeView) -> tuple[object, ...]:
    return view.is_primary, view.primary_id, view.ranges


def _missing_replicas(report: NodeReport, reports: Sequence[NodeReport]) -> list[str]:
    """Its replicas, as they see themselves, that the primary does not have online."""
    own_id = report.myself.id if report.myself else None
    expected = {other.port for other in reports if other.primary_id == own_id}
    slaves = (
        value for name, value in report.info.items() if name.startswith("slave") and isinstance(value, dict)
    )
    online = {slave["port"] for slave in slaves if slave.get("state") == "online"}
    return [f"node {report.port} has no online replica {port}" for port in sorted(expected - online)]
