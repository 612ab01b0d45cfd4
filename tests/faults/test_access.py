"""Users whose passwords and rights change while the client runs."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle, keys_of_each_shard, tally
from tests.support.waiting import eventually
from tradewind import RedisCluster
from tradewind.embedded.survey import Admin

pytestmark = [pytest.mark.faults, pytest.mark.timeout(60)]

REFUSED = "invalid username-password pair"  # the server's word: WRONGPASS
ALL_RIGHTS = ("on", "~*", "&*", "+@all")


class Wallet(CredentialProvider):
    """Asked at each connection; what it holds may be exchanged at any time."""

    def __init__(self, username: str, password: str) -> None:
        self.username, self.password = username, password

    def get_credentials(self) -> tuple[str, str]:
        return self.username, self.password

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.get_credentials()


async def _acl(cluster: EmbeddedCluster, *words: str) -> None:
    for node in cluster.nodes:
        async with Admin(node.port) as admin:
            await admin.ask("ACL", *words)


@pytest.fixture
async def guarded(fragile: EmbeddedCluster) -> AsyncIterator[EmbeddedCluster]:
    """With a user `worker`, who may do all."""
    await _acl(fragile, "SETUSER", "worker", "reset", *ALL_RIGHTS, ">one")
    yield fragile
    await _acl(fragile, "DELUSER", "worker", "successor")


async def _ready_on_all(client: RedisCluster) -> list[str]:
    keys = list(keys_of_each_shard(await client.initialize()).values())
    assert all(await asyncio.gather(*(client.set(key, "v") for key in keys)))
    return keys


def _dials(client: RedisCluster) -> int:
    return sum(node.dials for node in client.stats().nodes)


async def _serves(client: RedisCluster, keys: list[str]) -> bool:
    with contextlib.suppress(RedisConnectionError):
        return await asyncio.gather(*(client.get(key) for key in keys)) == ["v"] * len(keys)
    return False


@pytest.mark.parametrize("change", [("resetpass", ">two"), ("off",)], ids=["another password", "off"])
async def test_open_connections_outlive_a_change_of_the_user(
    guarded: EmbeddedCluster, make_client: MakeClient, change: tuple[str, ...]
) -> None:
    client = make_client(guarded.nodes[0].port, username="worker", password="one", decode_responses=True)
    keys = await _ready_on_all(client)
    dials = _dials(client)
    await _acl(guarded, "SETUSER", "worker", *change)
    assert await _serves(client, keys)
    assert _dials(client) == dials


async def test_a_user_who_is_gone_is_the_reason_and_the_next_credentials_are_taken_up(
    guarded: EmbeddedCluster, make_client: MakeClient
) -> None:
    wallet = Wallet("worker", "one")
    client = make_client(
        guarded.nodes[0].port, credential_provider=wallet, decode_responses=True, socket_timeout=0.6
    )
    keys = await _ready_on_all(client)
    await _acl(guarded, "DELUSER", "worker")  # which ends the user's connections
    dials, begun_s = _dials(client), time.monotonic()
    calls = [client.get(key) for key in keys for _ in range(100)]
    told = await asyncio.gather(*calls, return_exceptions=True)
    assert tally(told) == {"NodeUnavailable": 300}
    assert all(REFUSED in str(error) for error in told)
    assert time.monotonic() - begun_s < 2.0
    assert _dials(client) - dials < 60, "no storm"

    await _acl(guarded, "SETUSER", "successor", *ALL_RIGHTS, ">two")
    wallet.username, wallet.password = "successor", "two"
    await eventually(lambda: _serves(client, keys))
    await check_idle(client)


async def test_a_right_that_is_taken_away_is_told_to_its_callers_at_once(
    guarded: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(guarded.nodes[0].port, username="worker", password="one", decode_responses=True)
    keys = await _ready_on_all(client)
    await _acl(guarded, "SETUSER", "worker", "-set")
    for write in (client.set(keys[0], "w"), client.durable().set(keys[0], "w")):
        with pytest.raises(NoPermissionError):
            await write
    assert await _serves(client, keys)
    await _acl(guarded, "SETUSER", "worker", "+set")
    assert await client.set(keys[0], "w")
    assert client.stats().retries == 0
    assert sum(node.connections_lost for node in client.stats().nodes) == 0


async def test_a_wrong_password_stops_no_one_else(guarded: EmbeddedCluster, make_client: MakeClient) -> None:
    """A client of another user on the same servers, while one cannot get in."""
    good = make_client(guarded.nodes[0].port, username="worker", password="one", decode_responses=True)
    keys = await _ready_on_all(good)
    bad = make_client(guarded.nodes[0].port, username="worker", password="two", socket_connect_timeout=0.5)
    with pytest.raises(RedisConnectionError, match=REFUSED):
        await bad
    assert await _serves(good, keys)
