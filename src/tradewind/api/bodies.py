"""What comes in: JSON bodies and query strings, checked against the engine's own messages.

A body is the engine's command without what is not the caller's to say: who is to hear the answer, and the
kind, which the path says.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.connection import ASGIConnection

from tradewind.api.limits import BODY_BYTES_MAX, BODY_S_MAX
from tradewind.api.problems import malformed, problem
from tradewind.engine.messages import CommandBase

NOT_THE_CALLERS: Final = frozenset({"reply_to"})
QUERY_PARAMETERS_MAX: Final = 16
_SURROGATES: Final = re.compile("[\ud800-\udfff]")

T = TypeVar("T")


def body_of(command: type[CommandBase]) -> type[msgspec.Struct]:
    """The form of a request that asks for `command`; follows the command as it grows."""
    fields = [
        (info.name, info.type) if info.required else (info.name, info.type, info.default)
        for info in msgspec.structs.fields(command)
        if info.name not in NOT_THE_CALLERS
    ]
    return msgspec.defstruct(
        f"{command.__name__}Request", fields, frozen=True, kw_only=True, forbid_unknown_fields=True
    )


def to_command(command: type[CommandBase], body: msgspec.Struct) -> CommandBase:
    """The command that the body asks for."""
    return command(**{name: getattr(body, name) for name in body.__struct_fields__})


async def read_body(request: Request[Any, Any, Any], decode: Callable[[bytes], T]) -> T:
    """The decoded body.

    :raises Problem: 400 it is not of the form; 408 it does not come; 413 too large; 415 not JSON
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise problem(415, "unsupported_media_type")
    try:
        async with asyncio.timeout(BODY_S_MAX):
            body = await request.body()
    except TimeoutError:
        raise problem(408, "slow_body") from None
    if len(body) > BODY_BYTES_MAX:
        raise problem(413, "too_large", f"The body has {len(body)} bytes; the limit is {BODY_BYTES_MAX}.")
    return _decoded(decode, body)


def read_query(request: ASGIConnection[Any, Any, Any, Any], form: type[T]) -> T:
    """Query string and path as `form`, whose fields are the parameters; each at most once.

    :raises Problem: 400 it is not of the form
    """
    try:
        raw = request.scope["query_string"].decode("ascii")
        pairs = parse_qsl(raw, keep_blank_values=True, max_num_fields=QUERY_PARAMETERS_MAX, errors="strict")
    except ValueError as error:
        raise malformed(f"The query string cannot be read: {error}.") from error
    named: dict[str, Any] = request.path_params
    values = named | dict(pairs)
    if len(values) < len(named) + len(pairs):
        raise malformed("A parameter is given twice.")
    return _decoded(lambda given: msgspec.convert(given, form, strict=False), values)


def _decoded(decode: Callable[[Any], T], given: object) -> T:
    try:
        return decode(given)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise malformed(_SURROGATES.sub("?", str(error)) + ".") from error
