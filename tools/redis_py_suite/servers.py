"""The servers that the tests run against: a cluster, or one server by itself. Each run gets its own."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import redis.asyncio

from tools.redis_py_suite.errors import CannotRun
from tradewind.embedded import EmbeddedCluster
from tradewind.embedded.binary import server_binary
from tradewind.embedded.ports import HOST, free_ports

KINDS = {"cluster": "RedisCluster", "single": "Redis"}  # and the client for it
SETTINGS = {"enable-debug-command": "yes"}  # some tests make the server sleep, or reload
START_S_MAX = 10.0
STOP_S_MAX = 10.0


@contextlib.asynccontextmanager
async def running(kind: str, binary: Path | None) -> AsyncIterator[str]:
    """Servers of a kind for as long as the block runs; the URL of (one of) them."""
    if kind == "single":
        async with _one_server(server_binary(binary)) as url:
            yield url
    else:
        async with EmbeddedCluster(server=binary, server_settings=SETTINGS) as cluster:
            yield cluster.url


@contextlib.asynccontextmanager
async def _one_server(binary: Path) -> AsyncIterator[str]:
    (port,) = free_ports(1)
    words = {"bind": HOST, "port": str(port), "save": "", **SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        options = [word for name, value in words.items() for word in (f"--{name}", value)]
        child = await asyncio.create_subprocess_exec(
            binary, *options, cwd=folder, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            url = f"redis://{HOST}:{port}"
            await _until_it_answers(url, child)
            yield url
        finally:
            await asyncio.shield(_stop(child))


async def _until_it_answers(url: str, child: asyncio.subprocess.Process) -> None:
    async with redis.asyncio.Redis.from_url(url) as client, asyncio.timeout(START_S_MAX):
        while child.returncode is None:
            with contextlib.suppress(redis.ConnectionError):
                await client.ping()
                return
            await asyncio.sleep(0.02)
    raise CannotRun(f"the server for {url} ended at once, with code {child.returncode}")


async def _stop(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.terminate()
    try:
        await asyncio.wait_for(child.wait(), STOP_S_MAX)
    except TimeoutError:
        child.kill()
        await child.wait()
