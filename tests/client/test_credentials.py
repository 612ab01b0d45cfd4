"""Credentials: providers of all kinds, and new ones for connections that are open."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.auth.token import SimpleToken
from redis.credentials import CredentialProvider, StreamingCredentialProvider
from redis.event import AfterAsyncClusterInstantiationEvent, EventDispatcher, EventListenerInterface
from redis.exceptions import AuthenticationError, NoPermissionError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.fake_server import FakeServer, bulk
from tests.support.waiting import eventually
from tradewind import RedisCluster
from tradewind.embedded.survey import Admin

USERS = {"ann": "first", "ben": "second"}


async def ask_all(cluster: EmbeddedCluster, *words: str) -> list[Any]:
    replies = []
    for node in cluster.nodes:
        async with Admin(node.port) as admin:
            replies.append(await admin.ask(*words))
    return replies


@pytest.fixture
async def guarded(clean_cluster: EmbeddedCluster) -> AsyncIterator[EmbeddedCluster]:
    """Two users who may do everything; who names nobody may still administrate."""
    for name, password in USERS.items():
        await ask_all(clean_cluster, "ACL", "SETUSER", name, "on", f">{password}", "~*", "&*", "+@all")
    yield clean_cluster
    await ask_all(clean_cluster, "ACL", "DELUSER", *USERS)


async def who(client: RedisCluster) -> str:
    return str(await client.execute_command("ACL WHOAMI", target_nodes=client.get_default_node()))


class Plain(CredentialProvider):
    def get_credentials(self) -> tuple[str, str]:
        return "ann", USERS["ann"]


class Awaited(CredentialProvider):
    """Takes its time, as one that asks somebody by network."""

    async def get_credentials_async(self) -> tuple[str, str]:
        await asyncio.sleep(0)
        return "ben", USERS["ben"]


class Stream(StreamingCredentialProvider):
    """Tells who listens what is valid from now on."""

    def __init__(self, name: str = "ann") -> None:
        self.name = name
        self.callbacks: list[Callable[[Any], Any]] = []
        self.asked = 0

    async def get_credentials_async(self) -> tuple[str, str]:
        self.asked += 1
        return self.name, USERS[self.name]

    def on_next(self, callback: Callable[[Any], Any]) -> None:
        self.callbacks.append(callback)

    def on_error(self, callback: Callable[[Exception], Any]) -> None:
        pass

    def is_streaming(self) -> bool:
        return True

    async def switch(self, name: str, password: str | None = None) -> None:
        self.name = name
        token = SimpleToken(password or USERS[name], -1, 0, {"oid": name})
        for callback in self.callbacks:
            await callback(token)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "default"),
        ({"username": "ann", "password": "first"}, "ann"),
        ({"credential_provider": Plain()}, "ann"),
        ({"credential_provider": Awaited()}, "ben"),
    ],
    ids=["nobody", "password", "plain", "awaited"],
)
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.filterwarnings("ignore")
async def test_who_the_client_is(
    guarded: EmbeddedCluster, make_client: MakeClient, options: dict[str, Any], name: str, protocol: int
) -> None:
    client = make_client(guarded.nodes[0].port, decode_responses=True, protocol=protocol, **options)
    await client.initialize()
    assert await who(client) == name


async def test_a_url_names_a_user(guarded: EmbeddedCluster) -> None:
    url = f"redis://ann:first@127.0.0.1:{guarded.nodes[0].port}"
    async with RedisCluster.from_url(url, decode_responses=True) as client:
        assert await who(client) == "ann"


@pytest.mark.parametrize("protocol", [2, 3])
async def test_open_connections_take_new_credentials_in_line_and_drop_nothing(
    guarded: EmbeddedCluster, make_client: MakeClient, protocol: int
) -> None:
    stream = Stream()
    port = guarded.nodes[0].port
    client = make_client(port, decode_responses=True, protocol=protocol, credential_provider=stream)
    received: list[bytes] = []
    subscription = await client.sharded_subscription(lambda _channel, data: received.append(data))
    await subscription.subscribe(["news"])
    blocked = asyncio.create_task(client.blpop(["queue"], 5))
    await asyncio.gather(*(client.incr(f"key:{number}") for number in range(100)))
    before = client.stats()

    calls = [asyncio.create_task(client.incr(f"key:{number}")) for number in range(100)]
    await stream.switch("ben")
    assert await asyncio.gather(*calls) == [2] * 100
    assert await who(client) == "ben"
    await client.execute_command("SPUBLISH", "news", "still here")
    await eventually(lambda: received == [b"still here"])
    await client.rpush("queue", "late")
    assert await blocked == ["queue", "late"] or await blocked == ("queue", "late")
    after = client.stats()
    assert [node.connections_lost for node in after.nodes] == [node.connections_lost for node in before.nodes]
    assert not after.errors
    assert {entry["user"] for entry in await own_connections(client, protocol)} == {"ben"}
    await subscription.aclose()


async def own_connections(client: RedisCluster, protocol: int) -> list[dict[str, Any]]:
    """As the servers see them. With RESP2 a subscription's connection stays who it was until it ends."""
    replies = await client.client_list(target_nodes=RedisCluster.PRIMARIES)
    entries = [entry for reply in replies.values() for entry in reply if entry["lib-name"] == "tradewind"]
    return [entry for entry in entries if protocol == 3 or entry["ssub"] == "0"]


