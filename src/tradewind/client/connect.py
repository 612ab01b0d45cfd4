"""Opening a connection: dial, socket options, and the handshake (HELLO, AUTH, SELECT, SETNAME, SETINFO)."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tradewind.client.exclusive import EXCLUSIVE_OWNER, ConnectionLost, exclusive_submit
from tradewind.client.forked import drop_socket_in_children, let_go_in_children
from tradewind.client.lane import Lane, LaneProtocol
from tradewind.client.tls import Tls, is_name_mismatch, names_to_check
from tradewind.client.topology import Endpoint

KEEPALIVE_OPTIONS: Mapping[str, int] = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
USER_TIMEOUT_MS = (
    15_000  # unacknowledged data this old ends the connection; the kernel's own default is ~15 minutes
)
NAME_MISMATCH_ADVICE = (
    "have the servers announce the names that their certificates are for (cluster-announce-hostname), "
    "map the addresses with address_remap, or pass ssl_check_hostname=False"
)


@dataclass(frozen=True)
class ConnectionSettings:
    """How every connection of a client is opened. `encoding` None leaves replies as bytes."""

    protocol: int = 3
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    credential_provider: CredentialProvider | None = field(default=None, repr=False)
    client_name: str | None = None
    database: int = 0
    library: str | None = "tradewind"
    library_version: str | None = None
    tls: Tls | None = None
    keepalive: bool = True
    keepalive_options: Mapping[int, int | bytes] | None = None
    encoding: str | None = None
    encoding_errors: str = "strict"
    connect_s: float = 5.0
    read_bytes_max: int | None = None  # at once; None leaves it to the event loop
    age_s_max: float = float("inf")  # then another connection is made in its place
    health_check_s: float = 0.0  # a connection is not silent for longer; 0 sends nothing by itself


def new_lane(host: str, port: int, settings: ConnectionSettings) -> Lane:
    """A lane that is not connected yet."""
    return Lane(
        EXCLUSIVE_OWNER,
        name=Endpoint(host, port).name,
        call_soon=asyncio.get_running_loop().call_soon,
        now=time.monotonic,
        encoding=settings.encoding,
        encoding_errors=settings.encoding_errors,
    )


async def open_lane(
    host: str, port: int, settings: ConnectionSettings, announced_name: str | None = None
) -> Lane:
    """Connect, shake hands, and return an open lane, still owned by nobody. See `Endpoint` for port 0.

    With TLS the certificate must be made out to `host` or to the name that the server is announced by.

    Raises redis.ConnectionError (refused, closed, unresolvable, TLS), redis.TimeoutError (no answer within
    `connect_s`), redis.AuthenticationError or another error of redis-py, each naming the address, and what a
    credential provider raises. Nothing was sent for anybody and nothing is left open on failure.
    """
    lane = new_lane(host, port, settings)
    let_go_in_children(lane)
    try:
        async with asyncio.timeout(settings.connect_s):
            await _dial(lambda: LaneProtocol(lane), host, port, settings, announced_name)
            await _handshake(lane, settings)
    except BaseException as error:
        lane.close(RedisConnectionError(f"{lane.name}: connecting failed"))
        explained = _explained(lane.name, error, settings)
        if explained is error:
            raise
        raise explained from error
    return lane


async def open_stream(
    host: str, port: int, settings: ConnectionSettings, announced_name: str | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as `open_lane` does, with the same errors, for one who shakes hands on his own."""
    loop = asyncio.get_running_loop()
    readers: list[asyncio.StreamReader] = []  # one for each try

    def make_protocol() -> asyncio.StreamReaderProtocol:
        readers.append(asyncio.StreamReader(loop=loop))
        return asyncio.StreamReaderProtocol(readers[-1], loop=loop)

    try:
        async with asyncio.timeout(settings.connect_s):
            transport = await _dial(make_protocol, host, port, settings, announced_name)
    except Exception as error:
        raise _explained(Endpoint(host, port).name, error, settings) from error
    return readers[-1], asyncio.StreamWriter(transport, transport.get_protocol(), readers[-1], loop)


