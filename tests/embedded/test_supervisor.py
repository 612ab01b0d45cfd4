"""A server that ends is replaced by its replica, started again, and nothing that WAIT confirmed is lost."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.waiting import eventually
from tradewind.embedded import EmbeddedCluster, EmbeddedError, Supervisor, supervisor
from tradewind.embedded.cluster import Node
from tradewind.embedded.survey import Admin, NodeReport, parse_cluster_nodes


@asynccontextmanager
async def supervised(cluster: EmbeddedCluster) -> AsyncIterator[list[str]]:
    events: list[str] = []
    task = asyncio.create_task(Supervisor(cluster, events.append).run())
    try:
        yield events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_killed_primary_is_replaced_and_returns_as_replica_with_the_confirmed_data(own_cluster):
    primary = await own_cluster.primary_of("key")
    async with Admin(primary.port) as admin:
        await admin.ask("SET", "key", "confirmed")
        assert int(await admin.ask("WAIT", 1, 1000)) == 1
    async with supervised(own_cluster) as events:
        await own_cluster.kill(primary)
        await own_cluster.wait_until_ready(20)
        roles = await own_cluster.roles()
        successor = await own_cluster.primary_of("key")
    assert roles[primary.port] == "replica"
    assert successor.port != primary.port
    assert any("took over" in event for event in events)
    async with Admin(successor.port) as admin:
        assert await admin.ask("GET", "key") == "confirmed"


async def test_a_killed_replica_just_comes_back(own_cluster):
    primary = await own_cluster.primary_of("key")
    (replica,) = await own_cluster.replicas_of(primary)
    async with supervised(own_cluster) as events:
        await own_cluster.kill(replica)
        async with asyncio.timeout(10):
            while not any("started again" in event for event in events):
                await asyncio.sleep(0.02)
        await own_cluster.wait_until_ready(20)
    assert (await own_cluster.primary_of("key")).port == primary.port
    assert not any("took over" in event for event in events)


def said(events: list[str], words: str) -> bool:
    return any(words in event for event in events)


async def write_confirmed(port: int, key: str) -> None:
    """A write that WAIT confirms, and that the primary's own disk never gets."""
    async with Admin(port) as admin:
        await admin.ask("CONFIG", "SET", "appendonly", "no")
        await admin.ask("SET", key, "confirmed")
        assert int(await admin.ask("WAIT", 1, 2000)) == 1


async def read(cluster: EmbeddedCluster, key: str) -> str | None:
    async with Admin((await cluster.primary_of(key)).port) as admin:
        return cast("str | None", await admin.ask("GET", key))


async def one_key_each(cluster: EmbeddedCluster) -> dict[int, tuple[Node, str]]:
    keys: dict[int, tuple[Node, str]] = {}
    for number in range(100):
        primary = await cluster.primary_of(f"key:{number}")
        keys.setdefault(primary.port, (primary, f"key:{number}"))
        if len(keys) == cluster.options.primaries:
            break
    return keys


async def test_two_primaries_killed_at_once_are_replaced_though_nobody_can_vote(own_cluster):
    killed = list((await one_key_each(own_cluster)).values())[:2]
    for primary, key in killed:
        await write_confirmed(primary.port, key)
    async with supervised(own_cluster) as events:
        await asyncio.gather(*(own_cluster.kill(primary) for primary, _ in killed))
        await eventually(lambda: sum("started again" in event for event in events) == 2, timeout_s=20)
        await own_cluster.wait_until_ready(30)
        roles = await own_cluster.roles()
    assert [roles[primary.port] for primary, _ in killed] == ["replica", "replica"]
    assert [await read(own_cluster, key) for _, key in killed] == ["confirmed", "confirmed"]
    assert sum("took over its slots" in event for event in events) == 2, events
    assert said(events, "without votes")


async def test_a_replica_that_stands_still_while_its_primary_dies_is_waited_for(own_cluster):
    primary = await own_cluster.primary_of("key")
    (replica,) = await own_cluster.replicas_of(primary)
    await write_confirmed(primary.port, "key")
    async with supervised(own_cluster) as events:
        await own_cluster.kill(replica, signal.SIGSTOP)
        await own_cluster.kill(primary)
        await eventually(lambda: said(events, "has ended"), timeout_s=10)
        await asyncio.sleep(4.5)  # two looks at a server that does not answer
        assert not said(events, "started again"), events
        await own_cluster.kill(replica, signal.SIGCONT)
        await eventually(lambda: said(events, "started again"), timeout_s=20)
        await own_cluster.wait_until_ready(30)
    assert (await own_cluster.primary_of("key")).port == replica.port
    assert await read(own_cluster, "key") == "confirmed"


