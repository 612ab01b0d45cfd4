"""The faults of a plan, done to a running system. Each returns when its own doing is over, not when the
system has healed: see `Site.whole`.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from redis.exceptions import RedisError

from tests.ledger.clients import Clients
from tests.ledger.plan import Fault
from tests.support.migration import Migration
from tests.support.waiting import eventually
from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster
from tradewind.embedded.cluster import Node
from tradewind.embedded.survey import Admin
from tradewind.engine.house import Ruling
from tradewind.engine.house_store import set_ruling
from tradewind.engine.instruments import INSTRUMENTS
from tradewind.engine.keys import PartitionKeys
from tradewind.engine.messages.words import HALTED, REDUCING

T = TypeVar("T")

REPLACED_S_MAX = 30.0
WHOLE_S_MAX = 120.0
SLOTS_MOVED_MAX = 3
CUTS = 10
CUT_EVERY_S = 0.003


class Site:
    """The servers, the worker processes and the clients of a run, to be broken."""

    def __init__(
        self,
        cluster: EmbeddedCluster,
        client: RedisCluster,
        partitions: int,
        fleet_pid: int,
        workers: int,
        clients: Clients,
    ) -> None:
        self.cluster = cluster
        self.client = client
        self.partitions = partitions
        self.clients = clients
        self._fleet_pid = fleet_pid
        self._workers = workers

    async def strike(self, faults: Sequence[Fault]) -> None:
        """All at once, each on a shard of its own: a shard that loses both of its servers loses orders."""
        roles = await self.cluster.roles()
        primaries = [node for node in self.cluster.nodes if roles[node.port] == "primary"]
        strikes = []
        for fault in faults:
            if fault.name in SERVER_STRIKES:
                primary = primaries.pop(fault.pick % len(primaries))
                strikes.append(SERVER_STRIKES[fault.name](self, fault, primary))
            else:
                strikes.append(STRIKES[fault.name](self, fault))
        await asyncio.gather(*strikes)

    async def whole(self) -> None:
        """Until both copies of every shard are there and all worker processes run."""
        await eventually(self._is_all_there, WHOLE_S_MAX)
        await self.cluster.wait_until_ready(WHOLE_S_MAX)

    async def _is_all_there(self) -> bool:
        return len(self.worker_pids()) == self._workers and not await self.cluster.ended_nodes()

    # -- victims -------------------------------------------------------------------------------------

    def worker_pids(self) -> list[int]:
        children = Path(f"/proc/{self._fleet_pid}/task/{self._fleet_pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    async def replica_of(self, primary: Node) -> Node:
        (replica,) = await self.cluster.replicas_of(primary)
        return replica

    async def replaced(self, node: Node) -> None:
        """Until the others have another primary in its place."""

        async def is_no_primary() -> bool:
            reports = [report for report in await self.cluster.survey() if report.port != node.port]
            views = [view for report in reports for view in report.views if view.port == node.port]
            return bool(views) and not any(view.slots for view in views)

        await eventually(is_no_primary, REPLACED_S_MAX)


def _picked(fault: Fault, things: list[T]) -> T:
    return things[fault.pick % len(things)]


# -- servers -----------------------------------------------------------------------------------------


async def _kill_primary(site: Site, _fault: Fault, primary: Node) -> None:
    await site.cluster.kill(primary)


async def _kill_primary_cut_off(site: Site, _fault: Fault, primary: Node) -> None:
    """The link to the replica is cut again and again meanwhile: what was written last is on one side only."""
    async with Admin(primary.port) as admin:
        for _ in range(CUTS):
            await admin.ask("CLIENT", "KILL", "TYPE", "replica")
            await asyncio.sleep(CUT_EVERY_S)
        await site.cluster.kill(primary)


async def _stop_primary_past_replacement(site: Site, fault: Fault, primary: Node) -> None:
    await site.cluster.kill(primary, signal.SIGSTOP)
    try:
        await site.replaced(primary)
        await asyncio.sleep(fault.share)
    finally:
        await site.cluster.kill(primary, signal.SIGCONT)


async def _stop_primary_for_a_moment(site: Site, fault: Fault, primary: Node) -> None:
    await site.cluster.kill(primary, signal.SIGSTOP)
    await asyncio.sleep(0.1 + 0.4 * fault.share)
    await site.cluster.kill(primary, signal.SIGCONT)


async def _kill_replica(site: Site, _fault: Fault, primary: Node) -> None:
    await site.cluster.kill(await site.replica_of(primary))


def _failover(*how: str) -> "ServerStrike":
    async def fail_over(site: Site, _fault: Fault, primary: Node) -> None:
        await _promote(await site.replica_of(primary), *how)

    return fail_over


async def _fail_over_and_back(site: Site, _fault: Fault, primary: Node) -> None:
    """Who blocks on the one is sent to the other, and back before all have arrived."""
    replica = await site.replica_of(primary)
    await _promote(replica)
    await _promote(primary)


async def _promote(replica: Node, *how: str) -> None:
    """Ask until it is a primary: asked too early, it has no primary to replace."""
    deadline_s = time.monotonic() + REPLACED_S_MAX
    async with Admin(replica.port) as admin:
        while (await admin.ask("ROLE"))[0] != "master":
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the replica on port {replica.port} did not become primary")
            try:
                await admin.ask("CLUSTER", "FAILOVER", *how)
            except RedisError:
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.2)


async def _kill_connections(_site: Site, fault: Fault, primary: Node) -> None:
    until_s = time.monotonic() + 0.3 + 1.5 * fault.share
    async with Admin(primary.port) as admin:
        while time.monotonic() < until_s:
            for kind in ("normal", "pubsub"):
                await admin.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await asyncio.sleep(0.05)


async def _pause_clients(_site: Site, fault: Fault, primary: Node) -> None:
    pause_ms = 100 + int(1_500 * fault.share)
    async with Admin(primary.port) as admin:
        await admin.ask("CLIENT", "PAUSE", pause_ms, "WRITE" if fault.pick % 2 else "ALL")
    await asyncio.sleep(pause_ms / 1_000)


async def _move_slots_and_back(site: Site, fault: Fault, _primary: Node) -> None:
    """Slots of some partitions change their primary, each as fast as it can, and change back."""
    chance = random.Random(fault.pick)
    for partition in chance.sample(range(site.partitions), min(SLOTS_MOVED_MAX, site.partitions)):
        move = await Migration.plan(site.cluster, PartitionKeys(partition).cursor)
        for way in (move, await move.back()):
            await way.begin()
            await way.finish()


async def _move_slot_key_by_key(site: Site, fault: Fault, _primary: Node) -> None:
    """Half of a partition's keys are here and half there, for a while."""
    partition = random.Random(fault.pick).randrange(site.partitions)
    move = await Migration.plan(site.cluster, PartitionKeys(partition).cursor)
    await move.begin()
    until_s = time.monotonic() + 0.2 + 1.5 * fault.share
    while time.monotonic() < until_s and await move.move_keys(1):
        await asyncio.sleep(0.05)
    await move.finish()


