"""Failovers of every kind under many callers: how long a shard is away, what the others do, what is lost."""

import asyncio
import signal
import statistics
import time
from dataclasses import dataclass, replace

import pytest

from tests.conftest import EmbeddedCluster
from tests.faults.conftest import NODE_TIMEOUT_S
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle
from tests.support.waiting import eventually
from tests.support.writers import Writers
from tradewind import RedisCluster
from tradewind.embedded.cluster import Node
from tradewind.embedded.survey import Admin

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

KINDS = ("killed", "forced", "taken over", "stopped", "planned")
BASELINE_S = 1.0
GAP_S_MAX = 20.0


@dataclass(frozen=True)
class Round:
    """One failover: seconds from the fault, and calls a second of the other shards before and during it."""

    kind: str
    promoted_s: float
    served_s: float
    rate_before: float
    rate_during: float

    def __str__(self) -> str:
        return (
            f"{self.kind}: promoted after {self.promoted_s:.2f} s, served after {self.served_s:.2f} s, "
            f"other shards {self.rate_before:.0f} calls/s before, {self.rate_during:.0f} meanwhile"
        )


class Failovers:
    """One client object with many callers, half of them durable, through one failover after another."""

    def __init__(self, cluster: EmbeddedCluster, client: RedisCluster, callers: int) -> None:
        self._cluster = cluster
        self._client = client
        keys = [f"failover:{number}" for number in range(callers)]
        self.durable = Writers(client.durable(), keys[: callers // 2])
        self.plain = Writers(client, keys[callers // 2 :])

    async def run(self, kinds: list[str]) -> list[Round]:
        rounds = []
        async with self.durable, self.plain:
            for kind in kinds:
                rounds.append(await self._round(kind))
                print(rounds[-1])
        await self.durable.check(self._client)
        await self.plain.check(self._client, may_lose=True)
        await check_idle(self._client)
        return rounds

    async def _round(self, kind: str) -> Round:
        victim = await self._cluster.primary_of(self.plain.keys[0])
        (replica,) = await self._cluster.replicas_of(victim)
        mine, others = self._by_shard(victim)
        before = await self._rate(others, BASELINE_S)
        begun_s, done = time.monotonic(), self._done(others)
        await self._inflict(kind, victim, replica)
        await eventually(lambda: _is_primary(replica), GAP_S_MAX)
        promoted_s = time.monotonic() - begun_s
        acknowledged = self._done(mine)
        await eventually(lambda: self._done(mine) > acknowledged, GAP_S_MAX)
        served_s = time.monotonic() - begun_s
        # A promotion may take no time at all: then the rate is looked at for a little longer.
        await asyncio.sleep(max(0.0, 0.5 - served_s))
        rate = (self._done(others) - done) / (time.monotonic() - begun_s)
        await self._make_whole(kind, victim)
        return Round(kind, promoted_s, served_s, before, rate)

    def _by_shard(self, victim: Node) -> tuple[list[str], list[str]]:
        mine, others = [], []
        for key in self.plain.keys:
            node = self._client.get_node_from_key(key)
            assert node is not None
            (mine if node.port == victim.port else others).append(key)
        return mine, others

    def _done(self, keys: list[str]) -> int:
        return sum(self.plain.acknowledged[key] for key in keys)

    async def _rate(self, keys: list[str], seconds: float) -> float:
        begun_s, done = time.monotonic(), self._done(keys)
        await asyncio.sleep(seconds)
        return (self._done(keys) - done) / (time.monotonic() - begun_s)

    async def _inflict(self, kind: str, victim: Node, replica: Node) -> None:
        if kind in ("killed", "stopped"):
            await self._cluster.kill(victim, signal.SIGKILL if kind == "killed" else signal.SIGSTOP)
            return
        how = {"forced": ("FORCE",), "taken over": ("TAKEOVER",), "planned": ()}[kind]
        async with Admin(replica.port) as admin:
            await admin.ask("CLUSTER", "FAILOVER", *how)

    async def _make_whole(self, kind: str, victim: Node) -> None:
        if kind == "killed":
            await self._cluster.restart(victim)
        await self._cluster.kill(victim, signal.SIGCONT)
        await self._cluster.wait_until_ready()
        acknowledged = self.durable.total
        await eventually(lambda: self.durable.total > acknowledged + len(self.durable.keys))


async def _is_primary(node: Node) -> bool:
    async with Admin(node.port) as admin:
        return bool((await admin.ask("ROLE"))[0] == "master")


def _check_times(rounds: list[Round], away_s_max: float) -> None:
    """From when the servers have agreed on a new primary; until then nobody can be served."""
    late = [str(one) for one in rounds if one.served_s > max(one.promoted_s, NODE_TIMEOUT_S) + away_s_max]
    assert not late, late


def _kept_share(rounds: list[Round]) -> float:
    """Over all rounds: in a single one, another process of the machine may take or give half of it."""
    return statistics.mean(one.rate_during for one in rounds) / statistics.mean(
        one.rate_before for one in rounds
    )


async def test_a_failover_under_five_hundred_callers(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    rounds = await Failovers(fragile, await client.initialize(), 500).run(["killed"])
    _check_times(rounds, away_s_max=2.0)
    assert _kept_share(rounds) > 0.5


@pytest.mark.parametrize("kind", ["killed", "stopped"])
async def test_a_promotion_is_noticed_without_a_refresh_that_is_due(
    fragile: EmbeddedCluster, make_client: MakeClient, kind: str
) -> None:
    """The replicas of a primary out of reach are asked: the limit of the refreshes holds nobody up."""
    client = await make_client(fragile.nodes[0].port, decode_responses=True).initialize()
    refresher = client._need_router()._refresher
    rounds = Failovers(fragile, client, 100)
    async with rounds.durable, rounds.plain:
        refresher._timeouts = replace(refresher._timeouts, refresh_interval_s=60.0)
        found = await rounds._round(kind)
        refresher._timeouts = replace(refresher._timeouts, refresh_interval_s=0.5)
    print(found)
    _check_times([found], away_s_max=2.0)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_fifty_failovers_under_two_thousand_callers(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    rounds = await Failovers(fragile, await client.initialize(), 2000).run([*KINDS] * 10)
    for kind in KINDS:
        served_s = [one.served_s for one in rounds if one.kind == kind]
        print(f"{kind}: served after {statistics.median(served_s):.2f} s, at most {max(served_s):.2f} s")
    print(f"the other shards kept {_kept_share(rounds):.0%} of their throughput")
    _check_times(rounds, away_s_max=1.0)
    assert _kept_share(rounds) >= 0.9
