"""What goes wrong in the client's own process: cancelled calls, a clock that jumps, forks, loops that end."""

import asyncio
import random
import signal
import time
from collections import Counter

import pytest

from tests.conftest import EmbeddedCluster
from tests.programs import output_of
from tests.support.announced import AnnouncedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle, keys_of_each_shard
from tradewind import DeadlineExceeded, OutcomeUnknown, RedisCluster

pytestmark = [pytest.mark.faults, pytest.mark.timeout(60)]

# -- cancellation --------------------------------------------------------------------------------------------

KEYS = 200
WAVE = 200  # a wave takes about as long as its last cancellation is away
CANCELLED_SHARE = 0.3
CANCEL_WITHIN_S = 0.003


class CancelledCalls:
    """Waves of calls of which three in ten are cancelled, over proxies that split, delay and reset."""

    def __init__(self, announced: AnnouncedCluster, client: RedisCluster, seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[object] = []
        self._network = announced.network
        self._client = client
        self._rng = random.Random(seed)

    async def run(self, count: int, waves_per_reset: int) -> None:
        for wave in range(count // WAVE):
            self._change_the_network()
            if wave % waves_per_reset == waves_per_reset - 1:
                self._reset_one_soon()
            await self._wave()

    def _change_the_network(self) -> None:
        for proxy in self._network.proxies.values():
            proxy.delay_s = self._rng.choice([0.0, 0.0005, 0.002])
            proxy.chunk_bytes = self._rng.choice([0, 1000, 4001])

    def _reset_one_soon(self) -> None:
        proxy = self._rng.choice(list(self._network.proxies.values()))
        asyncio.get_running_loop().call_later(self._rng.uniform(0.0, 0.01), proxy.reset_all)

    async def _wave(self) -> None:
        loop, rng = asyncio.get_running_loop(), self._rng
        tasks = [loop.create_task(self._call(rng.randrange(KEYS), rng.random())) for _ in range(WAVE)]
        for task in rng.sample(tasks, int(WAVE * CANCELLED_SHARE)):
            loop.call_later(rng.uniform(0.0, CANCEL_WITHIN_S), task.cancel)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            self.outcomes[type(result).__name__] += 1
            if isinstance(result, AssertionError):
                self.wrong.append(result)

    async def _call(self, number: int, kind: float) -> None:
        """Every key and every reply says whose it is."""
        key, text = f"{{{number}}}:cancelled", f"value of {number}"
        if kind < 0.6:
            assert await self._client.get(key) == text
        elif kind < 0.8:
            assert await self._client.set(key, text) is True
        elif kind < 0.9:
            assert await self._client.strlen(key) == len(text)
        else:
            assert await self._client.mget(key, f"{{{number}}}:none") == [text, None]


async def _cancelled_calls(announced: AnnouncedCluster, client: RedisCluster, count: int) -> None:
    await client.initialize()
    await asyncio.gather(*(client.set(f"{{{n}}}:cancelled", f"value of {n}") for n in range(KEYS)))
    calls = CancelledCalls(announced, client, seed=count)
    await calls.run(count, waves_per_reset=25)
    assert not calls.wrong, calls.wrong[:3]
    assert calls.outcomes["CancelledError"] > count * CANCELLED_SHARE / 4
    assert set(calls.outcomes) <= {"NoneType", "CancelledError", "OutcomeUnknown"}
    announced.network.heal()
    await check_idle(client)
    lost = sum(node.connections_lost for node in client.stats().nodes)
    print(f"{dict(calls.outcomes)}, {announced.network.resets} resets, {lost} connections lost")
    assert lost <= announced.network.resets
    assert max(client.stats().connections.values()) <= 2


async def test_cancelled_calls_swap_nothing_leak_nothing_and_cost_no_connection(
    announced: AnnouncedCluster, make_client: MakeClient
) -> None:
    await _cancelled_calls(announced, make_client(announced.port, decode_responses=True), 30_000)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_million_calls_three_in_ten_cancelled(
    announced: AnnouncedCluster, make_client: MakeClient
) -> None:
    await _cancelled_calls(announced, make_client(announced.port, decode_responses=True), 1_000_000)


# -- the clock -----------------------------------------------------------------------------------------------


async def test_a_jump_of_the_clock_changes_no_deadline(
    fragile: EmbeddedCluster, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the clock on the wall, a day ahead and a day back: deadlines go by another one."""
    client = make_client(fragile.nodes[0].port, decode_responses=True, socket_timeout=0.6)
    mine, other, _ = keys_of_each_shard(await client.initialize()).values()
    await asyncio.gather(client.set(mine, "v"), client.set(other, "v"))
    stopped = await fragile.primary_of(mine)
    await fragile.kill(stopped, signal.SIGSTOP)
    begun_s = time.monotonic()
    calls = asyncio.gather(client.get(mine), client.incr(f"{{{mine}}}:n"), return_exceptions=True)
    popper = asyncio.create_task(client.blpop([f"{{{other}}}:list"], 1))
    await asyncio.sleep(0.1)
    now = time.time
    for jump_s in (86_400.0, -86_400.0):
        monkeypatch.setattr(time, "time", lambda jump_s=jump_s: now() + jump_s)
        assert await client.get(other) == "v"
        await asyncio.sleep(0.1)
    assert [type(error) for error in await calls] == [DeadlineExceeded, OutcomeUnknown]
    assert 0.5 < time.monotonic() - begun_s < 1.6
    assert await popper is None
    assert 0.9 < time.monotonic() - begun_s < 3.0
    await fragile.kill(stopped, signal.SIGCONT)


# -- forks and loops -----------------------------------------------------------------------------------------

FORK = """
import asyncio, os, sys
from tradewind import RedisCluster

client = RedisCluster(host="127.0.0.1", port=int(sys.argv[1]), decode_responses=True)

async def in_the_child():
    await client.incr("{fork}:n")
    print("child", await client.get("{fork}"))
    await client.aclose()

async def in_the_parent():
    await client.set("{fork}", "v")
    heard = asyncio.Event()
    subscription = await client.sharded_subscription(lambda _channel, _data: heard.set())
    await subscription.subscribe(["{fork}:channel"])
    popper = asyncio.create_task(client.blpop(["{fork}:list"], 20))
    on_its_way = asyncio.create_task(client.incr("{fork}:n"))
    await asyncio.sleep(0)
    child = os.fork()
    if not child:
        asyncio.run(in_the_child())
        sys.stdout.flush()
        os._exit(0)
    await asyncio.to_thread(os.waitpid, child, 0)
    await on_its_way
    await client.incr("{fork}:n")
    await client.rpush("{fork}:list", "x")
    await client.spublish("{fork}:channel", "y")
    await heard.wait()
    print("parent", await client.get("{fork}"), await popper, "counted", await client.get("{fork}:n"))
    print("lost", sum(node.connections_lost for node in client.stats().nodes))
    await subscription.aclose()
    await client.aclose()

asyncio.run(in_the_parent())
"""


async def test_a_forked_child_has_connections_of_its_own_and_leaves_its_parents_alone(
    clean_cluster: EmbeddedCluster,
) -> None:
    printed = await asyncio.to_thread(output_of, "-c", FORK, str(clean_cluster.nodes[0].port))
    assert printed == "child v\nparent v ('{fork}:list', 'x') counted 3\nlost 0\n"


LEFT_OPEN = """
import asyncio, sys
from tradewind import RedisCluster

client = RedisCluster(host="127.0.0.1", port=int(sys.argv[1]))

async def use():
    print(await client.set("left", "open"))

asyncio.run(use())
try:
    asyncio.run(use())
except RuntimeError as error:
    print("RuntimeError")
"""


async def test_a_client_left_open_in_a_loop_that_has_ended_says_so_and_lets_the_program_end(
    clean_cluster: EmbeddedCluster,
) -> None:
    printed = await asyncio.to_thread(output_of, "-c", LEFT_OPEN, str(clean_cluster.nodes[0].port))
    assert printed == "True\nRuntimeError\n"
