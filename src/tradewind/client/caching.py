"""Reads that are answered from memory, and the connections on which servers tell what has changed.

`CLIENT TRACKING ON OPTIN` is said on each shared connection, and `CLIENT CACHING YES` right before each read
whose reply is to be kept: the server then tells, once, on the same connection and in line with the replies,
when the key changes. Broadcasting (BCAST) would need no word before a read, but tells each client of every
write to a prefix, whether anybody has read the key or not, and a connection can have only one of the two.

If the word is refused (an ACL, a connection that does not track) the reply is an ordinary one and not kept.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from tradewind.client.cache import MISSING, Cache, CacheOptions, Fetch, own_copy
from tradewind.client.catalog import CommandSpec
from tradewind.client.command import Command, pack, part
from tradewind.client.errors import DeadlineExceeded, NodeUnavailable, Overloaded
from tradewind.client.node import Node

if TYPE_CHECKING:
    from tradewind.client.router import Router
    from tradewind.client.topology import SlotMap

CACHING_PACKED = pack(("CLIENT CACHING", "YES"))  # holds for the next command only


class CachedRead(Command):
    """A read whose reply is kept, with what must stand right before it.

    After ASK it is an ordinary read: ASKING and CLIENT CACHING each hold for the next command only
    (`resetClient` in the servers' networking.c), so they cannot both be said.
    """

    is_block = True

    def __init__(self, command: Command, fetch: Fetch) -> None:
        super().__init__(
            command.name,
            command.packed,
            command.future,
            command.slot,
            True,
            command.created_s,
            command.deadline,
        )
        self.fetch = fetch

    def row(self) -> list[Command]:
        """CLIENT CACHING YES and the read, or ASKING and the read."""
        if self.asking:
            self.fetch.is_wanted = False
            return super().row()
        return [part(self, 0, "CLIENT CACHING", CACHING_PACKED), self]

    def part_refused(self, number: int, _error: BaseException) -> None:
        """The server will not tell when the key changes."""
        if number == 0:
            self.fetch.is_wanted = False


class ReadCaching:
    """The part of a router that a client with a cache needs."""

    def __init__(
        self, router: "Router", options: CacheOptions, encode: Callable[[Any], bytes], encoding: str | None
    ) -> None:
        self.cache = Cache(options)
        self._router = router
        self._ttl_s = options.ttl_s
        self._prefixes = tuple(map(encode, options.prefixes))
        self._encode = encode
        self._encoding = encoding  # of replies, None for bytes
        router.news.listeners.append(self.cache)
        router.on_node_lost.append(self.cache.invalidate_source)
        router.on_push = self._on_push
        router.nodes.on_map.append(self._on_map)
        self._on_map(router.nodes.slot_map)

    def _on_map(self, _slot_map: "SlotMap") -> None:
        for node in self._router.nodes.primaries():
            node.upkeep.track()

    def _on_push(self, node: Node, message: Any) -> None:
        """`invalidate` with the keys that have changed, or with nothing: all of them."""
        if not (isinstance(message, list) and message[0] in (b"invalidate", "invalidate")):
            return
        if message[1] is None:
            self.cache.invalidate_source(node)
        else:
            for key in message[1]:
                self.cache.invalidate_key(self._as_sent(key))

    def _as_sent(self, key: str | bytes) -> bytes:
        return key.encode(self._encoding or "utf-8") if isinstance(key, str) else key

    def ttl_s(
        self, command: Command, spec: CommandSpec, args: tuple[Any, ...], asked_s: float | None = None
    ) -> float | None:
        """How old the reply to the command may be; None: it must be new."""
        if not spec.cacheable or command.raw or command.pinned is not None or spec.first_key >= len(args):
            return None
        key = self._encode(args[spec.first_key])
        if asked_s is None:
            asked_s = self._ttl_s if self._prefixes and key.startswith(self._prefixes) else None
        return asked_s if asked_s is not None and self._is_told(key) else None

    def _is_told(self, key: bytes) -> bool:
        """Its name survives the decoding of replies, in which the server will say it."""
        try:
            return self._encoding is None or key.decode(self._encoding).encode(self._encoding) == key
        except UnicodeError:
            return False

    async def read(
        self,
        command: Command,
        spec: CommandSpec,
        args: tuple[Any, ...],
        ttl_s: float,
        send: Callable[[Command], None],
    ) -> Any:
        """The reply, at most so old: from memory, or fetched, once for all who ask at the same time.

        A caller that is cancelled, or whose time is over, leaves the fetch to the others. One that joined a
        fetch whose own time was over makes another. Errors are those of the read, and are not kept.
        """
        while True:
            reply = self.cache.lookup(command.packed, ttl_s, time.monotonic())
            if reply is not MISSING:
                return reply
            fetch = self.cache.missed(command.packed)
            is_own = fetch is None
            if fetch is None:
                fetch = self._begin(command, self._encode(args[spec.first_key]), send)
            await asyncio.wait((fetch.future,), timeout=None if is_own else _left_s(command))
            if not fetch.future.done():
                error = DeadlineExceeded(f"{command.name} waited for another caller's until its own deadline")
                self._router.count(error)
                raise error
            if is_own or not _ran_out_of_time(fetch.future):
                return own_copy(fetch.future.result())

    def _begin(self, command: Command, key: bytes, send: Callable[[Command], None]) -> Fetch:
        owner = self._router.nodes.owners[command.slot]
        fetch = Fetch(command.packed, key, command.slot, owner, command.future, time.monotonic())
        self.cache.begin(fetch)
        fetch.future.add_done_callback(partial(self._end, fetch))
        send(CachedRead(command, fetch))
        return fetch

    def _end(self, fetch: Fetch, future: "asyncio.Future[Any]") -> None:
        if future.cancelled() or future.exception() is not None:
            self.cache.end(fetch)
        else:
            self.cache.end(fetch, future.result())


def _ran_out_of_time(future: "asyncio.Future[Any]") -> bool:
    return isinstance(future.exception(), (DeadlineExceeded, NodeUnavailable, Overloaded))


def _left_s(command: Command) -> float | None:
    """Until the command's deadline."""
    left_s = command.deadline - time.monotonic()
    return None if left_s == float("inf") else max(0.0, left_s)
