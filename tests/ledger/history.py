"""What was asked and what was told, written down as it happens: one file for each client, one line each.

The line of a question is with the system before the question is handed in, so that a client which is killed
finds all it may have asked when it comes back; a line without its end was never acted upon. Times are
`time.monotonic_ns()`, one clock for all processes of the machine.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from tradewind.engine.messages import Answer, Command

Silence: TypeAlias = Literal["unknown", "given_up", "not_sent"]
"""How an asking without an answer ended: OutcomeUnknown, its caller waited no longer, or nothing was sent."""


class Asked(msgspec.Struct, frozen=True, array_like=True, tag="asked"):
    """`asking` counts within one file, from 1."""

    asking: int
    at_ns: int
    command: Command


class Told(msgspec.Struct, frozen=True, array_like=True, tag="told"):
    asking: int
    at_ns: int
    answer: Answer


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="ended"):
    asking: int
    at_ns: int
    how: Silence


Line: TypeAlias = Asked | Told | Ended

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


class HistoryWriter:
    """Goes on where an earlier process with this file was stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._asking = 0
        whole_bytes = 0
        for line, end in _lines_and_ends(path):
            whole_bytes = end
            self._asking = max(self._asking, line.asking)
        os.truncate(path, whole_bytes)

    def asked(self, command: Command) -> int:
        """Returns the number of this asking."""
        self._asking += 1
        self._write(Asked(self._asking, time.monotonic_ns(), command))
        return self._asking

    def told(self, asking: int, answer: Answer) -> None:
        self._write(Told(asking, time.monotonic_ns(), answer))

    def ended(self, asking: int, how: Silence) -> None:
        self._write(Ended(asking, time.monotonic_ns(), how))

    def _write(self, line: Line) -> None:
        data = _encode(line) + b"\n"
        if self._file.write(data) != len(data):
            raise OSError(f"{self._path}: the system takes no more")

    def close(self) -> None:
        self._file.close()


def read_history(path: Path) -> Iterator[Line]:
    """All whole lines, from the first one."""
    return (line for line, _ in _lines_and_ends(path))


def _lines_and_ends(path: Path) -> Iterator[tuple[Line, int]]:
    end = 0
    with path.open("rb") as file:
        for data in file:
            if not data.endswith(b"\n"):
                return
            end += len(data)
            yield _decode(data), end


class Asking(msgspec.Struct, array_like=True):
    """One question with what became of it. Neither `answer` nor `how`: its process was killed meanwhile."""

    command: Command
    asked_ns: int
    ended_ns: int = 0
    answer: Answer | None = None
    how: Silence | None = None


def askings(path: Path) -> Iterator[Asking]:
    """The questions of one file, each when it has ended; those of killed processes at the end."""
    open_ones: dict[int, Asking] = {}
    for line in read_history(path):
        if isinstance(line, Asked):
            open_ones[line.asking] = Asking(line.command, line.at_ns)
            continue
        asking = open_ones.pop(line.asking)
        asking.ended_ns = line.at_ns
        if isinstance(line, Told):
            asking.answer = line.answer
        else:
            asking.how = line.how
        yield asking
    yield from open_ones.values()
