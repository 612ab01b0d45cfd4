"""The history of a client survives its end at any byte."""

from pathlib import Path

import pytest

from tests.ledger.history import Asking, HistoryWriter, askings
from tradewind.engine.messages import Answer, Deposit

DEPOSIT = Deposit(account="A", id="one", amount=1)
OTHER = Deposit(account="A", id="two", amount=2)
ANSWER = Answer(id="one", account="A", status="done", balance=1, sequence=1)


def asked(path: Path) -> list[tuple[Deposit, Answer | None, str | None]]:
    return [(asking.command, asking.answer, asking.how) for asking in askings(path)]


def test_what_was_asked_and_what_was_told(tmp_path):
    path = tmp_path / "history"
    writer = HistoryWriter(path)
    first, second, third = writer.asked(DEPOSIT), writer.asked(OTHER), writer.asked(DEPOSIT)
    writer.ended(second, "unknown")
    writer.told(first, ANSWER)
    writer.close()
    assert third == 3
    assert asked(path) == [(OTHER, None, "unknown"), (DEPOSIT, ANSWER, None), (DEPOSIT, None, None)]
    found: list[Asking] = list(askings(path))
    assert all(asking.asked_ns < asking.ended_ns for asking in found[:2])


@pytest.mark.parametrize("lost", [1, 2, 40])
def test_a_line_without_its_end_was_never_acted_upon(tmp_path, lost: int):
    path = tmp_path / "history"
    writer = HistoryWriter(path)
    writer.told(writer.asked(DEPOSIT), ANSWER)
    writer.asked(OTHER)
    writer.close()
    path.write_bytes(path.read_bytes()[:-lost])
    again = HistoryWriter(path)
    assert again.asked(OTHER) == 2
    again.close()
    assert asked(path) == [(DEPOSIT, ANSWER, None), (OTHER, None, None)]
