"""The embedded cluster against real servers: the bundled one, and another named by its path."""

import asyncio
import os
import shutil
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.embedded.helpers import alive, guardian_of, processes_of, read_keys, wait_until, write_keys
from tradewind.embedded import (
    ClusterStartFailed,
    DataFolderInUse,
    DataFolderUnusable,
    EmbeddedCluster,
    EmbeddedError,
    GuardianLost,
    InvalidOption,
    ServerNotFound,
    ports,
)
from tradewind.embedded import cluster as cluster_module
from tradewind.embedded.survey import SLOTS, Admin, missing

OTHER_SERVER = Path("/usr/bin/redis-server")

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")


@pytest.fixture(params=["bundled", "redis-server"])
async def any_server(request):
    if request.param == "bundled":
        return None
    if not OTHER_SERVER.exists():
        pytest.skip(f"no {OTHER_SERVER}: install Debian's redis-server to test with it")
    return OTHER_SERVER


async def test_starts_with_every_slot_served_and_every_replica_linked(any_server):
    async with EmbeddedCluster(server=any_server) as cluster:
        reports = await cluster.survey()
        assert missing(reports) == []
        assert [report.role for report in reports] == ["primary"] * 3 + ["replica"] * 3
        assert sum(view.slots for view in reports[0].views) == SLOTS
        primaries = [report.port for report in reports[:3]]
        assert [report.primary_port for report in reports[3:]] == primaries
        await write_keys(cluster, 100)
        assert await read_keys(cluster, 100) == list(range(100))


async def test_servers_have_the_settings_that_orders_need(cluster):
    expected = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": str(1 << 30),
        "maxmemory-policy": "noeviction",
        "cluster-node-timeout": "2000",
        "cluster-require-full-coverage": "no",
        "cluster-allow-replica-migration": "no",
        "bind": "127.0.0.1",
    }
    for node in cluster.nodes:
        async with Admin(node.port) as admin:
            settings = await admin.ask("CONFIG", "GET", *expected)
        assert dict(zip(settings[::2], settings[1::2], strict=True)) == expected


async def test_stop_leaves_no_process_and_no_folder(any_server):
    cluster = EmbeddedCluster(server=any_server)
    await cluster.start()
    folder, pids = cluster.folder, processes_of(cluster)
    assert all(map(alive, pids))
    assert len(pids) == 7
    await cluster.stop()
    assert not any(map(alive, pids))
    assert not folder.exists()
    await cluster.stop()  # does nothing


async def test_a_stopped_server_does_not_hold_up_the_stop():
    cluster = EmbeddedCluster()
    await cluster.start()
    pids = processes_of(cluster)
    await cluster.kill(cluster.nodes[0], signal.SIGSTOP)
    async with asyncio.timeout(10):
        await cluster.stop()
    assert not any(map(alive, pids))


async def test_can_be_started_again_after_a_stop():
    cluster = EmbeddedCluster(primaries=1, replicas_per_primary=0)
    for _ in range(2):
        await cluster.start()
        assert list((await cluster.roles()).values()) == ["primary"]
        with pytest.raises(EmbeddedError, match="started already"):
            await cluster.start()
        await cluster.stop()


async def test_cancelled_start_leaves_nothing(tmp_path):
    data = tmp_path / "data"
    cluster = EmbeddedCluster(data, progress=lambda step: step.startswith("waiting") and starting.cancel())
    starting = asyncio.create_task(cluster.start())
    with pytest.raises(asyncio.CancelledError):
        await starting
    # The folder of a cluster that never was ready is made anew.
    async with EmbeddedCluster(data) as cluster:
        assert missing(await cluster.survey()) == []


async def test_data_folder_resumes_with_its_data(any_server, tmp_path):
    tmp_path /= "it's a \u201cdata\u201d folder"
    async with EmbeddedCluster(tmp_path, any_server) as cluster:
        ports = [node.port for node in cluster.nodes]
        await write_keys(cluster, 200)
    async with EmbeddedCluster(tmp_path, any_server) as cluster:
        assert [node.port for node in cluster.nodes] == ports
        assert await read_keys(cluster, 200) == list(range(200))


