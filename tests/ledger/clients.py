"""The random clients as the run sees them: processes that are started, killed, started again, and asked to
end.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import msgspec

from tests.ledger.client import ClientConfig, Progress

ROOT = Path(__file__).resolve().parents[2]
SILENCE_S_MAX = 90.0
LOOK_S = 0.05

_decode_progress = msgspec.json.Decoder(Progress).decode


class ClientFailed(Exception):
    """A client ended, or got nowhere; its own words are on standard error."""


class ClientProcess:
    """One client through all its lives."""

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.progress = Progress(0, 0)
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.ledger.client", msgspec.json.encode(self.config).decode()),
            stdin=PIPE,
            stdout=PIPE,
            cwd=ROOT,
        )
        self._reader = asyncio.create_task(self._read(self._process), name="client progress")

    async def kill(self) -> None:
        """As the system kills it: nothing of it is finished."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        await self._ended()

    async def kill_and_start_again(self) -> None:
        await self.kill()
        self.config = msgspec.structs.replace(self.config, life=self.config.life + 1)
        await self.start()

    def end(self) -> None:
        """Let it ask nothing new, and end when it knows every outcome."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(b"end\n")

    def check(self) -> None:
        code = None if self._process is None else self._process.returncode
        if code is not None and not self.progress.settled:
            raise ClientFailed(f"client {self.config.number} ended by itself with code {code}")

    async def _ended(self) -> None:
        if self._process is not None and self._reader is not None:
            await self._process.wait()
            await self._reader
            if self._process.stdin is not None:
                self._process.stdin.close()

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            if line.endswith(b"\n"):
                self.progress = _decode_progress(line)


class Clients:
    """All of them. `history` is their folder, one file each."""

    def __init__(
        self, ports: list[int], partitions: int, history: Path, *, seed: int, clients: int, callers: int
    ) -> None:
        self.all = [
            ClientProcess(
                ClientConfig(ports, partitions, str(history / f"{number}.jsonl"), seed, number, 1, callers)
            )
            for number in range(clients)
        ]

    @property
    def told(self) -> int:
        """Questions that have been told, in all lives; a little behind."""
        return sum(client.progress.told for client in self.all)

    @property
    def unknown(self) -> int:
        return sum(client.progress.unknown for client in self.all)

    async def start(self) -> None:
        for client in self.all:
            await client.start()

    async def until_told(self, count: int) -> None:
        """:raises ClientFailed: one of them ended, or nobody was told anything for long"""
        loop = asyncio.get_running_loop()
        best, since_s = self.told, loop.time()
        while self.told < count:
            await asyncio.sleep(LOOK_S)
            for client in self.all:
                client.check()
            if self.told > best:
                best, since_s = self.told, loop.time()
            elif loop.time() - since_s > SILENCE_S_MAX:
                raise ClientFailed(f"nobody was told anything for {SILENCE_S_MAX:g} s, after {best} answers")

    async def settle(self, timeout_s: float) -> None:
        """Let all end in order.

        :raises ClientFailed: not in time
        """
        for client in self.all:
            client.end()
        try:
            async with asyncio.timeout(timeout_s):
                while not all(client.progress.settled for client in self.all):
                    for client in self.all:
                        client.check()
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise ClientFailed(
                f"{self.unknown} outcomes are not known {timeout_s:g} s after the last fault"
            ) from None

    async def aclose(self) -> None:
        for client in self.all:
            await client.kill()
