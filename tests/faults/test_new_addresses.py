"""Every address that the client has learnt is dead: it finds the cluster again by what it was given."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle, keys_of_each_shard
from tests.support.proxy import HOST, FaultProxy
from tests.support.waiting import eventually
from tests.support.writers import Writers
from tradewind import RedisCluster
from tradewind.embedded.ports import free_ports

pytestmark = [pytest.mark.faults, pytest.mark.timeout(90)]

NAME = "cluster.tradewind.test"
OLD_HOST, NEW_HOST = "127.0.0.2", "127.0.0.3"
RECOVERY_S = 5.0  # from the moment the new servers are there; a second as a rule


class Names:
    """The name service: what `NAME` means at the moment."""

    def __init__(self) -> None:
        self.address = OLD_HOST
        self.asked = 0
        self._ask = socket.getaddrinfo

    def __call__(self, host: Any, *args: Any, **options: Any) -> Any:
        if host != NAME:
            return self._ask(host, *args, **options)
        self.asked += 1
        return self._ask(self.address, *args, **options)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    if os.environ.get("TRADEWIND_TEST_LOOP") == "uvloop":
        pytest.skip("uvloop asks the system for names itself")
    service = Names()
    monkeypatch.setattr(socket, "getaddrinfo", service)
    return service


@contextlib.asynccontextmanager
async def _door(host: str, port: int, server_port: int) -> AsyncIterator[FaultProxy]:
    """A startup address of a cluster."""
    proxy = FaultProxy(server_port, host)
    await proxy.start(port)
    try:
        yield proxy
    finally:
        await proxy.stop()


async def test_all_servers_replaced_behind_the_same_name(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, names: Names
) -> None:
    old, new = EmbeddedCluster(), clean_cluster
    await old.start()
    try:
        async with (
            _door(OLD_HOST, 0, old.nodes[0].port) as old_door,
            _door(NEW_HOST, old_door.port, new.nodes[0].port),
        ):
            client = make_client(old_door.port, host=NAME, decode_responses=True, socket_timeout=2.0)
            keys = list(keys_of_each_shard(await client.initialize()).values())
            async with Writers(client, keys) as writers:
                await eventually(lambda: writers.total > 100)
                await old.stop()
                await old_door.stop()
                await eventually(lambda: sum(writers.errors.values()) >= len(keys))
                before = Counter(writers.acknowledged)
                begun_s, names.address = time.monotonic(), NEW_HOST
                await eventually(lambda: all(writers.acknowledged[key] > before[key] + 20 for key in keys))
                recovery_s = time.monotonic() - begun_s
            print(f"every shard was served again {recovery_s:.2f} s after the name led to the new servers")
            assert recovery_s < RECOVERY_S
            await _groups_are_told_to_be_missing(client, keys[0])
            await eventually(lambda: _knows_only(client, new, old_door.port))
            await check_idle(client)
            await client.aclose()
    finally:
        await old.stop()


async def _groups_are_told_to_be_missing(client: RedisCluster, tag: str) -> None:
    """The new servers are empty, which the client cannot mend: it is told at once, and made anew."""
    stream = f"{{{tag}}}:stream"
    with pytest.raises(ResponseError, match="NOGROUP"):
        await client.xreadgroup("group", "me", {stream: ">"}, block=1000)
    await client.xgroup_create(stream, "group", "0", mkstream=True)
    await client.xadd(stream, {"f": "v"})
    assert await client.xreadgroup("group", "me", {stream: ">"}, block=1000)


def _knows_only(client: RedisCluster, cluster: EmbeddedCluster, door_port: int) -> bool:
    ports = {int(node.name.rpartition(":")[2]) for node in client.stats().nodes if node.connections}
    return ports <= {*(node.port for node in cluster.nodes), door_port}


# -- the same servers, started again elsewhere ---------------------------------------------------------------


async def test_a_cluster_that_was_stopped_whole_and_started_on_other_ports(
    make_client: MakeClient, tmp_path: Path
) -> None:
    cluster = EmbeddedCluster(data=tmp_path / "data", node_timeout_ms=1000)
    await cluster.start()
    try:
        async with _door(HOST, 0, cluster.nodes[0].port) as door:
            client = make_client(door.port, decode_responses=True, socket_timeout=2.0)
            keys = list(keys_of_each_shard(await client.initialize()).values())
            stream = f"{{{keys[0]}}}:stream"
            reader = asyncio.create_task(client.xread({stream: "0"}, block=0))
            async with Writers(client, keys) as writers:
                await eventually(lambda: writers.total > 100)
                await _restart_elsewhere(cluster)
                before, begun_s = Counter(writers.acknowledged), time.monotonic()
                door.server_port = cluster.nodes[0].port
                await eventually(lambda: all(writers.acknowledged[key] > before[key] + 20 for key in keys))
                print(f"every shard was served again after {time.monotonic() - begun_s:.2f} s")
                assert time.monotonic() - begun_s < RECOVERY_S
            await writers.check(client)
            await client.xadd(stream, {"f": "v"})
            assert (await asyncio.wait_for(reader, 5))[0][0] == stream, "who blocked goes on blocking there"
            await check_idle(client)
            await client.aclose()
    finally:
        await cluster.stop()


async def _restart_elsewhere(cluster: EmbeddedCluster) -> None:
    """As on other machines: the data is the same, and every port another one."""
    ports = [node.port for node in cluster.nodes]
    for node in cluster.nodes:
        await cluster.kill(node, signal.SIGKILL)
    description = cluster.folder / "cluster.json"
    await cluster.stop()
    described = json.loads(description.read_text(encoding="utf-8"))
    described["ports"] = free_ports(len(ports), excluded=ports)
    description.write_text(json.dumps(described), encoding="utf-8")
    await cluster.start()
    assert not {node.port for node in cluster.nodes} & set(ports)
