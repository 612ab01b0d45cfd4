"""Trading states of the system, of a symbol and of an account, and who may do what in each."""

import msgspec
import pytest

from tests.engine.books import NOW_MS, Desk
from tradewind.engine.account import from_fields, to_fields
from tradewind.engine.book import rebuild
from tradewind.engine.house import UNREADABLE, House, Ruling
from tradewind.engine.messages import Answer, RejectReason, SetTrading, TradingChanged, TradingState, encode


def rules(version: int = 1, **states: TradingState) -> dict[str, str]:
    """`system=` or a symbol."""
    names = {name: name if name == "system" else f"symbol:{name}" for name in states}
    values = {names[name]: encode(Ruling(state, "a test")).decode() for name, state in states.items()}
    return {"version": str(version), **values}


def set_account(desk: Desk, state: TradingState) -> Answer:
    desk.orders += 1
    command = SetTrading(account="A1", id=f"state-{desk.orders}", state=state, why="a test")
    return desk.answer(desk.book.decide(command, NOW_MS))


def set_state(desk: Desk, scope: str, state: TradingState) -> None:
    if scope == "account":
        assert set_account(desk, state).status == "done"
    else:
        desk.house.take(rules(desk.house.version + 1, **{"system" if scope == "system" else "EURUSD": state}))


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.open(deposit=1_000_000)
    return desk


SCOPES = ("system", "symbol", "account")


@pytest.mark.parametrize("scope", SCOPES)
def test_reducing_closes_and_opens_nothing(desk: Desk, scope: str) -> None:
    position = desk.place("buy").position
    set_state(desk, scope, "reducing")
    assert desk.place("sell").reason == f"{scope}_reducing"
    assert desk.close(position, 1_000).status == "filled"
    assert desk.close_all().closed == 1
    set_state(desk, scope, "active")
    assert desk.place("buy").status == "filled"


@pytest.mark.parametrize("scope", SCOPES)
def test_halted_neither_opens_nor_closes(desk: Desk, scope: str) -> None:
    position = desk.place("buy").position
    set_state(desk, scope, "halted")
    refused = desk.place("sell")
    assert refused.reason == f"{scope}_halted"
    assert refused.text is not None and "is halted" in refused.text
    assert desk.close(position).reason == f"{scope}_halted"
    assert desk.close_all("EURUSD").reason == f"{scope}_halted"
    assert desk.deposit(1).status == "done"


def test_closing_all_leaves_what_is_in_a_halted_symbol_and_says_so(desk: Desk) -> None:
    desk.place("buy")
    desk.place("buy", symbol="USDJPY")
    desk.house.take(rules(USDJPY="halted"))
    answer = desk.close_all()
    assert (answer.closed, answer.left) == (1, 1)


def test_other_symbols_and_accounts_trade_on(desk: Desk) -> None:
    desk.open("A2", deposit=1_000_000)
    desk.house.take(rules(EURUSD="halted"))
    assert desk.place("buy", symbol="USDJPY").status == "filled"
    set_account(desk, "halted")
    assert desk.place("buy", symbol="USDJPY", account="A2").status == "filled"


def test_the_widest_scope_is_named_with_its_reason(desk: Desk) -> None:
    set_account(desk, "halted")
    desk.house.take(rules(system="reducing", EURUSD="halted"))
    answer = desk.place("buy")
    assert answer.reason == RejectReason.SYSTEM_REDUCING
    assert answer.text is not None and "the system is reducing: a test" in answer.text
    assert desk.close_all("EURUSD").reason == RejectReason.SYMBOL_HALTED


def test_stop_outs_pass_in_every_state(desk: Desk) -> None:
    desk.open("A2", deposit=12_000)
    desk.place("buy", account="A2")
    desk.house.take(rules(system="halted"))
    desk.quote({"EURUSD": (111_100, 111_112)})
    assert desk.book.accounts["A2"].positions == {}


def test_the_state_of_an_account_is_an_event_and_a_field(desk: Desk) -> None:
    desk.book.changes(["A1"])
    assert set_account(desk, "reducing").status == "done"
    event = desk.events[-1]
    assert isinstance(event, TradingChanged) and (event.state, event.why) == ("reducing", "a test")
    assert desk.book.changes(["A1"]) == {"A1": ({"trading": "reducing"}, [])}
    account = desk.book.accounts["A1"]
    assert from_fields(to_fields(account)) == account == rebuild(desk.events)["A1"]
    set_account(desk, "active")
    assert desk.book.changes(["A1"]) == {"A1": ({}, ["trading"])}
    with pytest.raises(ValueError, match="stored account A1"):
        from_fields(to_fields(account) | {"trading": "on"})


def test_an_older_message_does_not_undo_a_newer_one() -> None:
    house = House()
    house.take(rules(2, system="halted"))
    house.take(rules(1))
    assert house.system.state == "halted"
    house.take(rules(2))
    assert house.system.state == "active"


def test_a_state_that_cannot_be_read_halts() -> None:
    house = House()
    house.take({"system": "{", "symbol:EURUSD": '{"state":"on"}', "version": "7"})
    assert house.system == UNREADABLE == house.symbols["EURUSD"]
    assert repr(house) == "<House version 7: system halted, EURUSD halted>"


def test_a_state_that_does_not_exist_is_no_command() -> None:
    body = b'{"type":"set_trading","account":"A1","id":"1","state":"on"}'
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=SetTrading)
