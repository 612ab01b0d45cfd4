"""What a client-side cache holds and when it lets go of it: the decisions, without any I/O.

A reply is kept under the packed command that asked for it. It is dropped when the server says that its key
has changed, when this client writes to its slot, when the slot changes its owner, when a connection of the
node that it came from ends (nobody would tell of changes any more), when it is the least recently used and
room is needed, and for callers to whom it is too old.

A `Fetch` stands for a reply on its way, on which any number of callers wait. Whatever drops a reply also
disowns a fetch: its callers, who asked before, get the reply, but it is not kept, and later callers ask anew.
So a change that is told between a read and its reply, in whatever order the two come, wins.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from tradewind.client.slot_news import NO_KEY

ENTRY_BYTES = 400  # what an entry takes beside command and reply (measured on CPython 3.11)
ITEM_BYTES = 60  # an object in a reply


@dataclass(frozen=True)
class CacheOptions:
    """Limits of a client's cache, and what is cached without being asked for.

    Reads of keys that begin with one of `prefixes` are cached for at most `ttl_s`; others only through
    `client.cached()`. `entries_max` replies of together about `bytes_max` are kept.
    """

    prefixes: tuple[str | bytes, ...] = ()
    entries_max: int = 10_000
    bytes_max: int = 64 * 1024 * 1024
    ttl_s: float = 60.0

    def __post_init__(self) -> None:
        if self.entries_max < 1 or self.bytes_max < 1 or not self.ttl_s > 0:
            raise ValueError(f"{self}: entries_max, bytes_max and ttl_s must be positive")


@dataclass(frozen=True)
class CacheStats:
    """A client's cache. Counts since the client was opened, unless they are states."""

    entries: int = 0
    bytes: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    invalidations: int = 0


class Fetch:
    """A reply on its way from `source`, the owner of the slot: it is disowned when that changes."""

    __slots__ = ("future", "is_wanted", "key", "packed", "sent_s", "slot", "source")

    def __init__(
        self,
        packed: bytes,
        key: bytes,
        slot: int,
        source: object,
        future: "asyncio.Future[Any]",
        sent_s: float,
    ) -> None:
        self.packed = packed
        self.key = key
        self.slot = slot
        self.source = source
        self.future = future
        self.sent_s = sent_s
        self.is_wanted = True  # the reply may be kept


class _Entry:
    __slots__ = ("fetch", "reply", "size_bytes")

    def __init__(self, fetch: Fetch, reply: Any, size_bytes: int) -> None:
        self.fetch = fetch
        self.reply = reply
        self.size_bytes = size_bytes


MISSING = object()
Name = TypeVar("Name")


