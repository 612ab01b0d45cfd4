"""The API of a run: a child of ours, ended with us whatever happens to us, and a key for who tries it out."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tradewind import RedisCluster
from tradewind.api.keys import EVERY_ACCOUNT, RATE_PER_S_MAX, SCOPES, make_key, store_key
from tradewind.api.server import LOOPBACK
from tradewind.embedded.ports import free_ports
from tradewind.ops.child import end_child
from tradewind.ops.errors import StartFailed
from tradewind.ops.worker_command import URL_VARIABLE

KEY_FILE: Final = "api.key"
START_S_MAX: Final = 20.0
END_S_MAX: Final = 20.0


class ApiProcess:
    """`tradewind api` on the cluster at `url`. Its standard input is our pipe: the end of it is its own."""

    def __init__(self, url: str, port: int, say: Callable[[str], None]) -> None:
        self.port = port or free_ports(1)[0]
        self._url = url
        self._say = say
        self._reader: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def start(self) -> None:
        """Returns once it listens.

        :raises StartFailed: it does not, or has ended
        """
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tradewind", "api", "--port", str(self.port), "--stop-on-eof"),
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, URL_VARIABLE: self._url},
            start_new_session=True,  # a terminal's Ctrl-C is for us, who stop it in order
        )
        assert self._process.stderr is not None
        try:
            async with asyncio.timeout(START_S_MAX):
                said = await self._process.stderr.readline()
        except TimeoutError:
            said = b""
        if not said.startswith(b"listening"):
            raise StartFailed(f"the API does not listen on port {self.port}: {said.decode().strip()}")
        self._reader = asyncio.create_task(self._pass_on(self._process.stderr), name="api says")

    async def _pass_on(self, stream: asyncio.StreamReader) -> None:
        """Read to the end, so that it never waits for us with what it has to say."""
        while line := await stream.readline():
            self._say(f"api: {line.decode(errors='replace').rstrip()}")

    async def stop(self) -> None:
        """Let requests at hand end; kill what does not."""
        process, self._process = self._process, None
        if process is None:
            return
        await end_child(process, END_S_MAX)
        if self._reader is not None:
            await self._reader


async def demo_key(client: RedisCluster, run: str, data: Path | None) -> str:
    """A key that may do everything, for this machine's user: where to find it, or the key itself.

    With a data folder it is in a file there that nobody else can read.
    """
    key, token = make_key(f"demo {run}", list(SCOPES), [EVERY_ACCOUNT], RATE_PER_S_MAX)
    await store_key(client, key)
    if data is None:
        return token
    return f"in {_kept(data / KEY_FILE, token)}"


def _kept(path: Path, token: str) -> Path:
    path.unlink(missing_ok=True)
    with open(path, "x", encoding="ascii", opener=_private) as file:
        file.write(token + "\n")
    return path


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
