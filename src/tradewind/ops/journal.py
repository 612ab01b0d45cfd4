"""What callers were told, kept outside the cluster, so that the audit has something to hold against it.

One line of JSON for each command that has ended: what was asked and the answer, or null for an outcome that
stayed unknown. Lines are written in batches; whoever kills the process loses at most the last batch, which
makes the audit weaker, never wrong. A batch that cannot be written is kept, and ends the run.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from tradewind.engine.messages import Answer, Command
from tradewind.ops.errors import JournalUnreadable, JournalUnwritable

ENTRIES_BUFFERED_MAX = 1_000


class JournalEntry(msgspec.Struct, frozen=True, array_like=True):
    """A command as it was asked, and what its caller was told; None: the outcome stayed unknown."""

    asked: Command
    told: Answer | None


_encode_lines = msgspec.json.Encoder().encode_lines
_decode = msgspec.json.Decoder(JournalEntry).decode


class Journal:
    """A journal being written. `path` None is a file without a name, which is gone when it is closed."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.entries = 0
        """Outcomes added so far."""
        # Unbuffered: every batch is handed to the system, and survives the end of this process.
        if path is None:
            self._file = cast(BinaryIO, tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - closed by close()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = cast(BinaryIO, path.open("xb+", buffering=0))
        self._buffered: list[tuple[Command, Answer | None]] = []
        self._unwritten = b""  # lines, the first one perhaps without its beginning

    def add(self, asked: Command, told: Answer | None) -> None:
        """Keep one outcome. Every `ENTRIES_BUFFERED_MAX`-th call writes a batch.

        :raises JournalUnwritable: the batch could not be written; the outcome is kept and tried again
        """
        self._buffered.append((asked, told))
        self.entries += 1
        if self._unwritten or len(self._buffered) >= ENTRIES_BUFFERED_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered.

        :raises JournalUnwritable: for want of space, for example; what was not written is kept
        """
        self._unwritten += _encode_lines(self._buffered)
        self._buffered.clear()
        while self._unwritten:
            try:
                written = self._file.write(self._unwritten)  # an unbuffered file may take less than all
            except OSError as error:
                raise self._unwritable(error.strerror or str(error)) from error
            if not written:
                raise self._unwritable("the system takes no more")
            self._unwritten = self._unwritten[written:]

    def _unwritable(self, why: str) -> JournalUnwritable:
        name = "the journal" if self.path is None else f"journal {str(self.path)!r}"
        folder = tempfile.gettempdir() if self.path is None else str(self.path.parent)
        lines = self._unwritten.count(b"\n")
        return JournalUnwritable(
            f"{name} cannot be written: {why}; {lines} answers are not in it. Make room in {folder!r}"
        )

    def read(self) -> Iterator[JournalEntry]:
        """All entries so far, from the first one. Nothing may be added meanwhile."""
        self.flush()
        self._file.seek(0)
        try:
            yield from _read(self._file, str(self.path or "journal"))
        finally:
            self._file.seek(0, 2)

    def close(self) -> None:
        """Write what is buffered and close the file."""
        try:
            self.flush()
        finally:
            self._file.close()


def earlier_journals(own: Path) -> list[Path]:
    """The other journals of the folder, in the order of their runs' beginnings."""
    return sorted(path for path in own.parent.glob(f"*{own.suffix}") if path != own)


def read_journal(path: Path) -> Iterator[JournalEntry]:
    """The entries of a journal file. A last line without its end is left out: its writer was killed.

    :raises JournalUnreadable: there is no such file, or a line is broken; names file and line
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise JournalUnreadable(f"journal {str(path)!r} cannot be read: {error.strerror}") from error
    with file:
        yield from _read(file, str(path))


def _read(file: BinaryIO, name: str) -> Iterator[JournalEntry]:
    for number, line in enumerate(_lines(file), 1):
        if not line.endswith(b"\n"):
            return
        try:
            yield _decode(line)
        except msgspec.DecodeError as error:
            raise JournalUnreadable(f"{name}:{number}: not a line of a journal: {error}") from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of a file that may be unbuffered, where reading line by line would cost a system call a byte."""
    rest = b""
    while chunk := file.read(1 << 20):
        lines = (rest + chunk).splitlines(keepends=True)
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
        yield from lines
    if rest:
        yield rest