async def test_data_folder_resumes_on_other_ports_when_its_own_are_taken(any_server, tmp_path):
    async with EmbeddedCluster(tmp_path, any_server) as cluster:
        ports = [node.port for node in cluster.nodes]
        await write_keys(cluster, 200)
    with ExitStack() as strangers:
        for taken in (ports[0], ports[4] + 10_000):  # a client port, and a bus port
            listener = strangers.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", taken))
            listener.listen()
        async with EmbeddedCluster(tmp_path, any_server) as cluster:
            moved = [node.port for node in cluster.nodes]
            assert [new == old for new, old in zip(moved, ports, strict=True)] == [
                False,
                True,
                True,
                True,
                False,
                True,
            ]
            assert missing(await cluster.survey()) == []
            assert await read_keys(cluster, 200) == list(range(200))


async def test_data_survives_the_kill_of_every_server_at_once(tmp_path):
    async with EmbeddedCluster(tmp_path) as cluster:
        await write_keys(cluster, 200)
        await asyncio.gather(*(cluster.kill(node) for node in cluster.nodes))
    async with EmbeddedCluster(tmp_path) as cluster:
        assert await read_keys(cluster, 200) == list(range(200))


async def test_a_failover_is_kept_across_a_resume(tmp_path):
    async with EmbeddedCluster(tmp_path) as cluster:
        old = await cluster.primary_of("key-1")
        (successor,) = await cluster.replicas_of(old)
        await cluster.kill(old)
        async with asyncio.timeout(15):
            while (await cluster.primary_of("key-1")).port != successor.port:
                await asyncio.sleep(0.05)
    async with EmbeddedCluster(tmp_path) as cluster:
        assert (await cluster.primary_of("key-1")).index == successor.index
        assert [node.index for node in await cluster.replicas_of(successor)] == [old.index]


async def test_killed_server_is_down_until_restarted(own_cluster):
    victim = await own_cluster.primary_of("some key")
    await own_cluster.kill(victim)
    assert not alive(victim.pid)
    assert (await own_cluster.roles())[victim.port] == "down"
    restarted = await own_cluster.restart(victim)
    assert restarted.port == victim.port
    assert restarted.pid != victim.pid
    assert restarted in own_cluster.nodes
    await own_cluster.wait_until_ready()
    await own_cluster.kill(restarted, signal.SIGTERM)
    await own_cluster.restart(restarted)  # whether it has ended by now or not
    await own_cluster.wait_until_ready()


async def test_two_starters_on_one_folder_are_refused(tmp_path):
    async with EmbeddedCluster(tmp_path) as first:
        with pytest.raises(DataFolderInUse, match=f"in use by the cluster of process {guardian_of(first)}"):
            await EmbeddedCluster(tmp_path).start()
        assert missing(await first.survey()) == []


@only_linux
async def test_kill_of_the_guardian_takes_the_servers_along():
    cluster = EmbeddedCluster()
    await cluster.start()
    folder, pids = cluster.folder, [node.pid for node in cluster.nodes]
    os.kill(guardian_of(cluster), signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)), "the servers end with their guardian")
    with pytest.raises(GuardianLost, match="start the cluster again"):
        await cluster.restart(cluster.nodes[0])
    await cluster.stop()
    assert not folder.exists()


async def test_missing_server_binary_is_one_line(tmp_path):
    with pytest.raises(ServerNotFound, match="does not exist: name a redis-server") as caught:
        await EmbeddedCluster(server=tmp_path / "no-server").start()
    assert "\n" not in str(caught.value)
    (tmp_path / "text").write_text("no program")
    with pytest.raises(ServerNotFound, match="is not executable"):
        await EmbeddedCluster(server=tmp_path / "text").start()


async def test_a_binary_that_is_no_server_says_so(tmp_path):
    with pytest.raises(ClusterStartFailed, match=r"server node-1 on port \d+ ended with code"):
        await EmbeddedCluster(tmp_path, Path(shutil.which("false"))).start()


