"""The table of the README: one INCR whose reply is lost, sent by redis-py and by Tradewind.

A proxy lets the INCR through to the server and loses the reply: it resets the connection, or is silent for
half of the caller's deadline. What the server counted is asked without the proxy.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

import tradewind
from tests.support.proxy import FaultProxy, ProxiedCluster
from tradewind import OutcomeUnknown
from tradewind.embedded import EmbeddedCluster

KEY = "account:7"
DEADLINE_S = 1.0
REPLY = b":1\r\n"

Loss = Literal["reset", "silent"]


@pytest.fixture
async def proxies(cluster: EmbeddedCluster) -> AsyncIterator[ProxiedCluster]:
    async with ProxiedCluster(port for _, port in cluster.startup_nodes) as proxies:
        yield proxies


def lose_one_reply(proxies: ProxiedCluster, proxy: FaultProxy, loss: Loss) -> None:
    """The reply to the INCR, on whichever proxy it comes."""

    def is_reset(data: bytes) -> bool:
        if not data.endswith(REPLY):
            return False
        proxies.heal()
        proxy.silent_down = loss == "silent"
        asyncio.get_running_loop().call_later(DEADLINE_S / 2, proxies.heal)
        return loss == "reset"

    proxy.lose_reply = is_reset


async def told_and_counted(
    kind: type[Any], loss: Loss, cluster: EmbeddedCluster, proxies: ProxiedCluster
) -> tuple[object, int]:
    """What the caller is told of its INCR, and what the server counted."""
    async with (
        redis.asyncio.RedisCluster.from_url(cluster.url) as direct,
        kind(
            host="127.0.0.1",
            port=proxies.port,
            socket_timeout=DEADLINE_S,
            address_remap=proxies.address_remap,
        ) as client,
    ):
        await direct.delete(KEY)
        await client.get(KEY)
        owner = direct.get_node_from_key(KEY)
        assert owner is not None
        lose_one_reply(proxies, proxies.proxies[owner.port], loss)
        try:
            told: object = await client.incr(KEY)
        except (RedisConnectionError, RedisTimeoutError) as error:
            told = error
        return told, int(await direct.get(KEY))


@pytest.mark.parametrize("loss", ["reset", "silent"])
async def test_redis_py_counts_twice_and_says_nothing(
    loss: Loss, cluster: EmbeddedCluster, proxies: ProxiedCluster
) -> None:
    assert await told_and_counted(redis.asyncio.RedisCluster, loss, cluster, proxies) == (2, 2)


@pytest.mark.parametrize("loss", ["reset", "silent"])
async def test_tradewind_counts_once_and_says_so(
    loss: Loss, cluster: EmbeddedCluster, proxies: ProxiedCluster
) -> None:
    told, counted = await told_and_counted(tradewind.RedisCluster, loss, cluster, proxies)
    assert isinstance(told, OutcomeUnknown)
    assert counted == 1
