"""Replies that never come: no write runs twice, and every one is told as what it is."""

import asyncio
import contextlib
import random

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle, tally
from tests.support.proxy import FaultProxy, ProxiedCluster
from tests.support.waiting import eventually
from tradewind import DeadlineExceeded, OutcomeUnknown, RedisCluster

pytestmark = pytest.mark.faults


class Chaos:
    """Resets, lost replies and short silences at random, until it is told to stop."""

    def __init__(self, network: ProxiedCluster, seed: int) -> None:
        self._proxies = list(network.proxies.values())
        self._rng = random.Random(seed)
        for proxy in self._proxies:
            proxy.lose_reply = lambda _data: self._rng.random() < 0.02
            proxy.chunk_bytes = self._rng.choice([0, 0, 97, 1000])
            proxy.delay_s = self._rng.choice([0.0, 0.001, 0.003])

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(0.0, 0.05))
            proxy = self._rng.choice(self._proxies)
            if self._rng.random() < 0.6:
                proxy.reset_all()
            else:
                await self._silence(proxy)

    async def _silence(self, proxy: FaultProxy) -> None:
        """What is lost on a connection makes it useless: it ends afterwards."""
        direction = self._rng.choice(["silent_down", "silent_up"])
        setattr(proxy, direction, True)
        await asyncio.sleep(self._rng.uniform(0.01, 0.1))
        proxy.reset_all()
        setattr(proxy, direction, False)


async def _run(cluster: EmbeddedCluster, make_client: MakeClient, seed: int, count: int) -> None:
    async with ProxiedCluster([node.port for node in cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap, decode_responses=True)
        await client
        chaos = asyncio.create_task(Chaos(network, seed).run())
        prefix = f"lost:{seed}"
        results = await _in_waves([(client.execute_command, "INCR", f"{prefix}:{n}") for n in range(count)])
        reads = await _in_waves([(client.execute_command, "GET", f"{prefix}:{n}") for n in range(count)])
        repeated = client.with_options(idempotent=True)
        sets = await _in_waves([(repeated.execute_command, "SET", f"{prefix}:s:{n}", n) for n in range(200)])
        chaos.cancel()
        await asyncio.gather(chaos, return_exceptions=True)
        network.heal()
        assert network.resets > 5
        assert not [result for result in (*reads, *sets) if isinstance(result, OutcomeUnknown)]
        assert tally(reads) == {"answered": count}
        assert tally(sets) == {"answered": 200}
        await _check(client, prefix, results)
        await check_idle(client)


async def _in_waves(calls: list[tuple[object, ...]], wave: int = 50) -> list[object]:
    """So that the faults fall among them."""
    results: list[object] = []
    for first in range(0, len(calls), wave):
        part = [call[0](*call[1:]) for call in calls[first : first + wave]]  # type: ignore[operator]
        results += await asyncio.gather(*part, return_exceptions=True)
    return results


async def _check(client: RedisCluster, prefix: str, results: list[object]) -> None:
    values = await client.mget_nonatomic([f"{prefix}:{n}" for n in range(len(results))])
    assert {str(value) for value in values} <= {"None", "1"}, "some ran twice"
    for number, (result, value) in enumerate(zip(results, values, strict=True)):
        if result == 1:
            assert value == "1", f"{prefix}:{number} was acknowledged and is lost"
        elif not isinstance(result, OutcomeUnknown):
            assert value is None, f"{prefix}:{number} failed with {result!r} and ran"
    assert "OutcomeUnknown" in tally(results), "no reply was lost: the test proves nothing"


async def test_two_thousand_increments_through_resets_and_silence(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    await _run(clean_cluster, make_client, seed=1, count=2000)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 22))
async def test_increments_through_resets_and_silence_for_long(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, seed: int
) -> None:
    await _run(clean_cluster, make_client, seed, count=10_000)


async def test_a_half_open_connection_is_found_by_the_deadline(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap, socket_timeout=2.5)
        await client.set("half", 1)
        for proxy in network.proxies.values():
            proxy.silent_down = proxy.silent_up = True
        writes = [asyncio.create_task(client.incr("half")) for _ in range(5)]
        await asyncio.sleep(0.05)
        for proxy in network.proxies.values():
            proxy.heal()  # new connections work, those of before stay mute
            proxy.mute_open_ones()
        await eventually(lambda: _reads(client), timeout_s=1.5)  # over a second lane, while the first is mute
        assert not any(write.done() for write in writes)
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert tally(results) == {"OutcomeUnknown": 5}


async def _reads(client: RedisCluster) -> bool:
    with contextlib.suppress(DeadlineExceeded):
        return await client.with_options(timeout_s=0.2).get("half") == b"1"
    return False


async def test_one_byte_at_a_time_and_all_at_once(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap, decode_responses=True)
        values = {f"piece:{number}": "v" * number for number in range(200)}
        await client.mset_nonatomic(values)
        for chunk_bytes, gather_s in ((1, 0.0), (7, 0.0), (0, 0.02)):
            for proxy in network.proxies.values():
                proxy.chunk_bytes, proxy.gather_s = chunk_bytes, gather_s
            assert await asyncio.gather(*(client.get(key) for key in values)) == list(values.values())
        assert sum(node.connections_lost for node in client.stats().nodes) == 0
