"""A single server of a test's own: the bundled one, or Debian's, on a free loopback port."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from tests.support.waiting import eventually
from tradewind.embedded.binary import server_binary
from tradewind.embedded.ports import HOST, free_ports


class Server:
    """`async with Server() as server:`; `options` are words of its command line."""

    def __init__(self, *options: str | int, binary: Path | None = None, port: int = 0) -> None:
        self.port = port or free_ports(1)[0]
        self._options = options
        self.binary = server_binary(binary)
        self._folder = Path(tempfile.mkdtemp(prefix="tradewind-server-"))
        self._process: asyncio.subprocess.Process | None = None

    @property
    def socket_path(self) -> Path:
        return self._folder / "server.sock"

    async def __aenter__(self) -> "Server":
        try:
            await self.start()
        except BaseException:
            await self.stop()
            shutil.rmtree(self._folder)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        shutil.rmtree(self._folder)

    async def start(self) -> None:
        words = ("--port", self.port, "--bind", HOST, "--dir", self._folder, "--save", "", "--unixsocket",
                 self.socket_path, "--repl-diskless-sync-delay", 0, *self._options)  # fmt: skip
        self._process = await asyncio.create_subprocess_exec(
            self.binary, *map(str, words), stdout=asyncio.subprocess.DEVNULL
        )
        await eventually(self._answers)

    async def _answers(self) -> bool:
        try:
            await self.ask("PING")
        except RedisError as error:
            return isinstance(error, ResponseError | AuthenticationError)  # an answer, if not the best one
        return True

    async def ask(self, *words: str | int) -> object:
        """The server's reply to one command, by redis-py."""
        async with redis.asyncio.Redis(
            host=HOST, port=self.port, decode_responses=True, retry=Retry(NoBackoff(), 0)
        ) as client:
            reply: object = await client.execute_command(*words)
            return reply

    async def stop(self) -> None:
        """Kill it, and forget nothing but what was in its memory."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()
            await asyncio.sleep(0)
