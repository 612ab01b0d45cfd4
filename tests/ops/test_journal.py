import pytest

from tradewind.engine.messages import Answer, Deposit, Place
from tradewind.ops.errors import JournalUnreadable
from tradewind.ops.journal import ENTRIES_BUFFERED_MAX, Journal, read_journal

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
