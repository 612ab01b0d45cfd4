"""Whatever a file holds, reading it ends in lines or in one printable line of error, in bounded memory."""

from __future__ import annotations

import gzip
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tradewind.feed.errors import TEXT_SHOWN_MAX, FeedError, TickFileError
from tradewind.feed.lines import LINE_BYTES_MAX, read_lines

if TYPE_CHECKING:
    from conftest import WriteTicks


def lines_of(path: Path) -> list[tuple[int, str]]:
    return list(read_lines(path))


def error_of(path: Path) -> TickFileError:
    with pytest.raises(TickFileError) as caught:
        lines_of(path)
    assert str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n\n", ""])
def test_lines_are_numbered_and_stripped_of_their_ends(
    write_ticks: WriteTicks, compressed: bool, end: str
) -> None:
    path = write_ticks("a.csv", "one\r\ntwo" + end, compressed)
    assert lines_of(path) == [(1, "one"), (2, "two")]


def test_gzip_is_recognised_by_content_whatever_the_name(write_ticks: WriteTicks) -> None:
    assert lines_of(write_ticks("a.csv", "one\n", compressed=True)) == [(1, "one")]
    assert lines_of(write_ticks("a.csv.gz", "one\n")) == [(1, "one")]


def test_gzip_of_several_members_is_one_file(write_ticks: WriteTicks) -> None:
    path = write_ticks("a.csv.gz", gzip.compress(b"one\nt", mtime=0) + gzip.compress(b"wo\n", mtime=0))
    assert lines_of(path) == [(1, "one"), (2, "two")]


def test_byte_order_mark_is_dropped(write_ticks: WriteTicks) -> None:
    assert lines_of(write_ticks("a.csv", b"\xef\xbb\xbfone\n")) == [(1, "one")]


def test_empty_line_between_lines_is_an_error(write_ticks: WriteTicks) -> None:
    error = error_of(write_ticks("a.csv", "one\n\ntwo\n"))
    assert (error.line, error.why) == (2, "is empty, but more lines follow")


def test_line_of_the_longest_length_is_read_and_one_more_byte_is_not(write_ticks: WriteTicks) -> None:
    longest = "x" * (LINE_BYTES_MAX - 1)
    assert lines_of(write_ticks("a.csv", longest + "\n")) == [(1, longest)]
    error = error_of(write_ticks("b.csv", longest + "x\n"))
    assert (error.line, error.why) == (1, f"is longer than {LINE_BYTES_MAX} bytes")


def test_error_is_one_short_line(write_ticks: WriteTicks) -> None:
    path = write_ticks("a.csv", "one\n" + "y" * 5_000)
    shown = "y" * TEXT_SHOWN_MAX + "..."
    assert str(error_of(path)) == f"{path}:2: is longer than {LINE_BYTES_MAX} bytes: {shown}"


def test_control_characters_do_not_reach_the_message(write_ticks: WriteTicks) -> None:
    assert str(error_of(write_ticks("a\nb.csv", b"ab\0\x1b[31m\n"))).endswith(
        r"a\nb.csv:1: holds a NUL byte, so this is not a text file: ab\x00\x1b[31m"
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"one\nt\0o\n", "NUL byte"),
        (b"\xff\xfeo\0n\0e\0", "NUL byte"),
        (b"\x89PNG\r\n\x1a\n", "not ASCII"),
        ("1,1€\n".encode(), "not ASCII"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x1f\x8b", "truncated"),
        (b"\x1f\x8b\x08garbage", "gzip data"),
        (gzip.compress(b"one\n" * 9_000, mtime=0)[:-20], "truncated"),
        (gzip.compress(b"one\n" * 9_000, mtime=0)[:40], "truncated"),
        (gzip.compress(b"one\n", mtime=0)[:-8] + b"\0" * 8, "damaged"),
        (gzip.compress(b"one\n", mtime=0) + b"garbage", "damaged"),
        (gzip.compress(b"z" * 1_000_000, mtime=0), "longer than"),
    ],
)
def test_what_is_no_text_is_one_clean_error(write_ticks: WriteTicks, content: bytes, why: str) -> None:
    assert why in error_of(write_ticks("a.csv", content)).why


def test_unreadable_files_are_clean_errors(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a regular file" in error_of(pipe).why
    assert "not a regular file" in error_of(tmp_path).why
    assert "No such file" in error_of(tmp_path / "absent.csv").why
    assert "not a file name" in error_of(Path("a\0b")).why
    assert str(error_of(tmp_path / "absent.csv")).startswith(f"{tmp_path}/absent.csv: cannot be read")


def test_error_survives_pickling_and_is_a_feed_error() -> None:
    error = TickFileError("a.csv", 3, "is wrong", "text")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, FeedError)
    assert (str(copy), copy.line) == ("a.csv:3: is wrong: text", 3)


def test_memory_stays_bounded_by_the_line_not_the_file(write_ticks: WriteTicks) -> None:
    path = write_ticks("bomb.csv.gz", b"z" * 30_000_000, compressed=True)
    tracemalloc.start()
    try:
        error_of(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(content=st.binary(max_size=600), compressed=st.booleans())
def test_any_bytes_are_lines_or_one_clean_error(
    write_ticks: WriteTicks, content: bytes, compressed: bool
) -> None:
    path = write_ticks("any.csv", content, compressed)
    try:
        lines = lines_of(path)
    except TickFileError as error:
        assert str(error).isprintable()
    else:
        assert [number for number, _ in lines] == list(range(1, len(lines) + 1))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(cut=st.integers(0, 200), flipped=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_damaged_gzip_never_raises_anything_else(
    write_ticks: WriteTicks, cut: int, flipped: int, bit: int
) -> None:
    data = bytearray(gzip.compress(b"20200101 170000065,1.121200,1.121720,0\n" * 50, mtime=0))
    data[flipped % len(data)] ^= 1 << bit
    path = write_ticks("damaged.csv.gz", bytes(data[: max(len(data) - cut, 1)]))
    try:
        lines_of(path)
    except TickFileError as error:
        assert str(error).isprintable()
