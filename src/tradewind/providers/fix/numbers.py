"""The two sequence numbers of a session, on the disk: they go on after a restart, or the sides cannot agree.

Two records of fixed length with a checksum, written in turn: a write that a crash tears leaves the other.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from tradewind.providers.errors import SequenceFileBroken

RECORD_BYTES = 64


@dataclass(frozen=True)
class Numbers:
    """The number of the next message that we send, and of the next one that we expect."""

    next_out: int = 1
    next_in: int = 1


class NumberFile:
    """`read` first, then `write`; each write is on the disk when it returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._writes = 0

    def read(self) -> Numbers:
        """:raises SequenceFileBroken: there is something else in the file"""
        data = os.pread(self._file, 2 * RECORD_BYTES, 0)
        if not data:
            return Numbers()
        records = [_parsed(data[:RECORD_BYTES]), _parsed(data[RECORD_BYTES:])]
        sound = [record for record in records if record is not None]
        if not sound:
            raise SequenceFileBroken(
                f"{str(self._path)!r} holds no sequence numbers: agree with the provider "
                "on new ones, and remove it"
            )
        self._writes, numbers = max(sound, key=lambda record: record[0])
        return numbers

    def write(self, numbers: Numbers) -> None:
        self._writes += 1
        text = f"{self._writes} {numbers.next_out} {numbers.next_in}".ljust(RECORD_BYTES - 9)
        record = f"{text}{zlib.crc32(text.encode()):08x}\n".encode()
        os.pwrite(self._file, record, self._writes % 2 * RECORD_BYTES)
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


def _parsed(record: bytes) -> tuple[int, Numbers] | None:
    text, checksum = record[:-9], record[-9:]
    if checksum != b"%08x\n" % zlib.crc32(text):
        return None
    writes, next_out, next_in = map(int, text.split())
    return writes, Numbers(next_out, next_in)
