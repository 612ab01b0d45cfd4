"""Events as rows with typed columns: the columns follow from the engine's event classes.

Every row also has the event itself, as the engine wrote it: accounts are rebuilt from that, and an event of
a kind that this version does not know loses nothing but the columns of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

import msgspec
from msgspec import inspect

from tradewind.engine.messages import Event, decode_event
from tradewind.trail.events import StoredEvent

COMMON: Final = ("partition", "sequence", "at_ms", "type", "account", "cause", "event")
"""Columns of every row, `at_ms` in milliseconds since the epoch."""

_KINDS: Final[Mapping[type, str]] = {
    inspect.IntType: "integer",
    inspect.BoolType: "boolean",
    inspect.StrType: "text",
    inspect.LiteralType: "text",
    inspect.EnumType: "text",
}


def kinds_of_fields() -> dict[str, str]:
    """Field of an event class -> integer, boolean, text, or json where it is none of these."""
    kinds: dict[str, str] = {}
    for struct in inspect.multi_type_info(get_args(Event)):
        assert isinstance(struct, inspect.StructType)
        for item in struct.fields:
            if item.name not in COMMON:
                kind = _kind(item.type)
                kinds[item.name] = kind if kinds.get(item.name, kind) == kind else "json"
    return kinds


def _kind(found: inspect.Type) -> str:
    if isinstance(found, inspect.UnionType):
        found, *others = (one for one in found.types if not isinstance(one, inspect.NoneType))
        if others:
            return "json"
    if isinstance(found, inspect.LiteralType) and not all(isinstance(value, str) for value in found.values):
        return "json"
    return _KINDS.get(type(found), "json")


KINDS: Final = kinds_of_fields()


def columns_of(partition: int, events: Sequence[StoredEvent]) -> dict[str, list[Any]]:
    """Column -> its value in each row; None where the event has no such field."""
    rows = [_row(event.payload) for event in events]
    columns: dict[str, list[Any]] = {
        name: [row.get(name) for row in rows]
        for name in (*COMMON, *KINDS)
        if name not in ("partition", "event")
    }
    columns["partition"] = [partition] * len(events)
    columns["sequence"] = [event.sequence for event in events]
    columns["event"] = [event.payload.decode() for event in events]
    return columns


def common_rows(partition: int, events: Iterable[StoredEvent]) -> Iterable[tuple[Any, ...]]:
    """The columns of every row alone, in the order of `COMMON`."""
    for event in events:
        row = _row(event.payload)
        yield (
            partition, event.sequence, row["at_ms"], row["type"], row["account"], row["cause"],
            event.payload.decode(),
        )  # fmt: skip


def _row(payload: bytes) -> dict[str, Any]:
    try:
        event = decode_event(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _strange_row(payload)
    names = event.__struct_fields__
    row = {name: _value(getattr(event, name), KINDS.get(name, "")) for name in names}
    row["type"] = event.__struct_config__.tag
    return row


def _value(value: Any, kind: str) -> Any:
    if kind == "json" and value is not None:
        return msgspec.json.encode(value).decode()
    return value


class _Common(msgspec.Struct):
    type: str | None = None
    account: str | None = None
    cause: str | None = None
    at_ms: int | None = None


def _strange_row(payload: bytes) -> dict[str, Any]:
    """Of an event that this version cannot read: what all events have, if it has that."""
    try:
        return msgspec.structs.asdict(msgspec.json.decode(payload, type=_Common))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.structs.asdict(_Common())
