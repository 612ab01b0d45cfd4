"""A disk that takes long to sync: the server keeps what it has acknowledged in its own memory meanwhile."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle, keys_of_each_shard
from tests.support.waiting import eventually
from tests.support.writers import Writers
from tradewind.embedded.cluster import Node

pytestmark = [pytest.mark.faults, pytest.mark.timeout(60)]

SYNC_US = 500_000


@contextlib.asynccontextmanager
async def _slow_sync(node: Node) -> AsyncIterator[None]:
    """Every sync of the server takes half a second, until it ends."""
    if shutil.which("strace") is None:
        pytest.skip("no strace: install it (apt install strace) to make a disk slow")
    words = ("strace", "-f", "-o", "/dev/null", "-e", "trace=fdatasync,fsync")
    slow = ("-e", f"inject=fdatasync,fsync:delay_exit={SYNC_US}", "-p", str(node.pid))
    with subprocess.Popen([*words, *slow], stderr=subprocess.DEVNULL) as strace:
        try:
            await eventually(lambda: _is_traced(node) or strace.poll() is not None)
            if strace.poll() is not None:
                pytest.skip("strace may not trace another process here")
            yield
        finally:
            strace.terminate()


def _is_traced(node: Node) -> bool:
    status = Path(f"/proc/{node.pid}/status").read_text(encoding="ascii")
    return "TracerPid:\t0" not in status


async def test_what_a_slow_disk_has_not_got_yet_is_no_durable_write_lost(
    fragile: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(fragile.nodes[0].port, decode_responses=True)
    mine, other, _ = keys_of_each_shard(await client.initialize()).values()
    victim = await fragile.primary_of(mine)
    durable = Writers(client.durable(), [f"{{{mine}}}:{number}" for number in range(10)])
    plain = Writers(client, [f"{{{mine}}}:plain", other])
    async with _slow_sync(victim), durable, plain:
        await eventually(lambda: durable.total > 500, 30)
        await asyncio.sleep(1.0)  # so that a sync is under way, and writes wait behind it
        assert max(plain.longest_gap_s(key) for key in plain.keys) < 2.0
        await fragile.kill(victim)
        before = plain.acknowledged[plain.keys[0]]
        await eventually(lambda: plain.acknowledged[plain.keys[0]] > before + 20)
        await fragile.restart(victim)
        acknowledged = durable.total
        await eventually(lambda: durable.total > acknowledged + 100, timeout_s=15)
    await durable.check(client)
    await plain.check(client, may_lose=True)
    await check_idle(client)
