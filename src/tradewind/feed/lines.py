"""The lines of a plain or gzipped text file, streamed, with every line bounded and known to be text.

Memory stays constant whatever the file holds: a line is read up to LINE_BYTES_MAX and no further, so
neither a binary file nor a decompression bomb can grow.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Generator, Iterator
from io import BufferedReader
from os import PathLike

from tradewind.feed.errors import TickFileError

LINE_BYTES_MAX = 256
"""Longest line accepted, in bytes with its line end. The longest real one seen (HistData, TrueFX) has 49."""

GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

ByteLines = BufferedReader | gzip.GzipFile


def read_lines(path: str | PathLike[str]) -> Generator[tuple[int, str], None, None]:
    """Yield (line number from 1, line without its end) of a CSV or gzipped CSV, recognised by content.

    Empty lines are allowed at the end of the file only. Raises TickFileError naming file and line for
    whatever is not ASCII text in lines of at most LINE_BYTES_MAX, for a damaged gzip, and for an unreadable
    file.
    """
    try:
        with _open_regular(path) as file:
            yield from _checked_lines(path, _decompressed(path, file))
    except EOFError:
        raise TickFileError(path, None, "the gzip data ends too early: the file is truncated") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise TickFileError(path, None, f"the gzip data is damaged ({error})") from None
    except OSError as error:
        raise TickFileError(path, None, f"cannot be read ({error.strerror or error})") from None


def _open_regular(path: str | PathLike[str]) -> BufferedReader:
    """Only regular files: a feed is read twice (validated, then replayed), and a pipe would block."""
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a NUL in the path
        raise TickFileError(path, None, f"is not a file name ({error})") from None
    if not stat.S_ISREG(mode):
        raise TickFileError(path, None, "is not a regular file")
    return open(path, "rb")


def _decompressed(path: str | PathLike[str], file: BufferedReader) -> ByteLines:
    magic = file.peek(len(ZIP_MAGIC))
    if magic.startswith(ZIP_MAGIC):
        raise TickFileError(path, None, "is a zip archive: unpack it and give the CSV inside")
    return gzip.GzipFile(fileobj=file, mode="rb") if magic.startswith(GZIP_MAGIC) else file


def _checked_lines(path: str | PathLike[str], file: ByteLines) -> Iterator[tuple[int, str]]:
    number, empty_line = 0, 0
    while raw := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if number == 1:
            raw = raw.removeprefix(BYTE_ORDER_MARK)
        line = _text(path, number, raw)
        if not line:
            empty_line = empty_line or number
        elif empty_line:
            raise TickFileError(path, empty_line, "is empty, but more lines follow")
        else:
            yield number, line


def _text(path: str | PathLike[str], number: int, raw: bytes) -> str:
    shown = raw.decode("latin-1").rstrip("\r\n")
    if b"\0" in raw:
        raise TickFileError(path, number, "holds a NUL byte, so this is not a text file", shown)
    if not raw.isascii():
        raise TickFileError(path, number, "holds bytes that are not ASCII text", shown)
    if len(raw) > LINE_BYTES_MAX:
        raise TickFileError(path, number, f"is longer than {LINE_BYTES_MAX} bytes", shown)
    return shown
