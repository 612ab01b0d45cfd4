"""A process that forks while a client is open; more of it in tests/faults/test_local_faults.py."""

import os

import pytest

from tests.support.client_fixtures import MakeRedis
from tests.support.server import Server
from tests.support.waiting import eventually
from tradewind import Redis


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
async def test_a_child_keeps_no_connection_of_its_parent_alive(make_redis: MakeRedis) -> None:
    async with Server() as server:
        client, watcher = make_redis(server.port, client_name="parent"), make_redis(server.port)
        await client.set("a", 1)
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.read(reading, 1)
            os._exit(0)
        try:
            await client.aclose()
            await eventually(lambda: _is_gone(watcher, "parent"))
        finally:
            os.write(writing, b"x")
            os.waitpid(pid, 0)
            os.close(reading)
            os.close(writing)


async def _is_gone(client: Redis, name: str) -> bool:
    return name not in [item["name"] for item in await client.client_list()]
