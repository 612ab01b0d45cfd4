"""What the server says about each command: whether it reads, blocks, and where its keys stand.

Everything comes from the reply of `COMMAND` (flags and key specifications, Redis 7.0 and newer), so that no
table of ours can grow old. Source of the format: https://redis.io/docs/latest/develop/reference/key-specs/
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

BYTES_LIKE = (bytes, bytearray, memoryview)
TEXTS = (str, *BYTES_LIKE)

# A command with none of these flags, and with keys that it only reads, has no effect and may run again.
EFFECT_FLAGS = frozenset({"write", "may_replicate", "admin", "pubsub"})
# What a key specification says of a command that changes its keys: EVAL and FCALL have no "write" flag.
KEY_CHANGE_FLAGS = frozenset({"RW", "OW", "RM", "insert", "update", "delete"})

# These change or depend on the connection, which other callers share. Each names what to use instead.
CONNECTION_STATE_COMMANDS: Mapping[str, str] = {
    "ASKING": "redirects are followed by the client",
    "AUTH": "pass username and password, or a credential_provider, to the client",
    "CLIENT CACHING": "the client decides about tracking",
    "CLIENT NO-TOUCH": "it would hold for all callers",
    "CLIENT REPLY": "replies are matched by position and cannot be switched off",
    "CLIENT TRACKING": "the client decides about tracking",
    "DISCARD": "use pipeline(transaction=True)",
    "EXEC": "use pipeline(transaction=True)",
    "HELLO": "pass protocol=2 or 3 to the client",
    "HIMPORT DISCARD": "its fieldsets belong to a connection: use HSET",
    "HIMPORT DISCARDALL": "its fieldsets belong to a connection: use HSET",
    "HIMPORT PREPARE": "its fieldsets belong to a connection: use HSET",
    "HIMPORT SET": "its fieldsets belong to a connection: use HSET",
    "MONITOR": "use client.monitor()",
    "MULTI": "use pipeline(transaction=True)",
    "PSUBSCRIBE": "use client.pubsub()",
    "PSYNC": "it is for replicas only",
    "QUIT": "use aclose()",
    "READONLY": "the client decides which node serves reads",
    "READWRITE": "the client decides which node serves reads",
    "REPLCONF": "it is for replicas only",
    "RESET": "the connection is shared",
    "SCRIPT DEBUG": "use a redis-py connection of its own",
    "SELECT": "a cluster has one database",
    "SSUBSCRIBE": "use client.pubsub() or client.sharded_subscription()",
    "SUBSCRIBE": "use client.pubsub()",
    "SYNC": "it is for replicas only",
    "UNWATCH": "use pipeline(transaction=True)",
    "WAIT": "it speaks of its own connection's writes only: use client.durable(replicas=N)",
    "WAITAOF": "it speaks of its own connection's writes only: use client.durable(replicas=N)",
    "WATCH": "use pipeline(transaction=True)",
}


# Used only where the server does not say so itself: what must not hold a connection that others share.
BLOCKING_COMMANDS = (
    "BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX", "BZPOPMIN",
    "XREAD", "XREADGROUP",
)  # fmt: skip


class KeySpec(NamedTuple):
    """One key specification: where the search begins and how the keys are found from there."""

    keyword: str  # "" when the search begins at `begin`
    begin: int
    kind: str  # "range" or "keynum"
    first: int  # range: last key; keynum: index of the count
    step: int
    extra: int  # range: limit; keynum: first key


class CommandSpec(NamedTuple):
    """What the client needs to know of one command."""

    name: str
    repeatable: bool
    writes: bool
    blocking: bool
    first_key: int  # index in redis-py's args when there is exactly one simple key range, else 0
    key_specs: tuple[KeySpec, ...]
    runs_when_busy: bool = False  # also while a script has taken too long
    reads: bool = False  # it reads keys, and nothing else: a replica can answer
    cacheable: bool = False  # ... one key, on which alone the reply depends


class Catalog(dict[str, CommandSpec]):
    """Specs by name, for finding that of a call. A server's new answer is a new catalog."""

    def __init__(self, specs: Mapping[str, CommandSpec] | None = None) -> None:
        super().__init__(specs or {})
        # Commands whose second word names what they do.
        self._containers = {name.partition(" ")[0] for name in self if " " in name}

    def name_of(self, first: Any) -> str:
        """The name in a call's first argument, as it is spelled here."""
        return first if first in self else word(first)

    def look_up(self, args: tuple[Any, ...]) -> CommandSpec:
        """One that the server does not list counts as a write without keys."""
        name = self.name_of(args[0])
        spec = self.get(name)
        words = name.split()
        if spec is None and words and words != [name]:  # sent as several words, so looked at as such
            return self.look_up((*words, *args[1:]))
        if name in self._containers and len(args) > 1 and isinstance(args[1], TEXTS):
            spec = self.get(f"{name} {word(args[1])}", spec)
        if spec is None:
            spec = self.get(name.split(" ")[0]) or CommandSpec(name, False, True, False, 0, ())
        return spec

    def short_path(self) -> dict[str, tuple[int, bool]]:
        """Of those that need no more thought: where the one key stands, and whether it is repeatable."""
        return {
            name: (spec.first_key, spec.repeatable)
            for name, spec in self.items()
            if spec.first_key > 0
            and not spec.blocking
            and " " not in name
            and name not in CONNECTION_STATE_COMMANDS
        }


