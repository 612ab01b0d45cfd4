"""Messages whose replies are left out, between the commands of callers who want theirs."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.waiting import eventually
from tradewind import RedisCluster
from tradewind.embedded.survey import Admin

CHANNEL = "news"


@pytest.fixture
async def restricted(cluster: EmbeddedCluster) -> AsyncIterator[dict[str, str]]:
    """A user who may not switch replies off, as some services allow only what they know."""
    rules = ("on", ">secret", "~*", "&*", "+@all", "-client|reply")
    for node in cluster.nodes:
        async with Admin(node.port) as admin:
            await admin.ask("ACL", "SETUSER", "restricted", *rules)
    yield {"username": "restricted", "password": "secret"}
    for node in cluster.nodes:
        async with Admin(node.port) as admin:
            await admin.ask("ACL", "DELUSER", "restricted")


async def publish_between_reads(client: RedisCluster) -> None:
    """Each message goes out while replies are owed on the same connection."""
    messages: list[bytes] = []
    subscription = await client.sharded_subscription(lambda _channel, data: messages.append(data))
    await subscription.subscribe([CHANNEL])
    for number in range(20):
        await client.set(f"{{{CHANNEL}}}:{number}", number)
    for number in range(20):
        reads = [asyncio.ensure_future(client.get(f"{{{CHANNEL}}}:{n}")) for n in range(20)]
        await asyncio.sleep(0)
        client.send_unanswered("SPUBLISH", CHANNEL, str(number))
        assert [int(reply) for reply in await asyncio.gather(*reads)] == list(range(20))
    await eventually(lambda: len(messages) == 20)
    assert int(await client.get(f"{{{CHANNEL}}}:7")) == 7
    assert sum(node.connections_lost for node in client.stats().nodes) == 0


async def test_messages_without_replies_shift_no_reply(client: RedisCluster) -> None:
    await publish_between_reads(client)


async def test_a_connection_is_asked_once_whether_replies_may_be_left_out(client: RedisCluster) -> None:
    await client.get(f"{{{CHANNEL}}}:k")
    client.send_unanswered("SPUBLISH", CHANNEL, "asks, and goes by post")
    await client.get(f"{{{CHANNEL}}}:k")  # answered behind the question
    counted = client.stats().commands
    client.send_unanswered("SPUBLISH", CHANNEL, "goes without a reply")
    assert client.stats().commands == counted


async def test_a_user_who_may_not_leave_replies_out_gets_no_reply_of_others(
    make_client: MakeClient, cluster: EmbeddedCluster, restricted: dict[str, str]
) -> None:
    await publish_between_reads(make_client(cluster.nodes[0].port, **restricted))
