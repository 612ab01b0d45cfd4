"""What random clients ask: every kind of command, and nothing that could not be handed in."""

import random

import pytest

from tests.ledger.orders import KINDS, AccountView, other_body, random_command
from tradewind.engine.messages import Answer, Command, OpenAccount, Place, decode_command, encode, fingerprint


def asked(seed: int, count: int) -> list[Command]:
    """Of an account that is open and has money, and some positions."""
    chance = random.Random(seed)
    view = AccountView("A", is_open=True, balance=10**6, positions=["0-1"], names=["0-1", "0-2"])
    return [random_command(chance, view, f"order-{number}") for number in range(count)]


def test_every_kind_of_command_is_asked():
    assert {type(command) for command in asked(1, 5_000)} == set(KINDS)


def test_every_command_can_be_read_again():
    for command in asked(2, 2_000):
        assert decode_command(encode(command)) == command


@pytest.mark.parametrize("seed", range(20))
def test_another_body_is_another_question_under_the_same_id(seed: int):
    chance = random.Random(seed)
    for command in asked(seed, 20):
        other = other_body(chance, command)
        assert (other.account, other.id) == (command.account, command.id)
        assert fingerprint(other) != fingerprint(command)


def test_an_account_is_opened_and_funded_before_it_trades():
    chance, view = random.Random(3), AccountView("A")
    opening = next(c for c in (random_command(chance, view, "1") for _ in range(9)) if c.account == "A")
    assert isinstance(opening, OpenAccount)
    view.learn(opening, Answer(id="1", account="A", status="done", balance=10**6))
    assert any(isinstance(random_command(chance, view, "2"), Place) for _ in range(9))
