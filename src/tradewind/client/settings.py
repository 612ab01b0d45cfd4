"""From redis-py's constructor arguments to the settings of a connection."""

import ssl
from collections.abc import Mapping
from typing import Any

from redis.asyncio.connection import RedisSSLContext, SSLConnection

from tradewind.client.connect import ConnectionSettings, default_protocol


def connection_settings(kwargs: Mapping[str, Any]) -> ConnectionSettings:
    """`kwargs` are redis-py's connection arguments, as `RedisCluster.get_connection_kwargs()` shows them."""
    protocol = kwargs.get("protocol")
    options = kwargs.get("socket_keepalive_options")
    return ConnectionSettings(
        protocol=default_protocol() if protocol is None else int(protocol),
        username=kwargs.get("username"),
        password=kwargs.get("password"),
        credential_provider=kwargs.get("credential_provider"),
        client_name=kwargs.get("client_name"),
        library_version=_version(),
        ssl_context=_ssl_context(kwargs),
        keepalive=bool(kwargs.get("socket_keepalive", True)),
        keepalive_options=options if isinstance(options, Mapping) else None,
        encoding=kwargs.get("encoding", "utf-8") if kwargs.get("decode_responses") else None,
        encoding_errors=kwargs.get("encoding_errors", "strict"),
        connect_s=float(kwargs.get("socket_connect_timeout") or 5.0),
    )


def _version() -> str:
    from tradewind import __version__  # not at the top: tradewind's package imports this module

    return __version__


def _ssl_context(kwargs: Mapping[str, Any]) -> ssl.SSLContext | None:
    if kwargs.get("connection_class") is not SSLConnection:
        return None
    prefix = "ssl_"
    named = {key.removeprefix(prefix): value for key, value in kwargs.items() if key.startswith(prefix)}
    return RedisSSLContext(**named).get()
