from collections.abc import Callable
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradewind.engine.account import from_fields, to_fields
from tradewind.engine.instruments import Quote, decode_quote
from tradewind.engine.messages import (
    Amend,
    Answer,
    Cancel,
    CancelAll,
    Close,
    CloseAll,
    CloseBy,
    Command,
    Deposit,
    Event,
    OpenAccount,
    OrderRejected,
    Place,
    Protect,
    RejectReason,
    SetGroup,
    SetTrading,
    Withdraw,
    decode_answer,
    decode_command,
    decode_event,
    encode,
    fingerprint,
    reasons,
)
from tradewind.engine.messages.groups import Terms

ids = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64).filter(
    lambda text: not text.startswith("quote:")
)
accounts = st.from_regex(r"\A[A-Za-z0-9_.\-]{1,64}\Z")
numbers = st.integers(-(2**53), 2**53)
names = {"account": accounts, "id": ids, "reply_to": st.text(max_size=20)}
sides = st.sampled_from(["buy", "sell"])

commands = st.one_of(
    st.builds(OpenAccount, leverage=st.none() | numbers, **names),
    st.builds(SetGroup, group=st.text(max_size=9), leverage=st.none() | numbers, **names),
    st.builds(SetTrading, state=st.sampled_from(["active", "reducing", "halted"]), **names),
    st.builds(Withdraw, amount=numbers, **names),
    st.builds(Deposit, amount=numbers, **names),
    st.builds(
        Place,
        symbol=st.text(max_size=9),
        side=sides,
        volume=numbers,
        kind=st.sampled_from(["market", "limit", "stop", "stop_limit"]),
        price=st.none() | numbers,
        stop_price=st.none() | numbers,
        time_in_force=st.sampled_from(["gtc", "day", "ioc", "fok"]),
        reduce_only=st.booleans(),
        **names,
    ),
    st.builds(
        Amend, order=st.text(max_size=20), volume=st.none() | numbers, price=st.none() | numbers, **names
    ),
    st.builds(Cancel, order=st.text(max_size=20), **names),
    st.builds(CancelAll, symbol=st.none() | st.text(max_size=9), side=st.none() | sides, **names),
    st.builds(Protect, position=st.text(max_size=20), stop_loss=st.none() | numbers, **names),
    st.builds(CloseBy, position=st.text(max_size=20), by=st.text(max_size=20), **names),
    st.builds(Close, position=st.text(max_size=20), volume=st.none() | numbers, **names),
    st.builds(CloseAll, symbol=st.none() | st.text(max_size=9), side=st.none() | sides, **names),
)

limits = st.integers(0, 200)
st.register_type_strategy(Terms, st.builds(Terms, orders_max=limits, positions_max=limits))

ORDER = Place(account="A1", id="o-1", symbol="EURUSD", side="buy", volume=1_000)


@given(commands)
def test_commands_survive_the_wire(command: Command) -> None:
    assert decode_command(encode(command)) == command


@given(st.one_of([st.from_type(kind) for kind in get_args(Event)]))
def test_events_survive_the_wire(event: Event) -> None:
    assert decode_event(encode(event)) == event


@given(st.from_type(Answer))
def test_answers_survive_the_wire(answer: Answer) -> None:
    assert decode_answer(encode(answer)) == answer


def test_messages_are_readable_and_leave_out_defaults() -> None:
    expected = b'{"type":"place","account":"A1","id":"o-1","symbol":"EURUSD","side":"buy","volume":1000}'
    assert encode(ORDER) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"id": "x" * 65},
        {"id": "line\n"},
        {"id": "größer"},
        {"id": "quote:EURUSD:1"},
        {"account": "a/b"},
        {"account": "{p1}"},
        {"account": ""},
        {"side": "long"},
        {"volume": 1000.5},
        {"volume": True},
        {"kind": "iceberg"},
        {"trailing_stop": 112_000},
        {"time_in_force": "gtd"},
        {"type": "cancel"},
        {"type": "unheard_of"},
    ],
    ids=str,
)
def test_a_malformed_command_is_refused_and_not_guessed(change: dict[str, object]) -> None:
    body = msgspec.json.decode(encode(ORDER)) | change
    with pytest.raises(msgspec.ValidationError):
        decode_command(encode(body))