async def test_the_next_connection_asks_the_provider(
    guarded: EmbeddedCluster, make_client: MakeClient
) -> None:
    stream = Stream()
    client = make_client(guarded.nodes[0].port, decode_responses=True, credential_provider=stream)
    await client.set("key", 1)
    await stream.switch("ben")
    await ask_all(guarded, "CLIENT", "KILL", "TYPE", "normal")
    assert await client.get("key") == "1"
    assert await who(client) == "ben"


async def test_credentials_may_come_from_another_thread(
    guarded: EmbeddedCluster, make_client: MakeClient
) -> None:
    stream = Stream()
    client = make_client(guarded.nodes[0].port, decode_responses=True, credential_provider=stream)
    await client.set("key", 1)
    thread = threading.Thread(target=lambda: asyncio.run(stream.switch("ben")))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert await who(client) == "ben"


async def test_credentials_that_are_refused_are_counted_and_the_former_ones_stay(
    guarded: EmbeddedCluster, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream()
    client = make_client(guarded.nodes[0].port, decode_responses=True, credential_provider=stream)
    await client.set("key", 1)
    await stream.switch("ben", "wrong")
    assert await who(client) == "ann"
    await eventually(lambda: client.stats().errors.get(AuthenticationError.__name__, 0) > 0)
    assert "new credentials refused, going on with the former ones" in caplog.text


async def test_a_connection_that_was_being_made_when_credentials_changed_takes_the_new_ones(
    make_client: MakeClient,
) -> None:
    stream = Stream()
    async with FakeServer(lambda request: bulk("v") if request[0] == b"GET" else None) as server:
        client = make_client(server.port, credential_provider=stream)
        assert await client.get("key") == b"v"
        server.drop_all()
        await eventually(lambda: not client.stats().connections[f"127.0.0.1:{server.port}"])
        handshakes = server.count(b"HELLO")
        reading = asyncio.create_task(client.get("key"))
        await eventually(lambda: stream.asked == handshakes + 1)
        await stream.switch("ben")
        assert await reading == b"v"
        await eventually(lambda: [b"AUTH", b"ben", b"second"] in server.requests)


async def test_a_dispatcher_of_ones_own_is_told_of_the_client(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    class Listener(EventListenerInterface):
        events: list[object] = []  # noqa: RUF012  # of this test alone

        def listen(self, event: object) -> None:
            self.events.append(event)

    dispatcher = EventDispatcher({AfterAsyncClusterInstantiationEvent: [Listener()]})
    client = make_client(clean_cluster.nodes[0].port, event_dispatcher=dispatcher)
    await client.initialize()
    await client.aclose()
    await client.initialize()
    assert len(Listener.events) == 1


async def test_what_a_user_may_not_do_is_told_at_once(
    guarded: EmbeddedCluster, make_client: MakeClient
) -> None:
    await ask_all(guarded, "ACL", "SETUSER", "ann", "-incr")
    client = make_client(guarded.nodes[0].port, username="ann", password="first")
    with pytest.raises(NoPermissionError):
        await client.execute_command("INCR", "key")
    assert client.stats().retries == 0


async def test_a_right_to_read_from_replicas_that_is_given_later_is_used(
    guarded: EmbeddedCluster, make_client: MakeClient
) -> None:
    await ask_all(guarded, "ACL", "SETUSER", "ann", "-readonly")
    port = guarded.nodes[0].port
    client = make_client(port, username="ann", password="first", read_from="prefer_replica")
    await client.initialize()
    await eventually(lambda: client.stats().errors.get("NoPermissionError", 0) >= 3)  # each replica's
    assert await client.get("key") is None
    assert client.stats().replica_reads == 0
    await ask_all(guarded, "ACL", "SETUSER", "ann", "+readonly")
    client._need_router().refresh_soon()

    async def is_read_from_a_replica() -> bool:
        await client.get("key")
        return client.stats().replica_reads > 0

    await eventually(is_read_from_a_replica)
