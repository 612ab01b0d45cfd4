"""The session and what is under it, byte by byte and without a network."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradewind.providers.errors import ReportRefused, SequenceFileBroken
from tradewind.providers.fix.frames import Fields, Frames, encoded
from tradewind.providers.fix.numbers import RECORD_BYTES, NumberFile, Numbers
from tradewind.providers.fix.orders import report_of
from tradewind.providers.fix.session import LOGON_S_MAX, Session, SessionSettings, State

SETTINGS = SessionSettings(sender="US", target="THEM", username="u", password="geheim", heartbeat_s=10)


def theirs(kind: str, number: int, *pairs: tuple[int, str | int], sender: str = "THEM") -> bytes:
    return encoded([(35, kind), (49, sender), (56, "US"), (34, number), *pairs])


def sent(session: Session) -> list[Fields]:
    return Frames().feed(session.take_data())


@pytest.fixture
def session() -> Session:
    """Logged on: their next number is 2, ours too."""
    session = Session(SETTINGS, Numbers(), lambda: "20261125-10:00:00.000")
    session.connected(1, 0.0)
    session.receive(theirs("A", 1), 0.0)
    assert session.take_events().has_logged_on
    (logon,) = sent(session)
    assert (logon[35], logon[34], logon[108], logon[553]) == ("A", "1", "10", "u")
    return session


def test_the_password_is_not_shown():
    assert "geheim" not in repr(SETTINGS)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (theirs("0", 2, sender="OTHER"), "message from OTHER to US"),
        (encoded([(35, "0"), (49, "THEM"), (56, "US")]), "message without a number"),
        (theirs("0", 1), "number too low: expected 2, got 1"),
        (theirs("2", 2, (7, 5), (16, 0)), "message 5 was asked for, the last one was 1"),
        (theirs("A", 1, (141, "Y")), "a reset that was not agreed"),
    ],
)
def test_where_the_sides_disagree_the_session_ends_and_says_why(session, message, why):
    session.receive(message, 1.0)
    assert session.over == why
    logout = sent(session)[-1]
    assert (logout[35], logout[58]) == ("5", why)


def test_a_marked_repeat_is_passed_over(session):
    session.receive(theirs("8", 1, (43, "Y")), 1.0)
    assert not session.over
    assert session.take_events().received == []


def test_what_comes_behind_a_gap_waits_and_the_gap_is_asked_for_once(session):
    session.receive(theirs("8", 4) + theirs("8", 5), 1.0)
    (asked,) = sent(session)
    assert (asked[35], asked[7], asked[16]) == ("2", "2", "0")
    assert session.take_events().received == []
    repeats = b"".join(theirs("8", number, (43, "Y")) for number in (2, 3, 4, 5))
    session.receive(repeats, 2.0)
    assert [message[34] for message in session.take_events().received] == ["2", "3", "4", "5"]
    session.receive(theirs("8", 7), 3.0)
    assert sent(session)[0][7] == "6"


def test_a_gap_that_stays_is_asked_for_again(session):
    session.receive(theirs("8", 4), 1.0)
    sent(session)
    session.tick(11.0)
    assert [message[35] for message in sent(session)] == ["2"]


def test_a_logon_ahead_of_its_number_counts_and_the_gap_is_asked_for():
    session = Session(SETTINGS, Numbers(5, 3), lambda: "x")
    session.connected(3, 0.0)
    session.receive(theirs("A", 9), 0.0)
    assert session.state is State.ACTIVE
    logon, asked = sent(session)
    assert (logon[34], asked[35], asked[7]) == ("5", "2", "3")


def test_what_the_other_side_asks_for_again_is_a_gap(session):
    session.send("D", [(11, "1")], 1.0)
    session.send("D", [(11, "2")], 1.0)
    sent(session)
    session.receive(theirs("2", 2, (7, 2), (16, 0)), 2.0)
    (gap,) = sent(session)
    assert (gap[35], gap[34], gap[36], gap[123], gap[43]) == ("4", "2", "4", "Y", "Y")
    assert session.take_events().was_filled


def test_without_an_answer_to_the_logon_it_is_over():
    session = Session(SETTINGS, Numbers(), lambda: "x")
    session.connected(1, 0.0)
    session.tick(LOGON_S_MAX)
    assert session.over == "no answer to the logon"


def test_a_refused_logon_says_why():
    session = Session(SETTINGS, Numbers(), lambda: "x")
    session.connected(1, 0.0)
    session.receive(theirs("5", 1, (58, "wrong password")), 0.0)
    assert session.over == "logged out: wrong password"


def test_silence_is_tested_and_then_the_end(session):
    session.tick(12.0)
    assert [message[35] for message in sent(session)] == ["1"]
    session.tick(22.0)
    assert session.over == "nothing heard for 22 s"


def test_nothing_is_sent_before_the_logon():
    session = Session(SETTINGS, Numbers(), lambda: "x")
    with pytest.raises(RuntimeError, match="the session is idle"):
        session.send("D", [], 0.0)


# -- frames and numbers --------------------------------------------------------------------------------


@given(cuts=st.lists(st.integers(1, 40), max_size=40), noise=st.binary(max_size=20))
def test_messages_are_found_however_they_are_cut_and_whatever_is_between(cuts, noise):
    data = (
        noise.replace(b"8", b"")
        + theirs("0", 1)
        + b"8=FIX.4.4\x019=7\x01"
        + theirs("8", 2, (58, "8=FIX.4.4"))
    )
    frames, found = Frames(), []
    for cut in [*cuts, len(data)]:
        found += frames.feed(data[:cut])
        data = data[cut:]
    assert [message[34] for message in found] == ["1", "2"]


@given(st.integers(0, 60), st.integers(0, 255))
def test_a_message_with_a_wrong_byte_is_passed_over(position, byte):
    good = theirs("0", 1)
    broken = bytearray(good)
    broken[position % len(good)] = byte
    found = Frames().feed(bytes(broken) + theirs("0", 2) * 3)
    assert all(message[34] == "2" or bytes(broken) == good for message in found)
    assert len(found) >= 1


def test_numbers_are_there_after_a_restart_and_a_torn_write(tmp_path):
    path = tmp_path / "deep" / "numbers"
    file = NumberFile(path)
    assert file.read() == Numbers(1, 1)
    for number in range(2, 6):
        file.write(Numbers(number, 10 * number))
    file.close()
    again = NumberFile(path)
    assert again.read() == Numbers(5, 50)
    again.close()
    data = bytearray(path.read_bytes())
    newest = data.index(b" 5 50") // RECORD_BYTES * RECORD_BYTES
    data[newest + 3] ^= 1
    path.write_bytes(data)
    torn = NumberFile(path)
    assert torn.read() == Numbers(4, 40)
    torn.close()


def test_a_file_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "numbers").write_text("hello")
    file = NumberFile(tmp_path / "numbers")
    with pytest.raises(SequenceFileBroken, match="holds no sequence numbers"):
        file.read()
    file.close()


def test_a_correction_of_a_trade_is_for_people():
    with pytest.raises(ReportRefused, match="execution x1 is of type G"):
        report_of({35: "8", 11: "1", 17: "x1", 150: "G"})
