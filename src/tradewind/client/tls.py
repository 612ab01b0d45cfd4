"""TLS: the context of new connections, read anew when its files have changed, and the names to check for."""

import asyncio
import logging
import os
import ssl
from collections.abc import Mapping
from typing import Any

from redis.asyncio.connection import RedisSSLContext

log = logging.getLogger(__name__)

FILE_OPTIONS = ("certfile", "keyfile", "ca_certs")
# What OpenSSL says when the certificate is good and names another host: X509_V_ERR_HOSTNAME_MISMATCH and
# X509_V_ERR_IP_ADDRESS_MISMATCH of x509_vfy.h.
NAME_MISMATCH_CODES = frozenset({62, 64})

Stamp = tuple[tuple[int, int, int] | None, ...]


class Tls:
    """redis-py's `ssl_...` options. A certificate that is renewed on the disk serves the next connection.

    Connections that are open live on with what they were opened with. Files that cannot be used (a key that
    does not fit its certificate yet, because the pair is being replaced at this moment) are left alone, with
    a warning: the next connection looks again. Making it raises what redis-py's `RedisSSLContext` raises:
    OSError for a file that is missing, ssl.SSLError for one that is none, RedisError for an unknown option.

    The context itself is made for the first connection, in a thread: with the system's authorities it takes
    20 ms, in which the loop would stand still.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._stamp = self._look()
        self._context: ssl.SSLContext | None = None
        self._check()
        self._reading = asyncio.Lock()

    async def context(self) -> ssl.SSLContext:
        """The context for a connection that is made now. Raises OSError where there is none to go on with."""
        stamp = self._look()
        context = self._context
        if context is None or stamp != self._stamp:
            async with self._reading:
                context = await self._read_anew(stamp)
        return context

    async def _read_anew(self, stamp: Stamp) -> ssl.SSLContext:
        if self._context is not None and stamp == self._stamp:
            return self._context  # another connection was quicker
        try:
            context = await asyncio.to_thread(self._build)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            if self._context is None:
                raise
            log.warning("the changed TLS files are not usable, going on with the former ones: %s", error)
            return self._context
        self._context, self._stamp = context, stamp
        return context

    def _check(self) -> None:
        """Raise what making the context would, in 1 ms: without the system's authorities."""
        wanted = RedisSSLContext(**self._options)
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if wanted.certfile or wanted.keyfile:
            bare.load_cert_chain(wanted.certfile or "", wanted.keyfile, wanted.password)
        if wanted.ca_certs or wanted.ca_data or wanted.ca_path:
            bare.load_verify_locations(wanted.ca_certs, wanted.ca_path, wanted.ca_data)
        if wanted.min_version is not None:
            bare.minimum_version = wanted.min_version
        if wanted.ciphers is not None:
            bare.set_ciphers(wanted.ciphers)

    def _build(self) -> ssl.SSLContext:
        return RedisSSLContext(**self._options).get()

    def _look(self) -> Stamp:
        return tuple(_stamp(self._options.get(option)) for option in FILE_OPTIONS)


def _stamp(path: str | None) -> tuple[int, int, int] | None:
    if not path:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def names_to_check(host: str, announced_name: str | None) -> tuple[str, ...]:
    """What the certificate may name, likeliest first: the server's announced name, then the address dialled.

    Servers often announce addresses while their certificates name hosts. The name comes from the slot map,
    that is from a server whose own certificate was good.
    """
    return (host,) if announced_name is None else (announced_name, host)


def is_name_mismatch(error: BaseException) -> bool:
    """The certificate is good, and made out to somebody else."""
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in NAME_MISMATCH_CODES
