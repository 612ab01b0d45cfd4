"""Bytes to FIX messages and back: simplefix encodes and decodes; where a message ends is decided here.

By its length and checksum: a garbled one is passed over, as the standard wants.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import simplefix

BEGIN = b"8=FIX.4.4\x01"
CHECKSUM_BYTES = 7  # "10=123" and its end
LENGTH_DIGITS_MAX = 6
MESSAGE_BYTES_MAX = 65_536

Fields: TypeAlias = Mapping[int, str]
"""Tag -> value. Of a tag that is repeated, the first one: we ask for no message with groups."""
Pairs: TypeAlias = Iterable[tuple[int, str | int]]


def encoded(pairs: Pairs) -> bytes:
    """A whole message: begin string, length and checksum are added."""
    message = simplefix.FixMessage()
    message.append_pair(8, "FIX.4.4")
    for tag, value in pairs:
        message.append_pair(tag, value)
    return bytes(message.encode())


class Frames:
    """What has come on one connection and is not a whole message yet."""

    def __init__(self) -> None:
        self.garbled = 0
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Fields]:
        """The messages that are whole now, in order. Bytes that belong to none are passed over."""
        self._buffer += data
        found: list[Fields] = []
        while True:
            start = self._buffer.find(BEGIN)
            if start < 0:
                del self._buffer[
                    : max(0, len(self._buffer) - len(BEGIN) + 1)
                ]  # perhaps a beginning's beginning
                return found
            del self._buffer[:start]
            end = _end(self._buffer)
            if end is None:
                return found
            if end > 0 and _is_sound(frame := bytes(self._buffer[:end])):
                found.append(_decoded(frame))
                del self._buffer[:end]
            else:
                self.garbled += 1
                del self._buffer[:1]  # the next beginning may be inside


def _end(buffer: bytearray) -> int | None:
    """Where the message at the beginning ends; None: not all of it is here; 0: it is none."""
    length_end = buffer.find(b"\x01", len(BEGIN))
    if length_end < 0:
        return None if len(buffer) < len(BEGIN) + LENGTH_DIGITS_MAX + 2 else 0
    field = bytes(buffer[len(BEGIN) : length_end])
    digits = field[2:]
    if not field.startswith(b"9=") or not digits.isdigit() or int(digits) > MESSAGE_BYTES_MAX:
        return 0
    end = length_end + 1 + int(digits) + CHECKSUM_BYTES
    return end if len(buffer) >= end else None


def _is_sound(frame: bytes) -> bool:
    body, trailer = frame[:-CHECKSUM_BYTES], frame[-CHECKSUM_BYTES:]
    return trailer == b"10=%03d\x01" % (sum(body) % 256) and body.endswith(b"\x01")


def _decoded(frame: bytes) -> Fields:
    parser = simplefix.FixParser()
    parser.append_buffer(frame)
    message = parser.get_message()
    fields: dict[int, str] = {}
    for tag, value in message.pairs if message is not None else ():
        fields.setdefault(int(tag), value.decode("latin-1"))
    return fields