def test_an_event_of_a_newer_version_is_refused_and_not_half_applied() -> None:
    rejected = OrderRejected(
        account="A1", at_ms=1, cause="o-1", command="place", reason=RejectReason.NO_QUOTE, text="."
    )
    body = msgspec.json.decode(encode(rejected)) | {"fee": 12}
    with pytest.raises(msgspec.ValidationError, match="fee"):
        decode_event(encode(body))


def test_the_fingerprint_is_of_what_was_asked_not_of_who_asked() -> None:
    again = msgspec.structs.replace(ORDER, reply_to="another-process")
    larger = msgspec.structs.replace(ORDER, volume=2_000)
    assert fingerprint(ORDER) == fingerprint(again) != fingerprint(larger)
    assert len(fingerprint(ORDER)) == 16


@given(commands, commands)
def test_fingerprints_differ_when_bodies_differ(one: Command, other: Command) -> None:
    bodies = [msgspec.structs.replace(command, reply_to="") for command in (one, other)]
    assert (fingerprint(one) == fingerprint(other)) == (bodies[0] == bodies[1])


def test_every_reason_has_a_sentence_of_its_own() -> None:
    sentences = [reason.sentence for reason in RejectReason]
    assert len(set(sentences)) == len(RejectReason)
    assert all(sentence.endswith(".") for sentence in sentences)
    assert set(reasons._SENTENCES) == set(RejectReason)


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (ORDER, "symbol"),
        (Close(account="A1", id="o-1", position=""), "position"),
        (CloseAll(account="A1", id="o-1"), "symbol"),
    ],
)
def test_a_name_is_no_longer_than_64_characters(command: Command, field: str) -> None:
    longest = msgspec.structs.replace(command, **{field: "x" * 64})
    assert decode_command(encode(longest)) == longest
    with pytest.raises(msgspec.ValidationError, match=f"length <= 64 - at `..{field}`"):
        decode_command(encode(msgspec.structs.replace(command, **{field: "x" * 65})))


@pytest.mark.parametrize(
    ("decode", "body"),
    [
        (
            decode_command,
            b'{"type":"place","account":"A1","id":"o-1","symbol":"EURUSD","side":"buy","volume":1000}',
        ),
        (
            decode_event,
            b'{"type":"order_filled","account":"A1","at_ms":1,"cause":"o-1","position":"17-3",'
            b'"symbol":"EURUSD","side":"buy","volume":1000,"price":112112,"margin":1122}',
        ),
        (
            decode_event,
            b'{"type":"order_rejected","account":"A1","at_ms":1,"cause":"o-1","command":"place",'
            b'"reason":"no_quote","text":"There is none."}',
        ),
        (
            decode_answer,
            b'{"id":"o-1","account":"A1","status":"filled","position":"17-3","price":112112,"volume":1000,'
            b'"balance":5,"sequence":3}',
        ),
    ],
)
def test_bodies_from_before_orders_could_rest_are_read_and_written_as_they_were(
    decode: Callable[[bytes], object], body: bytes
) -> None:
    assert encode(decode(body)) == body


def test_quotes_and_positions_from_before_orders_could_rest_are_read_as_they_were() -> None:
    assert decode_quote(b'["EURUSD",112100,112112,1]') == Quote("EURUSD", 112_100, 112_112, 1, None, None)
    stored = {
        "id": "A1",
        "leverage": "100",
        "balance": "5",
        "used_margin": "1122",
        "margin_called": "0",
        "position:17-3": '{"id":"17-3","symbol":"EURUSD","side":"buy","volume":1000,"price":112112,'
        '"margin":1122,"opened_at_ms":1}',
    }
    assert to_fields(from_fields(stored)) == stored