# -- workers, the house, clients -----------------------------------------------------------------------------


async def _kill_worker(site: Site, fault: Fault) -> None:
    os.kill(_picked(fault, site.worker_pids()), signal.SIGKILL)


async def _stop_worker(site: Site, fault: Fault) -> None:
    """Past its leases, or not: they last two seconds."""
    pid = _picked(fault, site.worker_pids())
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(0.1 + 4.0 * fault.share)
    os.kill(pid, signal.SIGCONT)


async def _end_worker(site: Site, fault: Fault) -> None:
    os.kill(_picked(fault, site.worker_pids()), signal.SIGTERM)


async def _halt_symbol(site: Site, fault: Fault) -> None:
    await _rule(site, fault, _picked(fault, list(INSTRUMENTS)), Ruling(HALTED, "ledger run"))


async def _reduce_system(site: Site, fault: Fault) -> None:
    await _rule(site, fault, None, Ruling(REDUCING, "ledger run"))


async def _rule(site: Site, fault: Fault, symbol: str | None, ruling: Ruling) -> None:
    """As an operator who sees errors and tries again: the servers may be down meanwhile."""
    for each in (ruling, Ruling()):
        while True:
            try:
                await set_ruling(site.client, symbol, each)
                break
            except RedisError:
                await asyncio.sleep(0.1)
        await asyncio.sleep(fault.share)


async def _kill_client(site: Site, fault: Fault) -> None:
    await _picked(fault, site.clients.all).kill_and_start_again()


ServerStrike = Callable[[Site, Fault, Node], Awaitable[None]]

SERVER_STRIKES: Final[Mapping[str, ServerStrike]] = {
    "F01 primary killed": _kill_primary,
    "F02 primary killed with its replica cut off": _kill_primary_cut_off,
    "F03 primary stopped past its replacement": _stop_primary_past_replacement,
    "F04 primary stopped for a moment": _stop_primary_for_a_moment,
    "F05 failover": _failover(),
    "F06 failover by force": _failover("FORCE"),
    "F06 takeover": _failover("TAKEOVER"),
    "F07 replica killed": _kill_replica,
    "F08 connections killed": _kill_connections,
    "F08 clients paused": _pause_clients,
    "F09 failover there and back": _fail_over_and_back,
    "F10 slots moved at once": _move_slots_and_back,
    "F11 F12 slot moved key by key": _move_slot_key_by_key,
}

STRIKES: Final[Mapping[str, Callable[[Site, Fault], Awaitable[None]]]] = {
    "F40 worker killed": _kill_worker,
    "F40 worker stopped": _stop_worker,
    "F40 worker told to end": _end_worker,
    "client killed": _kill_client,
    "symbol halted for a moment": _halt_symbol,
    "system reducing for a moment": _reduce_system,
}
