"""The table of the README: one INCR whose reply is lost, sent by redis-py and by Tradewind.

A proxy in front of every server lets the INCR through and keeps its reply: it resets the connection instead,
or falls silent. What the server counted is asked without the proxy.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

import tradewind
from tradewind import OutcomeUnknown
from tradewind.embedded import EmbeddedCluster

KEY = "account:7"
DEADLINE_S = 1.0

Loss = Literal["reset", "silent"]


class ReplyThief:
    """Forwards to one server, and keeps the reply to one INCR (which redis-py sends as INCRBY)."""

    def __init__(self, server_port: int, armed: list[Loss]) -> None:
        self._server_port = server_port
        self._armed = armed  # shared by all proxies; empty once the reply is lost
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        lost: asyncio.Event = asyncio.Event()
        try:
            with contextlib.suppress(ConnectionError):
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._requests(reader, server_writer, lost))
                    both.create_task(self._replies(server_reader, writer, lost))
        except* ConnectionError:
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, server_writer):
                end.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            if self._armed and b"INCRBY" in data:
                lost.set()
            server.write(data)
        raise ConnectionResetError

    async def _replies(
        self, server: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        while data := await server.read(65536):
            if lost.is_set():
                if self._armed and self._armed.pop() == "reset":
                    raise ConnectionResetError
                continue  # silent from here on
            writer.write(data)
        raise ConnectionResetError


@pytest.fixture
async def thieves(cluster: EmbeddedCluster) -> AsyncIterator[tuple[dict[int, int], list[Loss]]]:
    """Ports of the proxies by server port, and the way in which the next INCR's reply is lost."""
    armed: list[Loss] = []
    proxies = {port: ReplyThief(port, armed) for _, port in cluster.startup_nodes}
    yield {port: await proxy.start() for port, proxy in proxies.items()}, armed
    for proxy in proxies.values():
        await proxy.stop()


async def lose_one_reply(
    kind: type[Any], loss: Loss, cluster: EmbeddedCluster, thieves: tuple[dict[int, int], list[Loss]]
) -> tuple[object, int]:
    """What the caller is told of its INCR, and what the server counted."""
    ports, armed = thieves
    async with redis.asyncio.RedisCluster.from_url(cluster.url) as direct:
        await direct.delete(KEY)
        client = kind(
            host="127.0.0.1",
            port=next(iter(ports.values())),
            socket_timeout=DEADLINE_S,
            address_remap=lambda address: (address[0], ports.get(address[1], address[1])),
        )
        async with client:
            await client.get(KEY)
            armed.append(loss)
            try:
                told: object = await client.incr(KEY)
            except (RedisConnectionError, RedisTimeoutError) as error:
                told = error
        assert not armed, "no reply was lost"
        return told, int(await direct.get(KEY))


@pytest.mark.parametrize("loss", ["reset", "silent"])
async def test_redis_py_counts_twice_and_says_nothing(
    loss: Loss, cluster: EmbeddedCluster, thieves: tuple[dict[int, int], list[Loss]]
) -> None:
    assert await lose_one_reply(redis.asyncio.RedisCluster, loss, cluster, thieves) == (2, 2)


@pytest.mark.parametrize("loss", ["reset", "silent"])
async def test_tradewind_counts_once_and_says_so(
    loss: Loss, cluster: EmbeddedCluster, thieves: tuple[dict[int, int], list[Loss]]
) -> None:
    told, counted = await lose_one_reply(tradewind.RedisCluster, loss, cluster, thieves)
    assert isinstance(told, OutcomeUnknown)
    assert counted == 1