class Cache:
    """Replies by command, least recently used first out. A `SlotListener`. Not thread safe."""

    def __init__(self, options: CacheOptions) -> None:
        self._options = options
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._fetches: dict[bytes, Fetch] = {}
        self._by_key: dict[bytes, set[bytes]] = {}  # packed commands, of entries and fetches
        self._by_slot: dict[int, set[bytes]] = {}
        self._bytes = 0
        self._hits = self._misses = self._evictions = self._invalidations = 0

    # -- reading ---------------------------------------------------------------------------------------------

    def lookup(self, packed: bytes, ttl_s: float, now_s: float) -> Any:
        """The reply, for this caller alone, or MISSING if there is none that was asked for so lately."""
        entry = self._entries.get(packed)
        if entry is None or now_s - entry.fetch.sent_s >= ttl_s:
            return MISSING
        self._hits += 1
        self._entries.move_to_end(packed)
        return own_copy(entry.reply)

    def missed(self, packed: bytes) -> Fetch | None:
        """A caller has found nothing: a fetch that it may join, if there is one."""
        self._misses += 1
        return self._fetches.get(packed)

    def begin(self, fetch: Fetch) -> None:
        """It is about to be sent. An older reply is let go."""
        self._drop_entry(fetch.packed)
        self._fetches[fetch.packed] = fetch
        self._by_key.setdefault(fetch.key, set()).add(fetch.packed)
        self._by_slot.setdefault(fetch.slot, set()).add(fetch.packed)

    def end(self, fetch: Fetch, reply: Any = MISSING) -> None:
        """It is over: keep the reply, unless it failed or has been disowned meanwhile."""
        if self._fetches.get(fetch.packed) is fetch:
            del self._fetches[fetch.packed]
            size_bytes = ENTRY_BYTES + len(fetch.packed) + _size_bytes(reply)
            if reply is not MISSING and fetch.is_wanted and size_bytes <= self._options.bytes_max:
                self._entries[fetch.packed] = _Entry(fetch, reply, size_bytes)
                self._bytes += size_bytes
                self._make_room()
            else:
                self._forget_names(fetch)

    def _make_room(self) -> None:
        while len(self._entries) > self._options.entries_max or self._bytes > self._options.bytes_max:
            self._evictions += 1
            self._drop_entry(next(iter(self._entries)))

    # -- letting go ------------------------------------------------------------------------------------------

    def invalidate_key(self, key: bytes) -> None:
        """The server says that it has changed."""
        self._drop(self._by_key.get(key, ()))

    def invalidate_source(self, source: object) -> None:
        """Nobody tells any more what changes there, or all of it has changed."""
        self._drop_where(lambda fetch: fetch.source is source)

    def flush(self) -> None:
        """Keep nothing."""
        self._drop_where(lambda _fetch: True)

    def write_begun(self, slot: int) -> None:
        """The slot's replies are about to be outdated."""
        if slot == NO_KEY:
            self.flush()
        else:
            self._drop(self._by_slot.get(slot, ()))

    def write_ended(self, slot: int) -> None:
        """What was read meanwhile may be from before."""
        self.write_begun(slot)

    def owner_changed(self, slots: Iterable[int]) -> None:
        """The one that tells of changes is another one now."""
        for slot in slots:
            self._drop(self._by_slot.get(slot, ()))

    def is_moving(self, slot: int) -> None:
        """The same soon."""
        self.owner_changed((slot,))

    def _drop_where(self, condition: Callable[[Fetch], bool]) -> None:
        fetches = [*(entry.fetch for entry in self._entries.values()), *self._fetches.values()]
        self._drop([fetch.packed for fetch in fetches if condition(fetch)])

    def _drop(self, commands: Iterable[bytes]) -> None:
        for packed in tuple(commands):
            self._invalidations += 1
            self._drop_entry(packed)
            fetch = self._fetches.pop(packed, None)
            if fetch is not None:
                fetch.is_wanted = False
                self._forget_names(fetch)

    def _drop_entry(self, packed: bytes) -> None:
        entry = self._entries.pop(packed, None)
        if entry is not None:
            self._bytes -= entry.size_bytes
            self._forget_names(entry.fetch)

    def _forget_names(self, fetch: Fetch) -> None:
        _discard(self._by_key, fetch.key, fetch.packed)
        _discard(self._by_slot, fetch.slot, fetch.packed)

    def stats(self) -> CacheStats:
        """The cache now."""
        return CacheStats(
            entries=len(self._entries),
            bytes=self._bytes,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            invalidations=self._invalidations,
        )


def _discard(index: dict[Name, set[bytes]], name: Name, packed: bytes) -> None:
    index[name].discard(packed)
    if not index[name]:
        del index[name]


def own_copy(reply: Any) -> Any:
    """The same reply for one caller, who may change it."""
    if isinstance(reply, list):
        return [own_copy(item) for item in reply]
    if isinstance(reply, dict):
        return {key: own_copy(value) for key, value in reply.items()}
    return set(reply) if isinstance(reply, set) else reply


def _size_bytes(reply: Any) -> int:
    if isinstance(reply, (bytes, str)):
        return ITEM_BYTES + len(reply)
    if isinstance(reply, dict):
        return ITEM_BYTES + sum(_size_bytes(key) + _size_bytes(value) for key, value in reply.items())
    if isinstance(reply, (list, set, tuple)):
        return ITEM_BYTES + sum(map(_size_bytes, reply))
    return ITEM_BYTES
