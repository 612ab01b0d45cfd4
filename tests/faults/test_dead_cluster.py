"""No server answers and the service goes on offering its load: all are told in time, and nothing grows."""

import asyncio
import gc
import signal
import time
from collections import Counter

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle, keys_of_each_shard
from tests.support.memory import resident_bytes
from tests.support.waiting import eventually
from tradewind import RedisCluster

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

DEADLINE_S = 0.5
CALLS_PER_S = 3000
TURN_S = 0.01
LATE_S = 1.0  # a deadline is looked at ten times a second; the rest is for what else this machine does


class OfferedLoad:
    """So many calls a second, whatever becomes of them: reads, writes, durable writes, of every shard."""

    def __init__(self, client: RedisCluster, keys: list[str]) -> None:
        self.outcomes: Counter[str] = Counter()
        self.longest_s = 0.0
        self.longest_pause_s = 0.0  # of the loop: garbage is collected, or the machine is busy
        self._calls = [
            call for key in keys for call in ((client, "GET", key), (client, "INCR", key),
                                              (client.durable(), "INCR", f"{{{key}}}:durable"))
        ]  # fmt: skip
        self._tasks: set[asyncio.Task[None]] = set()
        self.offered = 0

    @property
    def open(self) -> int:
        """Calls whose callers have not been told anything yet."""
        return len(self._tasks)

    async def offer(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        begun_s = time.monotonic()
        first = self.offered
        while (passed_s := time.monotonic() - begun_s) < seconds:
            for _ in range(int(passed_s * CALLS_PER_S) - (self.offered - first)):
                client, *args = self._calls[self.offered % len(self._calls)]
                self.offered += 1
                task = loop.create_task(self._call(client, *args))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            slept_s = time.monotonic()
            await asyncio.sleep(TURN_S)
            self.longest_pause_s = max(self.longest_pause_s, time.monotonic() - slept_s)

    async def _call(self, client: RedisCluster, *args: str) -> None:
        begun_s = time.monotonic()
        try:
            await client.execute_command(*args)
        except Exception as error:
            self.outcomes[type(error).__name__] += 1
        else:
            self.outcomes["answered"] += 1
        self.longest_s = max(self.longest_s, time.monotonic() - begun_s)

    async def all_told(self) -> None:
        await eventually(lambda: not self.open)


async def _dead_cluster(
    cluster: EmbeddedCluster, make_client: MakeClient, how: int, settling_s: float, seconds: float
) -> float:
    """Returns by how much memory has grown from when it had settled, as a share."""
    client = make_client(cluster.nodes[0].port, decode_responses=True, socket_timeout=DEADLINE_S)
    load = OfferedLoad(client, list(keys_of_each_shard(await client.initialize()).values()))
    await load.offer(0.5)
    await load.all_told()
    assert set(load.outcomes) == {"answered"}
    for node in cluster.nodes:
        await cluster.kill(node, how)
    await load.offer(settling_s)
    gc.collect()
    settled_bytes = resident_bytes()
    await load.offer(seconds)
    gc.collect()
    grown = resident_bytes() / settled_bytes - 1
    await load.all_told()
    await check_idle(client)
    dials = sum(node.dials for node in client.stats().nodes)
    print(
        f"{load.offered} calls, {dict(load.outcomes)}, told after {load.longest_s:.2f} s at most "
        f"with a loop that stood still for {load.longest_pause_s:.2f} s at most, "
        f"memory {grown:+.1%} of {settled_bytes / 1e6:.0f} MB, {dials} dials"
    )
    assert load.longest_s < DEADLINE_S + LATE_S + 2 * load.longest_pause_s
    assert dials < 6 * 10 * (settling_s + seconds + 10)
    await _revive(cluster)
    await _serves_again(client, load)
    return grown


async def _revive(cluster: EmbeddedCluster) -> None:
    for node in cluster.nodes:
        await cluster.kill(node, signal.SIGCONT)
    for node in await cluster.ended_nodes():
        await cluster.restart(node)
    await cluster.wait_until_ready()


async def _serves_again(client: RedisCluster, load: OfferedLoad) -> None:
    """The same client, and all that it is asked."""

    async def answers_everything() -> bool:
        load.outcomes.clear()
        await load.offer(0.1)
        await load.all_told()
        return set(load.outcomes) == {"answered"}

    await eventually(answers_everything, timeout_s=15)


KINDS = pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["ended", "silent"])


@KINDS
async def test_a_dead_cluster_under_load_is_told_in_time_and_costs_no_memory(
    fragile: EmbeddedCluster, make_client: MakeClient, how: int
) -> None:
    assert await _dead_cluster(fragile, make_client, how, settling_s=1.0, seconds=1.5) < 0.2


@pytest.mark.soak
@pytest.mark.timeout(600)
@KINDS
async def test_a_cluster_that_is_dead_for_a_minute(
    fragile: EmbeddedCluster, make_client: MakeClient, how: int
) -> None:
    assert await _dead_cluster(fragile, make_client, how, settling_s=10, seconds=60) < 0.05
