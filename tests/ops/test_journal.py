import errno
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from tradewind.engine.messages import Answer, Deposit, Place
from tradewind.ops.errors import JournalUnreadable, JournalUnwritable
from tradewind.ops.journal import ENTRIES_BUFFERED_MAX, Journal, earlier_journals, read_journal

ASKED = Place(account="A", id="1", symbol="EURUSD", side="buy", volume=1_000)
TOLD = Answer(id="1", account="A", status="filled", position="0-1", price=112_130, sequence=1)


def test_what_was_added_is_read_again():
    journal = Journal()
    for n in range(ENTRIES_BUFFERED_MAX + 10):
        journal.add(Deposit(account="A", id=str(n), amount=n), None)
    journal.add(ASKED, TOLD)
    entries = list(journal.read())
    assert len(entries) == journal.entries == ENTRIES_BUFFERED_MAX + 11
    assert [entry.asked.id for entry in entries[:-1]] == [str(n) for n in range(ENTRIES_BUFFERED_MAX + 10)]
    assert entries[0].told is None
    assert (entries[-1].asked, entries[-1].told) == (ASKED, TOLD)
    journal.add(ASKED, TOLD)
    assert len(list(journal.read())) == ENTRIES_BUFFERED_MAX + 12
    journal.close()


def test_a_file_survives_its_writer_but_for_a_torn_line(tmp_path):
    path = tmp_path / "folder" / "run.jsonl"
    journal = Journal(path)
    journal.add(ASKED, TOLD)
    journal.close()
    with path.open("ab") as file:
        file.write(b'[{"type":"pla')
    assert [entry.told for entry in read_journal(path)] == [TOLD]


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = Journal(path)
    journal.add(ASKED, TOLD)
    journal.close()
    with path.open("ab") as file:
        file.write(b"no journal\n")
    with pytest.raises(JournalUnreadable, match=r"run\.jsonl:2: "):
        list(read_journal(path))


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(JournalUnreadable, match=r"none\.jsonl' cannot be read: No such file"):
        list(read_journal(tmp_path / "none.jsonl"))


class FullDisk:
    """Takes at most `room` bytes, a few at a time, then refuses as a full disk does."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        self.file = file
        self.room = room

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(data[: min(self.room, 7)])
        self.room -= written
        return written

    def close(self) -> None:
        self.file.close()


def on_a_full_disk(path: Path, room: int) -> tuple[Journal, FullDisk]:
    journal = Journal(path)
    disk = FullDisk(journal._file, room)
    journal._file = cast(BinaryIO, disk)
    return journal, disk


def test_short_writes_are_completed(tmp_path):
    journal, _ = on_a_full_disk(tmp_path / "run.jsonl", room=1_000_000)
    for _ in range(10):
        journal.add(ASKED, TOLD)
    journal.close()
    assert [entry.told for entry in read_journal(tmp_path / "run.jsonl")] == [TOLD] * 10


def test_what_a_full_disk_refuses_is_kept_and_written_when_there_is_room(tmp_path):
    path = tmp_path / "run.jsonl"
    journal, disk = on_a_full_disk(path, room=100)
    for _ in range(ENTRIES_BUFFERED_MAX - 1):
        journal.add(ASKED, TOLD)
    with pytest.raises(JournalUnwritable, match=r"run\.jsonl' cannot be written: No space left on device"):
        journal.add(ASKED, TOLD)
    with pytest.raises(JournalUnwritable, match=f"; {ENTRIES_BUFFERED_MAX + 1} answers are not in it"):
        journal.add(ASKED, None)
    disk.room = 1_000_000
    journal.add(ASKED, TOLD)
    journal.close()
    told = [entry.told for entry in read_journal(path)]
    assert told == [TOLD] * ENTRIES_BUFFERED_MAX + [None, TOLD]
    assert journal.entries == len(told)


def test_a_journal_on_a_full_disk_is_closed_with_an_error(tmp_path):
    journal, disk = on_a_full_disk(tmp_path / "run.jsonl", room=0)
    journal.add(ASKED, TOLD)
    with pytest.raises(JournalUnwritable, match="; 1 answers are not in it"):
        journal.close()
    assert disk.file.closed


def test_the_journals_of_earlier_runs_are_those_beside_it(tmp_path):
    for name in ("2.jsonl", "1.jsonl", "3.jsonl", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in earlier_journals(tmp_path / "3.jsonl")] == ["1.jsonl", "2.jsonl"]