async def test_wrong_setting_shows_the_servers_own_words():
    cluster = EmbeddedCluster(server_settings={"no-such-setting": "1"})
    with pytest.raises(ClusterStartFailed, match=r"ended with code 1: .*(Bad directive|no-such-setting)"):
        await cluster.start()


async def test_another_shape_than_the_folder_holds_is_refused(tmp_path):
    async with EmbeddedCluster(tmp_path, primaries=1, replicas_per_primary=1):
        pass
    with pytest.raises(
        DataFolderUnusable, match="holds a cluster of 1 primaries with 1 replicas each, not 3 with 1"
    ):
        await EmbeddedCluster(tmp_path).start()


async def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "node-1").mkdir()
    (tmp_path / "node-1" / "precious").touch()
    with pytest.raises(DataFolderUnusable, match=r"holds node-1 but no cluster\.json"):
        await EmbeddedCluster(tmp_path).start()
    (tmp_path / "cluster.json").write_text("[]")
    with pytest.raises(DataFolderUnusable, match="not a cluster description"):
        await EmbeddedCluster(tmp_path).start()
    assert (tmp_path / "node-1" / "precious").exists()


async def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataFolderUnusable, match="cannot be created: Not a directory"):
        await EmbeddedCluster(tmp_path / "file" / "data").start()


@pytest.mark.parametrize(
    "option",
    [
        {"primaries": 0},
        {"replicas_per_primary": -1},
        {"node_timeout_ms": 5},
        {"memory_bytes_max": 1},
        {"primaries": 40},
    ],
)
def test_options_have_bounds(option):
    with pytest.raises(InvalidOption, match="must be between"):
        EmbeddedCluster(**option)


async def test_ports_that_are_taken_in_the_last_moment_are_replaced(monkeypatch):
    real = cluster_module._ports_to_use
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        answers = iter([[taken, *ports.free_ports(5)]])
        monkeypatch.setattr(cluster_module, "_ports_to_use", lambda *args: next(answers, None) or real(*args))
        steps: list[str] = []
        async with EmbeddedCluster(progress=steps.append) as cluster:
            assert missing(await cluster.survey()) == []
            assert taken not in [node.port for node in cluster.nodes]
    assert len([step for step in steps if step.startswith("starting 6 servers")]) == 2


async def test_a_lost_nodes_conf_is_named(tmp_path):
    async with EmbeddedCluster(tmp_path, primaries=1, replicas_per_primary=1):
        pass
    (tmp_path / "node-2" / "nodes.conf").unlink()
    with pytest.raises(DataFolderUnusable, match=r"node-2/nodes\.conf is missing or damaged"):
        await EmbeddedCluster(tmp_path, primaries=1, replicas_per_primary=1).start()


async def test_a_cluster_that_is_not_started_says_so():
    cluster = EmbeddedCluster()
    assert repr(cluster) == "<EmbeddedCluster 3x2 stopped>"
    with pytest.raises(EmbeddedError, match="is not started: start it first"):
        _ = cluster.url
    with pytest.raises(EmbeddedError, match="is not started: start it first"):
        await cluster.detach()


async def test_a_temporary_cluster_cannot_be_detached(cluster):
    with pytest.raises(EmbeddedError, match="give it a data folder"):
        await cluster.detach()


def test_paths_may_be_text(tmp_path: Path):
    for data in (tmp_path, str(tmp_path)):
        assert EmbeddedCluster(data, server=str(tmp_path / "server"))._data == tmp_path


async def test_a_server_that_dies_while_the_cluster_forms_is_one_error():
    victims: list[int] = []

    def kill_one_when_forming(step: str) -> None:
        if step == "forming the cluster":
            victims.append(cluster.nodes[5].pid)
            os.kill(victims[0], signal.SIGKILL)

    cluster = EmbeddedCluster(progress=kill_one_when_forming)
    with pytest.raises(ClusterStartFailed, match=r"cannot be formed on ports|node-6 on port \d+ ended"):
        await cluster.start()
    assert len(victims) == 1
