"""Whatever ends the starter, the guardian leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.embedded.helpers import alive, pids_in, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")

STARTER = """
import asyncio, os, sys
from pathlib import Path
from tradewind.embedded import EmbeddedCluster

async def main():
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    async with EmbeddedCluster(data) as cluster:
        print(cluster.folder, (cluster.folder / "cluster.lock").read_text().strip(), flush=True)
        await asyncio.sleep(60)

{prelude}
asyncio.run(main())
"""

# As a program that forks its workers from one loaded parent: the child holds a copy of the channel.
FORKS_FIRST = """
async def fork_inside(main=main):
    cluster = EmbeddedCluster()
    await cluster.start()
    if os.fork() == 0:
        import time
        time.sleep(5)
        os._exit(0)
    print(cluster.folder, (cluster.folder / "cluster.lock").read_text().strip(), flush=True)
    await asyncio.sleep(60)

main = fork_inside
"""


@contextmanager
def starter(*arguments: str, prelude: str = "") -> Iterator[tuple[subprocess.Popen[str], Path, list[int]]]:
    """A program that has started a cluster: its process, the data folder, the guardian's and servers' ids."""
    source = STARTER.format(prelude=prelude)
    command = [sys.executable, "-W", "ignore", "-c", source, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            folder, guardian = process.stdout.readline().split()
            pids = [int(guardian), *pids_in(Path(folder))]
            assert len(pids) == 7
            assert all(map(alive, pids))
            yield process, Path(folder), pids
        finally:
            process.kill()


def test_kill_of_the_starter_leaves_no_process_and_no_folder():
    with starter() as (process, folder, pids):
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(alive, pids)), "servers and guardian end with the starter")
        wait_until(lambda: not folder.exists(), "the temporary folder is removed")


def test_kill_of_the_starter_keeps_a_given_folder(tmp_path):
    with starter(str(tmp_path)) as (process, folder, pids):
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(alive, pids)), "servers and guardian end with the starter")
        assert (folder / "node-1" / "nodes.conf").exists()


def test_a_forked_child_of_the_starter_does_not_keep_the_servers():
    with starter(prelude=FORKS_FIRST) as (process, folder, pids):
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(alive, pids)), "the guardian sees that its starter is gone")
        wait_until(lambda: not folder.exists(), "the temporary folder is removed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signals_of_the_terminal_are_for_the_starter(number):
    with starter() as (process, folder, pids):
        guardian = pids[0]
        assert os.getsid(guardian) != os.getsid(process.pid)
        os.kill(guardian, number)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does; the program then stops in order
        process.wait(10)
        wait_until(lambda: not any(map(alive, pids)), "an orderly end")
        assert not folder.exists()


def test_sigterm_to_the_guardian_stops_all_in_order():
    with starter() as (_process, folder, pids):
        os.kill(pids[0], signal.SIGTERM)
        wait_until(lambda: not any(map(alive, pids)), "servers and guardian end")
        wait_until(lambda: not folder.exists(), "the temporary folder is removed")
