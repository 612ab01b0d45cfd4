"""The connection under a FIX session: dial, read, write, and dial again when it is gone.

Numbers are on the disk before what carries them is written, and a message that came counts as taken only once
the owner has dealt with it: after a crash it comes again, and nothing is skipped.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tradewind import clock
from tradewind.providers.errors import ProviderUnavailable
from tradewind.providers.fix.frames import Fields, Pairs
from tradewind.providers.fix.numbers import NumberFile, Numbers
from tradewind.providers.fix.session import Events, Session, SessionSettings, State

TICK_S = 0.1
READ_BYTES = 65_536
DIAL_S_MAX = 10.0
PAUSE_S_MIN = 0.5
PAUSE_S_MAX = 30.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where the provider listens. `tls` None: not encrypted."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


class Connection:
    """Keeps a session up until it is closed. Callbacks are called one after another.

    `on_message` gets every message of the provider's once it is its turn, again if this process ended before
    it returned. `on_uncertain`: what was sent may not have arrived: after each logon, and after a gap.
    """

    def __init__(
        self,
        place: Place,
        settings: SessionSettings,
        numbers: Path,
        on_message: Callable[[Fields], Awaitable[None]],
        on_uncertain: Callable[[], Awaitable[None]],
        pause_s_min: float = PAUSE_S_MIN,
    ) -> None:
        self._place = place
        self._file = NumberFile(numbers)
        self._saved = self._file.read()
        self._session = Session(settings, self._saved, stamp)
        self._on_message = on_message
        self._on_uncertain = on_uncertain
        self._pause_s_min = pause_s_min
        self._writer: asyncio.StreamWriter | None = None
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False
        self.last_end = "never connected"
        """Why the last connection ended."""

    @property
    def is_active(self) -> bool:
        return self._session.state is State.ACTIVE

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"fix {self._place.host}:{self._place.port}")

    async def send(self, kind: str, pairs: Pairs) -> int:
        """Write a message, together with what others send at the same time; returns its number.

        :raises ProviderUnavailable: there is no session; nothing was sent
        """
        if not self.is_active:
            raise ProviderUnavailable(
                f"no session with {self._place.host}:{self._place.port}: {self.last_end}"
            )
        number = self._session.send(kind, pairs, time.monotonic())
        await self._write()
        return number

    async def close(self) -> None:
        """Log out, wait a moment for the answer, and end."""
        self._is_closing = True
        if self.is_active:
            self._session.log_out("closing", time.monotonic())
            with suppress(OSError):
                await self._write()
        elif self._task is not None:
            self._task.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._file.close()

    # -- one connection after another ----------------------------------------------------------------

    async def _run(self) -> None:
        pause_s = self._pause_s_min
        while not self._is_closing:
            try:
                pause_s = self._pause_s_min if await self._one() else min(PAUSE_S_MAX, 2 * pause_s)
            except (OSError, TimeoutError) as error:
                self.last_end = str(error) or type(error).__name__
                pause_s = min(PAUSE_S_MAX, 2 * pause_s)
            except Exception as error:  # of the owner's: its message comes again with the next connection
                self.last_end = f"{type(error).__name__}: {error}"
                logger.exception(
                    "fix %s:%d: a message was not dealt with", self._place.host, self._place.port
                )
            if not self._is_closing:
                logger.info("fix %s:%d: %s", self._place.host, self._place.port, self.last_end)
                await asyncio.sleep(pause_s)

    async def _one(self) -> bool:
        """One connection, until it ends. Whether it got as far as a session."""
        place = self._place
        async with asyncio.timeout(DIAL_S_MAX):
            reader, self._writer = await asyncio.open_connection(place.host, place.port, ssl=place.tls)
        writer = self._writer
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._session.connected(self._saved.next_in, time.monotonic())
        ticker = asyncio.create_task(self._tick(over), name="fix tick")
        try:
            await self._write()
            return await self._read(reader, over)
        finally:
            self._session.disconnected()
            self._writer = None
            ticker.cancel()
            writer.close()
            await asyncio.gather(ticker, return_exceptions=True)
            with suppress(OSError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader, over: "asyncio.Future[None]") -> bool:
        was_active = False
        while data := await _first_of(reader, over):
            self._session.receive(data, time.monotonic())
            await self._write()
            events = self._session.take_events()
            was_active = was_active or events.has_logged_on
            await self._hand_on(events)
            if self._session.over:
                break
        self.last_end = self._session.over or "the provider closed the connection"
        return was_active

    async def _hand_on(self, events: Events) -> None:
        """What came, then that it was taken."""
        for message in events.received:
            await self._on_message(message)
        async with self._writing:
            if self._saved.next_in != self._session.numbers.next_in:
                await self._save(self._session.numbers)
        if events.has_logged_on or events.was_filled:
            await self._on_uncertain()

    async def _tick(self, over: "asyncio.Future[None]") -> None:
        while not self._session.over:
            await asyncio.sleep(TICK_S)
            self._session.tick(time.monotonic())
            with suppress(OSError):  # the reader finds out
                await self._write()
        if not over.done():
            over.set_result(None)

    async def _write(self) -> None:
        """Write what the session has to say. Its numbers are saved before."""
        async with self._writing:
            data = self._session.take_data()
            if data:
                await self._save(Numbers(self._session.numbers.next_out, self._saved.next_in))
                if self._writer is not None:
                    self._writer.write(data)
                    await self._writer.drain()

    async def _save(self, numbers: Numbers) -> None:
        self._saved = numbers
        await asyncio.to_thread(self._file.write, numbers)


async def _first_of(reader: asyncio.StreamReader, over: "asyncio.Future[None]") -> bytes:
    """What came; nothing when the connection or the session is over."""
    read = asyncio.ensure_future(reader.read(READ_BYTES))
    try:
        await asyncio.wait((read, over), return_when=asyncio.FIRST_COMPLETED)
        return read.result() if read.done() else b""
    finally:
        read.cancel()
        await asyncio.gather(read, return_exceptions=True)


def stamp() -> str:
    now_ms = clock.now_ms()
    moment = datetime.fromtimestamp(now_ms // 1000, UTC)
    return f"{moment:%Y%m%d-%H:%M:%S}.{now_ms % 1000:03d}"
