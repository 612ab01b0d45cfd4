"""A seed names a whole run: its faults, and what its clients ask."""

from tests.ledger.faults import SERVER_STRIKES, STRIKES
from tests.ledger.plan import CLIENT_FAULTS, HOUSE_ACTS, SERVER_FAULTS, SLOT_MOVES, WORKER_FAULTS, plan
from tests.ledger.trader import Trader
from tradewind.engine.messages import Answer, OpenAccount


def test_the_same_seed_is_the_same_plan_and_another_seed_another():
    assert plan(7, 100_000, 50) == plan(7, 100_000, 50)
    assert plan(7, 100_000, 50).rounds != plan(8, 100_000, 50).rounds


def test_rounds_are_spread_over_the_orders():
    rounds = plan(7, 100_000, 50).rounds
    assert [round.at_told for round in rounds] == [100_000 * number // 11 for number in range(1, 11)]


def test_every_server_fault_comes_once_before_any_comes_again():
    rounds = plan(7, 0, 50, rounds=2 * len(SERVER_FAULTS)).rounds
    names = [round.faults[0].name for round in rounds]
    assert sorted(names[: len(SERVER_FAULTS)]) == sorted(SERVER_FAULTS)
    assert sorted(names[len(SERVER_FAULTS) :]) == sorted(SERVER_FAULTS)


def test_every_fault_of_a_plan_can_be_done():
    assert sorted(SERVER_STRIKES) == sorted(SERVER_FAULTS)
    assert sorted(STRIKES) == sorted((*WORKER_FAULTS, *CLIENT_FAULTS, *HOUSE_ACTS))


def test_slots_move_while_all_servers_stay():
    for round in plan(7, 0, 50, rounds=1_000).rounds:
        of_servers = [fault.name for fault in round.faults if fault.name in SERVER_FAULTS]
        assert len(of_servers) in (1, 2)
        assert len(of_servers) == 1 or not set(of_servers) & set(SLOT_MOVES)


def questions(seed: int, life: int) -> list[str]:
    """What a trader asks whose accounts are opened and whose orders are all left without an answer."""
    trader = Trader(seed, "c0x0", life)
    asked = []
    for _ in range(200):
        for question in trader.next_questions():
            asked.append(repr(question))
            command = question.command
            if isinstance(command, OpenAccount) and command.leverage:
                trader.learn(command, Answer(id=command.id, account=command.account, status="done"))
            else:
                trader.learn_nothing(command)
    return asked


def test_the_same_seed_and_the_same_answers_are_the_same_questions():
    assert questions(7, 1) == questions(7, 1)
    assert questions(7, 1) != questions(8, 1)


def test_a_later_life_uses_other_ids():
    assert not set(questions(7, 1)) & set(questions(7, 2))
