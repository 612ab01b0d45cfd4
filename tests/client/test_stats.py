"""What the client says about itself: counts, times, and the commands that were slow."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import keys_of_each_shard
from tests.support.fake_server import FakeServer, bulk
from tests.support.proxy import ProxiedCluster
from tests.support.waiting import eventually
from tradewind import DeadlineExceeded, RedisCluster
from tradewind.client.histogram import SUMMARY_BOUNDS_S, LatencyHistogram
from tradewind.client.meter import SLOW_KEPT_MAX, SlowLog
from tradewind.client.stats import NodeStats


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer(lambda request: bulk("v") if request[0] == b"GET" else None) as server:
        yield server


def only_node(client: RedisCluster) -> NodeStats:
    (node,) = client.stats().nodes
    return node


async def test_replies_are_timed_for_each_node(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    network = ProxiedCluster([node.port for node in clean_cluster.nodes])
    async with network:
        client = make_client(network.port, address_remap=network.address_remap)
        await client.initialize()
        keys = keys_of_each_shard(client)
        slow = next(iter(keys))
        network.on_port(int(slow.rpartition(":")[2])).delay_s = 0.2
        for key in keys.values():
            for _ in range(5):
                await client.incr(key)
        for node in client.stats().nodes:
            if node.name in keys:
                assert node.replies.count >= 5
                assert (node.replies.p50_ms >= 200) is (node.name == slow)
                assert sum(node.replies.buckets) == node.replies.count
        await client.aclose()


async def test_a_summary_counts_in_the_buckets_that_it_names() -> None:
    histogram = LatencyHistogram()
    seconds = [2e-5, 3.1e-5, 3.2e-5, 6.3e-5, 0.5, 0.6, 3600.0]
    for value in seconds:
        histogram.record(value)
    summary = histogram.summary()
    bounds = [0.0, *SUMMARY_BOUNDS_S, float("inf")]
    expected = [sum(below <= value < above for value in seconds) for below, above in pairwise(bounds)]
    assert list(summary.buckets) == expected
    assert summary.count == len(seconds)
    assert summary.sum_s == pytest.approx(sum(seconds))


async def test_the_line_is_timed_and_weighed(server: FakeServer, make_client: MakeClient) -> None:
    client = make_client(server.port, in_flight_max=1)
    await client.initialize()
    calls = [asyncio.create_task(client.set("key", "v")) for _ in range(50)]
    await asyncio.sleep(0)
    node = only_node(client)
    assert node.waiting == 49
    assert node.waiting_bytes == 49 * len(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$1\r\nv\r\n")
    await asyncio.gather(*calls)
    node = only_node(client)
    assert node.waiting_bytes == 0
    assert node.line.count >= 49
    assert node.waits >= 49


async def test_durable_batches_are_timed(clean_cluster: EmbeddedCluster, make_client: MakeClient) -> None:
    client = make_client(clean_cluster.nodes[0].port)
    await client.durable().incr("key")
    assert sum(node.durable.count for node in client.stats().nodes) == 1


async def test_redirects_and_reconnects_are_the_nodes(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(clean_cluster.nodes[0].port)
    await client.initialize()
    wrong_key, key, *_ = keys_of_each_shard(client).values()
    router = client._router
    assert router is not None
    slot, wrong = client.keyslot(key), router.nodes.owners[client.keyslot(wrong_key)]
    router.nodes.owners[slot] = wrong
    await client.set(key, 1)
    await client.execute_command("CLIENT KILL", "TYPE", "normal", "SKIPME", "no", target_nodes="primaries")
    await asyncio.gather(*(client.get(key) for key in keys_of_each_shard(client).values()))
    by_name = {node.name: node for node in client.stats().nodes}
    assert wrong is not None
    assert {name for name, node in by_name.items() if node.redirects} == {wrong.name}
    assert sum(node.reconnects for node in by_name.values()) == 3
    assert sum(node.connections_lost for node in by_name.values()) == 3


# -- slow commands -----------------------------------------------------------------------------------------


async def test_a_slow_command_is_noted_with_the_server_as_the_reason(
    server: FakeServer, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client(server.port, slow_command_s=0.1)
    assert await client.get("key") == b"v"
    assert client.stats().slow_commands == ()

    server.think_s = 0.2
    await client.set("secret-key", "secret-value")
    (slow,) = client.stats().slow_commands
    assert (slow.name, slow.node, slow.answered) == ("SET", f"127.0.0.1:{server.port}", True)
    assert slow.sent_s >= 0.19
    assert slow.waiting_s < 0.1
    assert slow.stalled_s == 0
    (record,) = [record for record in caplog.records if record.name == "tradewind.client.meter"]
    assert record.levelno == logging.WARNING
    assert "slow command: SET at 127.0.0.1" in record.getMessage()
    assert "secret" not in caplog.text
    assert "secret" not in repr(client.stats())


async def test_a_slow_command_is_noted_with_the_line_as_the_reason(
    server: FakeServer, make_client: MakeClient
) -> None:
    client = make_client(server.port, slow_command_s=0.3, in_flight_max=1)
    await client.initialize()
    server.think_s = 0.2
    await asyncio.gather(*(client.set("key", "v") for _ in range(2)))
    (slow,) = client.stats().slow_commands
    assert slow.waiting_s >= 0.19
    assert slow.sent_s >= 0.19


async def test_a_slow_command_is_noted_with_this_process_as_the_reason(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(clean_cluster.nodes[0].port, slow_command_s=0.3)
    await client.set("key", 1)
    call = asyncio.create_task(client.get("key"))
    await asyncio.sleep(0)
    time.sleep(0.6)  # noqa: ASYNC251  # that is the fault
    await call
    (slow,) = client.stats().slow_commands
    assert slow.stalled_s >= 0.4
    assert "the event loop stalled for" in str(slow)
    await client.with_options(timeout_s=0.5).get("key")
    await eventually(lambda: client.stats().loop_stalls == 1)
    assert client.stats().loop_stalled_s >= 0.4


async def test_a_command_that_is_given_up_is_noted(server: FakeServer, make_client: MakeClient) -> None:
    client = make_client(server.port, slow_command_s=0.1)
    await client.initialize()
    server.answer = lambda request: b"" if request[0] == b"GET" else None
    with pytest.raises(DeadlineExceeded):
        await client.with_options(timeout_s=0.2).get("key")
    (slow,) = client.stats().slow_commands
    assert not slow.answered
    assert str(slow).endswith(", not answered")


async def test_slow_commands_are_kept_and_logged_within_bounds(
    server: FakeServer, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client(server.port, slow_command_s=0.0)
    for _ in range(SLOW_KEPT_MAX + 50):
        await client.get("key")
    stats = client.stats()
    assert stats.slow >= SLOW_KEPT_MAX + 50
    assert len(stats.slow_commands) == SLOW_KEPT_MAX
    records = [record for record in caplog.records if record.name == "tradewind.client.meter"]
    assert 1 <= len(records) < 10


def test_what_was_not_logged_is_counted_in_the_next_record(caplog: pytest.LogCaptureFixture) -> None:
    from tradewind.client.command import pack
    from tradewind.client.lane import Command

    log = SlowLog(0.1, lambda _begun_s, _now_s: 0.0)
    command = Command("GET", pack(("GET", "key")), None, 0, True, 0.0, 9.0)  # type: ignore[arg-type]
    for now_s in (1.0, 1.1, 1.2, 2.5):
        log.note("node:1", command, 0.5, now_s, answered=True)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert messages[1].endswith("(2 more since the last record)")


# -- from another thread -----------------------------------------------------------------------------------


async def test_stats_may_be_read_in_another_thread_meanwhile(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(clean_cluster.nodes[0].port, in_flight_max=8)
    await client.initialize()
    stopping, failures, reads = threading.Event(), [], []

    def read() -> None:
        while not stopping.is_set():
            try:
                reads.append(client.stats().commands)
            except Exception as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        await asyncio.gather(*(client.incr(f"key:{number}") for number in range(200)))
    stopping.set()
    await asyncio.to_thread(reader.join)
    assert not failures
    assert reads[-1] > reads[0]
