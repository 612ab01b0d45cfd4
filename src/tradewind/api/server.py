"""The server: granian in this process's event loop, over one backend; stopped in order.

SIGTERM -> not ready -> streams told -> no new connections, requests at hand end -> desk -> client
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from tradewind import RedisCluster
from tradewind.api.app import build_app
from tradewind.api.backend import Backend, opened_backend
from tradewind.api.errors import ServerRefused
from tradewind.api.limits import ANSWER_S_MAX, CONNECTIONS_MAX, HEADER_S_MAX

LOOPBACK: Final = "127.0.0.1"
START_S_MAX: Final = 10.0
END_S_MAX: Final = ANSWER_S_MAX + 1.0
STREAMS_END_S_MAX: Final = 1.0
LOOK_S: Final = 0.02

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListenOptions:
    """Where to listen. `certificate` and `private_key`: PEM files, both or none."""

    host: str = LOOPBACK
    port: int = 8080
    certificate: Path | None = None
    private_key: Path | None = None

    @property
    def url(self) -> str:
        scheme = "http" if self.certificate is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"


@asynccontextmanager
async def running_api(
    client: RedisCluster, partitions: int, options: ListenOptions
) -> AsyncIterator[Backend]:
    """Listening inside; afterwards nothing of it is left. The client stays the caller's.

    :raises ServerRefused: it cannot listen there
    """
    _check(options)
    async with opened_backend(client, partitions) as backend:
        server = _server(backend, options)
        serving = asyncio.create_task(server.serve(), name="granian")
        try:
            await _wait_until_listening(options, serving)
            yield backend
        finally:
            backend.stopping = True
            await backend.hub.aclose()
            await _streams_told(backend)
            server.stop()  # type: ignore[no-untyped-call]  # granian has no annotation there
            await _end(serving)


def _server(backend: Backend, options: ListenOptions) -> Server:
    return Server(
        build_app(backend),
        address=options.host,
        port=options.port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        backlog=CONNECTIONS_MAX,
        backpressure=CONNECTIONS_MAX,
        http1_settings=HTTP1Settings(header_read_timeout=int(HEADER_S_MAX * 1000)),
        log_enabled=False,
        ssl_cert=options.certificate,
        ssl_key=options.private_key,
    )


async def _wait_until_listening(options: ListenOptions, serving: "asyncio.Task[None]") -> None:
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + START_S_MAX
    while not serving.done() and loop.time() < deadline_s:
        try:
            _, writer = await asyncio.open_connection(options.host, options.port)
        except OSError:
            await asyncio.sleep(LOOK_S)
            continue
        writer.close()
        await writer.wait_closed()
        return
    if serving.done() and serving.exception() is not None:
        raise ServerRefused(f"cannot listen on {options.url}: {serving.exception()}")
    raise ServerRefused(f"the server does not listen on {options.url} after {START_S_MAX:g} s")


async def _streams_told(backend: Backend) -> None:
    """Granian would close them without a reason. Who does not read is not waited for."""
    for _ in range(int(STREAMS_END_S_MAX / LOOK_S)):
        if not backend.streams:
            return
        await asyncio.sleep(LOOK_S)


async def _end(serving: "asyncio.Task[None]") -> None:
    try:
        async with asyncio.timeout(END_S_MAX):
            await asyncio.gather(serving, return_exceptions=True)
    except TimeoutError:
        logger.warning("requests did not end within %g s", END_S_MAX)


def _check(options: ListenOptions) -> None:
    if (options.certificate is None) != (options.private_key is None):
        raise ServerRefused("TLS needs both a certificate and its private key")
    if not 1 <= options.port <= 65_535:
        raise ServerRefused(f"port {options.port}: it must be between 1 and 65535")
    if options.certificate is not None and options.private_key is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                options.certificate, options.private_key
            )
        except (OSError, ssl.SSLError) as error:
            raise ServerRefused(f"the certificate and its key cannot be used: {error}") from error