class FakeCluster:
    """Two servers, the primary on port 1 and its replica on port 2, of which the primary has ended."""

    def __init__(self) -> None:
        self.nodes = [Node(index, index + 1, 0, Path(f"node-{index + 1}")) for index in range(2)]
        self.ended = [self.nodes[0]]
        self.reports = [NodeReport(1, "refused"), NodeReport(2, "timeout")]
        self.failures: list[Exception] = []

    async def ended_nodes(self) -> list[Node]:
        if self.failures:
            raise self.failures.pop()
        return list(self.ended)

    async def survey(self) -> list[NodeReport]:
        return self.reports

    async def restart(self, node: Node) -> Node:
        self.ended.remove(node)
        return node


def fake_supervised(fake: FakeCluster) -> Any:
    return supervised(cast(EmbeddedCluster, fake))


async def test_an_unexpected_error_is_said_once_and_the_watch_goes_on(monkeypatch):
    monkeypatch.setattr(supervisor, "PAUSE_AFTER_FAILURE_S", 0.01)
    fake = FakeCluster()
    fake.reports = []
    fake.ended = []
    fake.failures = [EmbeddedError("no guardian"), ValueError("odd"), ValueError("odd")]
    async with fake_supervised(fake) as events:
        await eventually(lambda: not fake.failures)
        fake.ended = [fake.nodes[0], fake.nodes[1]]
        await eventually(lambda: not fake.ended)
    assert events[:2] == [
        "the servers cannot be looked after: ValueError('odd'); trying again",
        "the servers cannot be looked after: no guardian; trying again",
    ]
    assert sum("started again" in event for event in events) == 2


async def test_one_server_that_cannot_be_brought_back_keeps_no_other_down(monkeypatch):
    monkeypatch.setattr(supervisor, "PAUSE_AFTER_FAILURE_S", 0.01)
    fake = FakeCluster()
    fake.ended = list(fake.nodes)
    restart = fake.restart

    async def restart_the_second(node: Node) -> Node:
        if node.port == 1:
            raise EmbeddedError("no room on the disk")
        return await restart(node)

    fake.restart = restart_the_second  # type: ignore[method-assign]
    async with fake_supervised(fake) as events:
        await eventually(lambda: fake.ended == [fake.nodes[0]])
        await asyncio.sleep(0.1)
    assert events.count("server on port 1: no room on the disk; trying again") == 1
    assert said(events, "server on port 2 started again")


async def test_an_event_handler_that_fails_ends_nothing(monkeypatch, caplog):
    fake = FakeCluster()
    fake.ended = list(fake.nodes)

    def fail(_event: str) -> None:
        raise BrokenPipeError("nobody reads")

    task = asyncio.create_task(Supervisor(cast(EmbeddedCluster, fake), fail).run())
    await eventually(lambda: not fake.ended)
    assert not task.done()
    assert "on_event failed for: server on port 1 has ended" in caplog.text
    fake.nodes = []
    await task


VIEW_OF_A_THIRD = """\
a 127.0.0.1:1@11 master,fail - 0 0 1 disconnected 0-16383
b 127.0.0.1:2@12 slave a 0 0 1 connected
c 127.0.0.1:3@13 myself,master - 0 0 2 connected
"""


@pytest.mark.parametrize("third_server", [False, True])
async def test_a_replica_that_stays_silent_is_given_up_and_that_is_said(monkeypatch, third_server):
    """Whether another server names it, or nobody answers who could."""
    monkeypatch.setattr(supervisor, "TAKEOVER_S_MAX", 0.5)
    fake = FakeCluster()
    if third_server:
        fake.reports.append(NodeReport(3, views=tuple(parse_cluster_nodes(VIEW_OF_A_THIRD))))
    async with fake_supervised(fake) as events:
        await asyncio.sleep(0.3)
        assert events == ["server on port 1 has ended"]
        await eventually(lambda: not fake.ended)
        await eventually(lambda: len(events) == 3)
    assert events[1:] == [
        "server on port 1: no replica has answered for 0.5 s; it starts again without a takeover, with what "
        "its own disk has",
        "server on port 1 started again",
    ]


async def test_a_replica_whose_process_has_ended_is_not_waited_for():
    fake = FakeCluster()
    fake.reports.append(NodeReport(3, views=tuple(parse_cluster_nodes(VIEW_OF_A_THIRD))))
    fake.ended = list(fake.nodes)
    fake.nodes.append(Node(2, 3, 0, Path("node-3")))
    async with fake_supervised(fake) as events:
        await eventually(lambda: not fake.ended)
    assert not said(events, "without a takeover")
