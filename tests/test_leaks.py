"""The check that every test is under finds what it is there to find."""

import asyncio
import socket
import subprocess

from tests import leaks


def test_an_open_socket_is_a_leak_until_it_is_closed() -> None:
    before = leaks.snapshot()
    with socket.socket():
        assert any("sockets left open" in leak for leak in leaks.leaks_since(before))
    assert leaks.leaks_since(before) == []


def test_a_child_process_is_a_leak_until_it_is_reaped() -> None:
    before = leaks.snapshot()
    child = subprocess.Popen(["sleep", "30"])
    assert any("sleep 30" in leak for leak in leaks.leaks_since(before))
    child.kill()
    child.wait()
    assert leaks.leaks_since(before) == []


async def test_async_tests_are_checked_for_tasks(request) -> None:
    assert "no_leaked_tasks" in request.fixturenames


async def test_a_shared_cluster_is_no_leak(cluster) -> None:
    assert len(await asyncio.wait_for(cluster.roles(), 5)) == 6