async def _dial(
    make_protocol: Callable[[], asyncio.BaseProtocol],
    host: str,
    port: int,
    settings: ConnectionSettings,
    announced_name: str | None,
) -> asyncio.WriteTransport:
    if port:
        context = await settings.tls.context() if settings.tls else None
        names = names_to_check(host, announced_name)
        transport = await _dial_tcp(make_protocol, host, port, context, names)
    else:
        transport, _ = await asyncio.get_running_loop().create_unix_connection(make_protocol, host)
    if settings.read_bytes_max is not None and hasattr(transport, "max_size"):
        transport.max_size = settings.read_bytes_max  # of asyncio's own transports
    _set_socket_options(transport.get_extra_info("socket"), settings)
    drop_socket_in_children(transport)
    return transport


async def _dial_tcp(
    make_protocol: Callable[[], asyncio.BaseProtocol],
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    names: Sequence[str],
) -> asyncio.WriteTransport:
    """With TLS, by the first of the names that the certificate is good for."""
    try:
        transport, _ = await asyncio.get_running_loop().create_connection(
            make_protocol, host, port, ssl=context, server_hostname=names[0] if context else None
        )
    except OSError as error:
        if len(names) > 1 and is_name_mismatch(error):
            return await _dial_tcp(make_protocol, host, port, context, names[1:])
        raise
    return transport


def _explained(name: str, error: BaseException, settings: ConnectionSettings) -> BaseException:
    """redis-py's class for what went wrong, with the address in the message."""
    if isinstance(error, TimeoutError):
        advice = "; is it a port for TLS?" if settings.tls else ""
        return RedisTimeoutError(f"{name}: no connection within {settings.connect_s:g} s{advice}")
    if is_name_mismatch(error):
        return RedisConnectionError(f"{name}: {error}; {NAME_MISMATCH_ADVICE}")
    if isinstance(error, OSError | UnicodeError | OverflowError):  # the last two: no such host, no such port
        return RedisConnectionError(f"{name}: {getattr(error, 'strerror', None) or error}")
    if isinstance(error, ConnectionLost):
        advice = "" if settings.tls else "; does the port want TLS?"
        return RedisConnectionError(f"{error} (during the handshake{advice})")
    if isinstance(error, RedisError) and name not in str(error):
        return type(error)(f"{name}: {error}")
    return error


def _set_socket_options(sock: socket.socket, settings: ConnectionSettings) -> None:
    """Keepalive finds a dead peer on an idle connection, the user timeout one that stopped acknowledging."""
    if not settings.keepalive or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = settings.keepalive_options
    if options is None:
        options = {getattr(socket, name): s for name, s in KEEPALIVE_OPTIONS.items() if hasattr(socket, name)}
    for option, value in options.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


async def _handshake(lane: Lane, settings: ConnectionSettings) -> None:
    credentials = await _credentials(settings)
    required: list[tuple[Any, ...]] = []
    if settings.protocol == 3:
        full = ("default", *credentials) if len(credentials) == 1 else credentials
        required.append(("HELLO", 3, "AUTH", *full) if credentials else ("HELLO", 3))
    elif credentials:
        required.append(("AUTH", *credentials))
    if settings.client_name:
        required.append(("CLIENT SETNAME", settings.client_name))
    if settings.database:
        required.append(("SELECT", settings.database))
    optional: list[tuple[Any, ...]] = []
    if settings.library:  # since Redis 7.2
        optional.append(("CLIENT SETINFO", "LIB-NAME", settings.library))
    if settings.library_version:
        optional.append(("CLIENT SETINFO", "LIB-VER", settings.library_version))
    required_replies = [exclusive_submit(lane, args) for args in required]
    optional_replies = [exclusive_submit(lane, args) for args in optional]
    results = await asyncio.gather(*required_replies, *optional_replies, return_exceptions=True)
    for result in results[: len(required)]:
        if isinstance(result, BaseException):
            raise result
    for result in results[len(required) :]:
        if isinstance(result, BaseException) and not isinstance(result, ResponseError):
            raise result


async def _credentials(settings: ConnectionSettings) -> tuple[str, ...]:
    if settings.credential_provider is not None:
        return tuple(await settings.credential_provider.get_credentials_async())
    if settings.username or settings.password:
        return (settings.username or "default", settings.password or "")
    return ()


def default_protocol() -> int:
    """What redis-py speaks when nobody says otherwise: RESP3 since 8.0, RESP2 before."""
    return int(getattr(redis.utils, "DEFAULT_RESP_VERSION", 2))
