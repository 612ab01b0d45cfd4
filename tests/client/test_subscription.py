"""Sharded pub/sub: what was published arrives, through resets, moving slots and clumsy handlers."""

import asyncio
from collections import Counter

import pytest
from redis.crc import key_slot

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.fake_server import FakeServer, array, bulk, integer
from tests.support.proxy import ProxiedCluster
from tests.support.waiting import eventually
from tradewind import ClientClosed, DeadlineExceeded, RedisCluster

CHANNELS = [f"channel:{number}" for number in range(60)]


class Inbox:
    """What has arrived."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []

    def __call__(self, channel: str, data: bytes) -> None:
        self.messages.append((channel, data))

    def count(self, data: bytes) -> int:
        return sum(message[1] == data for message in self.messages)


async def _publish(client: RedisCluster, channels: list[str], data: bytes) -> int:
    return sum(await asyncio.gather(*(client.execute_command("SPUBLISH", c, data) for c in channels)))


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
async def test_messages_arrive_once_in_order_undecoded(
    make_client: MakeClient, cluster: EmbeddedCluster, protocol: int, decode: bool
) -> None:
    client = make_client(cluster.nodes[0].port, protocol=protocol, decode_responses=decode)
    inbox = Inbox()
    subscription = await client.sharded_subscription(inbox)
    await subscription.subscribe(CHANNELS)
    assert subscription.confirmed == 60
    assert sum(node.dedicated for node in client.stats().nodes) == 3
    for number in range(20):
        assert await _publish(client, CHANNELS, b"\xff%d" % number) == 60
    await eventually(lambda: len(inbox.messages) == 1200)
    for channel in CHANNELS:
        mine = [data for name, data in inbox.messages if name == channel]
        assert mine == [b"\xff%d" % number for number in range(20)]
    assert repr(subscription) == "<ShardedSubscription channels=60 confirmed=60 connections=3>"


async def test_leaving_channels_gives_connections_back(client: RedisCluster) -> None:
    inbox = Inbox()
    subscription = await client.sharded_subscription(inbox)
    await subscription.subscribe(CHANNELS)
    subscription.unsubscribe(CHANNELS[1:])
    await eventually(lambda: sum(node.dedicated for node in client.stats().nodes) == 1)
    assert await _publish(client, CHANNELS, b"x") == 1
    await eventually(lambda: len(inbox.messages) == 1)
    subscription.unsubscribe(CHANNELS)
    await eventually(lambda: sum(node.dedicated for node in client.stats().nodes) == 0)
    await subscription.subscribe(CHANNELS[:2])
    assert await _publish(client, CHANNELS, b"y") == 2


async def test_a_handler_that_fails_stops_no_other_message(client: RedisCluster) -> None:
    failures: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: failures.append(context["message"])
    )
    heard: Counter[str] = Counter()

    def clumsy(channel: str, _data: bytes) -> None:
        heard[channel] += 1
        if heard[channel] == 1:
            raise RuntimeError("clumsy")

    subscription = await client.sharded_subscription(clumsy)
    await subscription.subscribe(["a"])
    for _ in range(5):
        await _publish(client, ["a"], b"x")
    await eventually(lambda: heard["a"] == 5)
    assert failures == ["on_message failed for channel a"]


async def test_it_comes_back_after_resets(make_client: MakeClient, cluster: EmbeddedCluster) -> None:
    async with ProxiedCluster([node.port for node in cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap)
        inbox = Inbox()
        subscription = await client.sharded_subscription(inbox)
        await subscription.subscribe(CHANNELS)
        for round_number in range(3):
            for proxy in network.proxies.values():
                proxy.reset_all()
            await eventually(lambda: subscription.confirmed < 60)
            await eventually(lambda: subscription.confirmed == 60)
            data = b"round %d" % round_number
            assert await _publish(client, CHANNELS, data) == 60
            await eventually(lambda data=data: inbox.count(data) == 60)
        assert sum(node.dedicated for node in client.stats().nodes) == 3


async def test_a_refused_channel_is_asked_for_again_and_harms_no_other(make_client: MakeClient) -> None:
    async with FakeServer() as server:

        def answer(request: list[bytes]) -> bytes | None:
            if request[0] != b"SSUBSCRIBE":
                return None
            if request[1] == b"moving" and server.count(b"SSUBSCRIBE") < 5:
                return b"-MOVED %d 127.0.0.1:%d\r\n" % (key_slot(b"moving"), server.port)
            return b">3\r\n" + bulk("ssubscribe") + bulk(request[1]) + integer(1)

        server.answer = answer
        client = make_client(server.port)
        subscription = await client.sharded_subscription(Inbox())
        await subscription.subscribe(["staying", "moving"])
        assert server.count(b"SSUBSCRIBE") >= 5
        assert [r[1] for r in server.requests if r[0] == b"SSUBSCRIBE"].count(b"staying") == 1
        assert sum(node.connections_lost for node in client.stats().nodes) == 0


async def test_what_is_never_confirmed_says_why(make_client: MakeClient) -> None:
    refusal = b"-NOPERM No permissions to access a channel\r\n"
    async with FakeServer(lambda request: refusal if request[0] == b"SSUBSCRIBE" else None) as server:
        client = make_client(server.port)
        subscription = await client.sharded_subscription(Inbox())
        with pytest.raises(
            DeadlineExceeded, match=r"2 of 2 channels not confirmed within 0\.3 s, .*No permissions"
        ):
            await subscription.subscribe(["a", "b"], timeout_s=0.3)
        assert server.count(b"SSUBSCRIBE") < 20


async def test_a_confirmation_of_resp2_is_an_array(make_client: MakeClient) -> None:
    async with FakeServer() as server:
        server.answer = lambda request: (
            array(bulk("ssubscribe"), bulk(request[1]), integer(1)) if request[0] == b"SSUBSCRIBE" else None
        )
        client = make_client(server.port, protocol=2)
        subscription = await client.sharded_subscription(Inbox())
        await subscription.subscribe(["a", "b"])
        assert subscription.confirmed == 2


async def test_closing_tells_who_waits_and_ends_it_for_good(make_client: MakeClient) -> None:
    async with FakeServer(lambda request: b"" if request[0] == b"SSUBSCRIBE" else None) as server:
        client = make_client(server.port)
        subscription = await client.sharded_subscription(Inbox())
        waiting = asyncio.create_task(subscription.subscribe(["a"]))
        await eventually(lambda: server.count(b"SSUBSCRIBE") == 1)
        await client.aclose()
        with pytest.raises(ClientClosed):
            await waiting
        with pytest.raises(ClientClosed):
            await subscription.subscribe(["a"])
        await subscription.aclose()
