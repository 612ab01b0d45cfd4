"""The store of a client-side cache: what it keeps, what it drops, and that it stays within its limits."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.tickets import Ticket
from tradewind.client.cache import ENTRY_BYTES, MISSING, Cache, CacheOptions, Fetch, own_copy
from tradewind.client.slot_news import NO_KEY

ENTRIES_MAX = 4
BYTES_MAX = 6 * ENTRY_BYTES
COMMANDS = {f"GET {key}".encode(): key.encode() for key in "abcdef"} | {b"STRLEN a": b"a", b"STRLEN b": b"b"}
SLOTS = {key: number % 3 for number, key in enumerate(sorted(set(COMMANDS.values())))}
SOURCES = ("node 0", "node 1", "node 2")  # of the slots

commands = st.sampled_from(sorted(COMMANDS))


def make_fetch(packed: bytes, *, sent_s: float = 0.0) -> Fetch:
    key = COMMANDS[packed]
    future = cast("asyncio.Future[Any]", Ticket("fetch"))
    return Fetch(packed, key, SLOTS[key], SOURCES[SLOTS[key]], future, sent_s)


class CacheAgainstServer(RuleBasedStateMachine):
    """A server whose values change, which tells so a while later.

    Invariant: what is kept is the server's value, or its word that it has changed is on its way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache(CacheOptions(entries_max=ENTRIES_MAX, bytes_max=BYTES_MAX))
        self.version = dict.fromkeys(COMMANDS.values(), 0)
        self.tracked: set[bytes] = set()
        self.untold: list[bytes] = []
        self.replies: list[tuple[Fetch, int]] = []  # executed at the server, on their way
        self.writes: list[bytes] = []  # on their way to the server
        self.now_s = 0.0

    def reply(self, version: int) -> list[bytes]:
        return [b"x" * (version % 3) * 400, b"%d" % version]

    @rule(packed=commands, ttl_s=st.sampled_from((1.0, 1000.0)))
    def read(self, packed: bytes, ttl_s: float) -> None:
        self.now_s += 1
        if self.cache.lookup(packed, ttl_s, self.now_s) is MISSING and self.cache.missed(packed) is None:
            fetch = make_fetch(packed, sent_s=self.now_s)
            self.cache.begin(fetch)
            self.tracked.add(fetch.key)
            self.replies.append((fetch, self.version[fetch.key]))

    @rule(which=st.integers(0, 5), fails=st.booleans())
    def receive(self, which: int, fails: bool) -> None:
        if self.replies:
            fetch, version = self.replies.pop(which % len(self.replies))
            self.cache.end(fetch, MISSING if fails else self.reply(version))

    @rule(packed=commands)
    def change(self, packed: bytes) -> None:
        key = COMMANDS[packed]
        self.version[key] += 1
        if key in self.tracked:
            self.tracked.discard(key)
            self.untold.append(key)

    @rule()
    def tell(self) -> None:
        if self.untold:
            self.cache.invalidate_key(self.untold.pop(0))

    @rule(packed=commands)
    def begin_write(self, packed: bytes) -> None:
        self.cache.write_begun(SLOTS[COMMANDS[packed]])
        self.writes.append(packed)

    @rule(everything=st.booleans())
    def end_write(self, everything: bool) -> None:
        """What this client has acknowledged is seen at once, without a word from the server."""
        if self.writes:
            packed = self.writes.pop(0)
            self.change(packed)
            self.cache.write_ended(NO_KEY if everything else SLOTS[COMMANDS[packed]])
            assert self.cache.lookup(packed, 1000.0, self.now_s) is MISSING
            assert self.cache.missed(packed) is None

    @rule(source=st.sampled_from(SOURCES))
    def lose_connection(self, source: str) -> None:
        """Nothing is told any more of what was read there."""
        lost = {key for key in self.version if SOURCES[SLOTS[key]] == source}
        self.tracked -= lost
        self.untold = [key for key in self.untold if key not in lost]
        self.replies = [
            (fetch, version)
            for fetch, version in self.replies
            if fetch.source != source or not (self.cache.end(fetch))
        ]
        self.cache.invalidate_source(source)

    @rule(slot=st.integers(0, 2))
    def change_owner(self, slot: int) -> None:
        self.cache.owner_changed((slot,))

    @invariant()
    def nothing_is_kept_that_has_changed(self) -> None:
        for packed, entry in self.cache._entries.items():
            key = COMMANDS[packed]
            assert entry.reply == self.reply(self.version[key]) or key in self.untold

    @invariant()
    def the_limits_hold_and_the_books_are_right(self) -> None:
        stats = self.cache.stats()
        entries = self.cache._entries
        assert stats.entries == len(entries) <= ENTRIES_MAX
        assert stats.bytes == sum(entry.size_bytes for entry in entries.values()) <= BYTES_MAX
        for index in (self.cache._by_key, self.cache._by_slot):
            named = list(index.values())  # type: ignore[attr-defined]  # keys of two kinds
            assert all(named)
            assert set().union(*named) == {*entries, *self.cache._fetches}


TestCacheAgainstServer = CacheAgainstServer.TestCase
TestCacheAgainstServer.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


def _keep(cache: Cache, packed: bytes, reply: Any, sent_s: float = 0.0) -> None:
    fetch = make_fetch(packed, sent_s=sent_s)
    cache.begin(fetch)
    cache.end(fetch, reply)


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(CacheOptions(entries_max=2))
    for packed in (b"GET a", b"GET b"):
        _keep(cache, packed, b"1")
    cache.lookup(b"GET a", 1.0, 0.0)
    _keep(cache, b"GET c", b"1")
    assert [packed for packed in COMMANDS if cache.lookup(packed, 1.0, 0.0) is not MISSING] == [
        b"GET a",
        b"GET c",
    ]
    assert cache.stats().evictions == 1


def test_bytes_are_limited_and_what_is_too_large_is_not_kept() -> None:
    cache = Cache(CacheOptions(bytes_max=3000))
    for packed in (b"GET a", b"GET b", b"GET c"):
        _keep(cache, packed, b"x" * 800)
    assert cache.stats().entries == 2
    _keep(cache, b"GET d", b"x" * 3000)
    assert cache.stats().entries == 2
    assert cache.missed(b"GET d") is None


def test_a_reply_is_too_old_for_one_caller_and_not_for_another() -> None:
    cache = Cache(CacheOptions())
    _keep(cache, b"GET a", b"1", sent_s=10.0)
    assert cache.lookup(b"GET a", 5.0, 14.9) == b"1"
    assert cache.lookup(b"GET a", 5.0, 15.0) is MISSING
    assert cache.lookup(b"GET a", 6.0, 15.0) == b"1"


def test_what_is_fetched_anew_takes_the_place_of_what_was_kept() -> None:
    cache = Cache(CacheOptions())
    _keep(cache, b"GET a", b"x" * 1000)
    fetch = make_fetch(b"GET a")
    cache.begin(fetch)
    assert (cache.stats().entries, cache.stats().bytes) == (0, 0)
    cache.end(fetch, b"1")
    assert cache.stats().entries == 1
    assert cache.stats().bytes < 1000


def test_one_caller_may_change_what_it_got() -> None:
    reply = {"a": [1, {2}], "b": "text"}
    mine = own_copy(reply)
    mine["a"].append(3)
    mine["a"][1].add(4)
    assert reply == {"a": [1, {2}], "b": "text"}


@pytest.mark.parametrize(
    "options", [{"entries_max": 0}, {"bytes_max": 0}, {"ttl_s": 0.0}, {"ttl_s": float("nan")}]
)
def test_limits_are_positive(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        CacheOptions(**options)