def word(value: Any) -> str:
    """A word of a command as the catalog and redis-py's callbacks spell it."""
    return _text(value).upper()


def parse_catalog(reply: Iterable[Any]) -> dict[str, CommandSpec]:
    """Specs by name as redis-py writes it (`"GET"`, `"XINFO STREAM"`), from the raw reply of COMMAND."""
    catalog: dict[str, CommandSpec] = {}
    for entry in reply:
        _add(catalog, entry)
    return catalog


def untold_catalog() -> dict[str, CommandSpec]:
    """For a user whom the server does not tell its commands: all but these count as writes without keys."""
    return {name: CommandSpec(name, False, True, True, 0, ()) for name in BLOCKING_COMMANDS}


def _add(catalog: dict[str, CommandSpec], entry: list[Any]) -> None:
    name = _text(entry[0]).upper().replace("|", " ")
    flags = frozenset(_text(flag) for flag in entry[2])
    raw_specs = [_mapping(raw) for raw in entry[8]]
    specs = tuple(spec for raw in raw_specs if (spec := _key_spec(raw)) is not None)
    changes_keys = any(KEY_CHANGE_FLAGS & {_text(flag) for flag in raw["flags"]} for raw in raw_specs)
    writes = "readonly" not in flags and (changes_keys or bool(flags & {"write", "may_replicate"}))
    # The script that EVALSHA_RO names may be unknown on a replica: scripts are not replicated.
    reads = "readonly" in flags and bool(specs) and name != "EVALSHA_RO"
    first_key = _first_key(name, specs)
    # TTL and SRANDMEMBER have this tip: what they say changes without a write.
    is_lasting = "nondeterministic_output" not in {_text(tip) for tip in entry[7]}
    catalog[name] = CommandSpec(
        name=name,
        repeatable="readonly" in flags or not (writes or flags & EFFECT_FLAGS),
        writes=writes,
        blocking="blocking" in flags,
        first_key=first_key,
        key_specs=specs,
        runs_when_busy="allow_busy" in flags,
        reads=reads,
        cacheable=reads and first_key > 0 and "blocking" not in flags and is_lasting,
    )
    for subcommand in entry[9]:
        _add(catalog, subcommand)


def _first_key(name: str, specs: tuple[KeySpec, ...]) -> int:
    """The short path: one key, at a fixed place. Several keys need the check that they share a slot."""
    if len(specs) != 1:
        return 0
    spec = specs[0]
    if spec.keyword or spec.kind != "range" or spec.first != 0:
        return 0
    return spec.begin - name.count(" ")


def _key_spec(raw: Mapping[str, Any]) -> KeySpec | None:
    begin, find = _mapping(raw["begin_search"]), _mapping(raw["find_keys"])
    begin_type, find_type = _text(begin["type"]), _text(find["type"])
    if "unknown" in (begin_type, find_type):
        return None
    begin_spec, find_spec = _mapping(begin["spec"]), _mapping(find["spec"])
    keyword = _text(begin_spec["keyword"]).upper() if begin_type == "keyword" else ""
    start = int(begin_spec["startfrom"] if keyword else begin_spec["index"])
    if find_type == "range":
        last, step, limit = (int(find_spec[field]) for field in ("lastkey", "keystep", "limit"))
        return KeySpec(keyword, start, "range", last, step, limit)
    count, first, step = (int(find_spec[field]) for field in ("keynumidx", "firstkey", "keystep"))
    return KeySpec(keyword, start, "keynum", count, step, first)


def find_keys(spec: CommandSpec, args: tuple[Any, ...]) -> list[Any]:
    """The keys among redis-py's args (whose first element may hold several words)."""
    words = str(args[0]).count(" ")
    argv = (*([None] * words), *args)
    keys: list[Any] = []
    for key_spec in spec.key_specs:
        keys.extend(_keys_of(key_spec, argv))
    return keys


def _keys_of(spec: KeySpec, argv: tuple[Any, ...]) -> list[Any]:
    begin = _begin(spec, argv)
    if begin is None or begin >= len(argv):
        return []
    if spec.kind == "keynum":
        count = int(argv[begin + spec.first])
        first = begin + spec.extra
        return list(argv[first : first + count * spec.step : spec.step])
    if spec.first >= 0:
        last = begin + spec.first
    else:
        last = len(argv) + spec.first
        if spec.extra > 1:  # "limit": only the first 1/limit of the rest are keys (XREAD: keys then ids)
            last = begin + (last - begin + 1) // spec.extra - 1
    return list(argv[begin : last + 1 : spec.step])


def _begin(spec: KeySpec, argv: tuple[Any, ...]) -> int | None:
    if not spec.keyword:
        return spec.begin
    backwards = spec.begin < 0
    indexes = range(len(argv) + spec.begin, 0, -1) if backwards else range(spec.begin, len(argv))
    for index in indexes:
        word = argv[index]
        if isinstance(word, (str, bytes)) and _text(word).upper() == spec.keyword:
            return index + 1
    return None


def _mapping(raw: Any) -> Mapping[str, Any]:
    """A RESP3 map, or RESP2's flat list of pairs, with text keys."""
    pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
    return {_text(key): value for key, value in pairs}


def _text(value: Any) -> str:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, BYTES_LIKE) else str(value)
