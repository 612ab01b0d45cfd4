"""The order desk: every call ends with the one answer, or says that it does not know."""

import asyncio
import gc
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import tradewind.engine.desk as desk_module
from tests.conftest import EmbeddedCluster
from tests.engine.partition_runs import KEYS, PARTITIONS, Run, hand_in, place, running
from tests.support.waiting import eventually
from tradewind import ClientClosed, OutcomeUnknown, Overloaded, RedisCluster
from tradewind.engine import partition as partition_module
from tradewind.engine.desk import OrderDesk
from tradewind.engine.library import load_library
from tradewind.engine.messages import Deposit, OpenAccount, RejectReason, decode_command


@asynccontextmanager
async def open_desk(client: RedisCluster, **options: Any) -> AsyncIterator[OrderDesk]:
    desk = OrderDesk(client, PARTITIONS, **options)
    await desk.start()
    try:
        yield desk
    finally:
        await desk.aclose()


def lose_results(desk: OrderDesk, monkeypatch: pytest.MonkeyPatch, count: int) -> list[bytes]:
    """The first `count` messages with results are lost on their way; they are kept in the list."""
    lost: list[bytes] = []
    subscription = desk._subscription
    heard = subscription._on_message

    def hear(channel: str, data: bytes) -> None:
        if len(lost) < count:
            lost.append(data)
        else:
            heard(channel, data)

    monkeypatch.setattr(subscription, "_on_message", hear)
    return lost


async def handed_in(client: RedisCluster) -> list[Any]:
    entries = await client.execute_command("XRANGE", KEYS.commands, "-", "+")
    return [decode_command(fields[b"command"]) for _, fields in entries]


# -- answers ---------------------------------------------------------------------------------------------


async def test_each_of_many_callers_gets_its_own_answer(client):
    async with running(client) as run:
        await run.fund("A", "B")
        commands = [Deposit(account="AB"[n % 2], id=f"deposit-{n}", amount=n + 1) for n in range(200)]
        answers = await asyncio.gather(*map(run.ask, commands))
        assert [(a.account, a.id) for a in answers] == [(c.account, c.id) for c in commands]
        await run.audit()
        assert run.desk.pending == 0


async def test_a_lost_result_message_is_made_up_for_by_asking_again(client, monkeypatch):
    monkeypatch.setattr(desk_module, "RESEND_FIRST_S", 0.05)
    monkeypatch.setattr(desk_module, "SWEEP_S", 0.01)
    async with running(client) as run:
        await run.fund("A")
        lost = lose_results(run.desk, monkeypatch, 2)
        answer = await run.ask(place("A", "order"))
        assert len(lost) == 2
        assert run.desk.resent >= 2
        assert (await run.ask(place("A", "order"))) == answer
        assert (await run.audit()).positions == 1


async def test_two_processes_may_ask_the_same_and_both_are_answered(client):
    async with running(client) as run, open_desk(client) as other:
        await run.fund("A")
        first, second = await asyncio.gather(run.ask(place("A", "order")), other.submit(place("A", "order")))
        assert first == second
        assert (await run.audit()).positions == 1


async def test_the_same_order_twice_at_once_is_the_callers_mistake(client):
    async with running(client) as run:
        await run.fund("A")
        results = await asyncio.gather(
            *(run.ask(place("A", "order")) for _ in range(2)), return_exceptions=True
        )
        assert results[0].status == "filled"
        assert isinstance(results[1], ValueError)
        assert "account A: id order is being submitted already" in str(results[1])


async def test_answers_to_others_and_answers_twice_are_ignored(client, monkeypatch):
    async with running(client) as run:
        await run.fund("A")
        lost = lose_results(run.desk, monkeypatch, 1)
        asking = asyncio.create_task(run.ask(place("A", "order")))
        await eventually(lambda: len(lost) == 1)
        for data in (b"[]", b'[["",{"id":"order","account":"B","status":"done"}]]', lost[0], lost[0]):
            run.desk._on_answers(KEYS.results_channel(run.desk.name), data)
        assert (await asking).status == "filled"


# -- no answer -------------------------------------------------------------------------------------------


async def test_without_an_engine_the_outcome_is_unknown_at_the_deadline_and_learned_later(client):
    async with open_desk(client) as desk:
        started_s = time.monotonic()
        with pytest.raises(OutcomeUnknown, match="account A: no answer to open in partition 0"):
            await desk.submit(OpenAccount(account="A", id="open"), deadline_s=0.3)
        assert 0.3 <= time.monotonic() - started_s < 10
        assert desk.pending == 0
    async with running(client) as run:
        assert (await run.ask(OpenAccount(account="A", id="open"))).status == "done"
        assert (await run.audit()).accounts == 1


async def test_it_is_asked_again_less_and_less_often(client, monkeypatch):
    monkeypatch.setattr(desk_module, "RESEND_FIRST_S", 0.02)
    monkeypatch.setattr(desk_module, "RESEND_S_MAX", 0.2)
    monkeypatch.setattr(desk_module, "SWEEP_S", 0.005)
    async with open_desk(client) as desk:
        with pytest.raises(OutcomeUnknown):
            await desk.submit(OpenAccount(account="A", id="open"), deadline_s=1.5)
        assert 2 <= desk.resent <= 11
        asked = await handed_in(client)
        assert len(asked) == desk.resent + 1
        assert len(set(asked)) == 1


class HandSetTime:
    """The desk's clock, which stands still unless it is moved on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(desk_module, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(desk_module, "SWEEP_S", 0.001)


async def test_what_waits_in_a_long_line_is_not_asked_again(client, monkeypatch):
    """The last of them are answered long after they were handed in, but never was the partition silent."""
    monkeypatch.setattr(partition_module, "COMMANDS_PER_COMMIT_MAX", 5)
    async with running(client) as run:
        await run.fund("A")
        desk_time = HandSetTime(monkeypatch)
        heard = run.desk._subscription._on_message

        def hear_late(channel: str, data: bytes) -> None:
            desk_time.now_s += 0.9 * desk_module.RESEND_FIRST_S
            heard(channel, data)

        monkeypatch.setattr(run.desk._subscription, "_on_message", hear_late)
        commands = [Deposit(account="A", id=f"deposit-{n}", amount=1) for n in range(60)]
        await asyncio.gather(*(run.desk.submit(command, deadline_s=1_000) for command in commands))
        assert desk_time.now_s > 5 * desk_module.RESEND_FIRST_S
        assert run.desk.resent == 0


async def test_what_was_lost_is_asked_again_once_later_ones_are_answered(client, monkeypatch):
    async with running(client) as run:
        await run.fund("A")
        desk_time = HandSetTime(monkeypatch)
        with monkeypatch.context() as losing:
            losing.setattr(client, "post", lambda *_args: None)
            lost = asyncio.create_task(run.ask(place("A", "lost")))
            await asyncio.sleep(0)
        assert run.desk.pending == 1
        for number in range(3):
            desk_time.now_s += 0.4 * desk_module.RESEND_FIRST_S
            assert run.desk.resent == 0
            await run.ask(Deposit(account="A", id=f"deposit-{number}", amount=1))
        assert (await lost).status == "filled"
        assert run.desk.resent == 1
        assert (await run.audit()).positions == 1


@pytest.mark.faults
async def test_a_server_that_does_not_take_orders_in_keeps_no_caller_beyond_its_deadline(
    own_cluster: EmbeddedCluster,
):
    async with RedisCluster.from_url(own_cluster.url) as client:
        await load_library(client)
        async with open_desk(client) as desk:
            node = await own_cluster.primary_of(KEYS.commands)
            await own_cluster.kill(node, signal.SIGSTOP)
            try:
                started_s = time.monotonic()
                with pytest.raises(OutcomeUnknown):
                    await desk.submit(OpenAccount(account="A", id="open"), deadline_s=0.5)
                assert time.monotonic() - started_s < 3  # the client itself would wait for five seconds
            finally:
                await own_cluster.kill(node, signal.SIGCONT)


async def test_a_caller_who_gives_up_may_ask_later_and_learns_what_happened(client):
    async with running(client) as run:
        await run.fund("A")
        asking = [asyncio.create_task(run.desk.submit(place("A", f"order-{n}"))) for n in range(20)]
        for number, task in enumerate(asking):
            for _ in range(number % 4):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert run.desk.pending == 0
        answers = await asyncio.gather(*(run.ask(place("A", f"order-{n}")) for n in range(20)))
        assert {answer.status for answer in answers} == {"filled"}
        assert (await run.audit()).positions == 20


async def test_a_late_answer_is_not_taken_for_one_to_another_order_under_the_same_id(client):
    """The caller gave up on an order and places another one under its id, before the first is answered."""
    async with open_desk(client) as desk:
        given_up = asyncio.create_task(desk.submit(place("A", "order")))
        await eventually(lambda: all_handed_in(client, 1))
        given_up.cancel()
        await asyncio.wait([given_up])
        other = asyncio.create_task(desk.submit(place("A", "order", volume=2_000)))
        async with running(client):
            assert (await other).reason is RejectReason.DUPLICATE_ID
            assert (await desk.submit(place("A", "order"))).reason is RejectReason.UNKNOWN_ACCOUNT


async def test_an_order_keeps_its_answer_after_another_one_was_tried_under_its_id_and_given_up(client):
    async with running(client) as run:
        await run.fund("A")
        answer = await run.ask(place("A", "order"))
        given_up = asyncio.create_task(run.desk.submit(place("A", "order", volume=2_000)))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert await run.ask(place("A", "order")) == answer
        assert (await run.ask(place("A", "order", volume=2_000))).reason is RejectReason.DUPLICATE_ID
        assert await run.ask(place("A", "order")) == answer


# -- limits and the end ----------------------------------------------------------------------------------


async def all_handed_in(client: RedisCluster, count: int) -> bool:
    return len(await handed_in(client)) == count


async def start_callers(desk: OrderDesk, count: int) -> list["asyncio.Task[Any]"]:
    commands = [OpenAccount(account=f"A{n}", id="open") for n in range(count)]
    tasks = [asyncio.create_task(desk.submit(command)) for command in commands]
    await asyncio.sleep(0)
    return tasks


async def test_callers_beyond_the_limit_wait_in_line(client):
    async with open_desk(client, pending_max=5) as desk:
        asking = await start_callers(desk, 12)
        await eventually(lambda: all_handed_in(client, 5))
        assert desk.pending == 5
        async with running(client):
            answers = await asyncio.gather(*asking)
        assert {answer.status for answer in answers} == {"done"}


async def test_waiting_in_line_ends_at_the_deadline_and_nothing_was_sent(client):
    async with open_desk(client, pending_max=2) as desk:
        asking = await start_callers(desk, 2)
        with pytest.raises(Overloaded, match=r"2 commands wait for answers.* last did not come in 0\.1 s"):
            await desk.submit(OpenAccount(account="B", id="last"), deadline_s=0.1)
        async with running(client):
            await asyncio.gather(*asking)
        assert all(command.account != "B" for command in await handed_in(client))


async def test_a_place_in_line_is_given_back_by_who_is_cancelled(client):
    async with open_desk(client, pending_max=1) as desk:
        asking = await start_callers(desk, 4)
        for task in asking[:3]:
            task.cancel()
        async with running(client):
            assert (await asking[3]).status == "done"
        assert desk.pending == 0


async def test_closing_tells_who_waits_and_who_stands_in_line(client):
    desk = OrderDesk(client, PARTITIONS, pending_max=3)
    await desk.start()
    asking = await start_callers(desk, 8)
    await eventually(lambda: all_handed_in(client, 3))
    await desk.aclose()
    results = await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 10)
    assert [type(result) for result in results] == [OutcomeUnknown] * 3 + [ClientClosed] * 5
    assert len(await handed_in(client)) == 3


async def test_a_desk_that_is_not_open_refuses(client):
    desk = OrderDesk(client, PARTITIONS)
    command = OpenAccount(account="A", id="open")
    with pytest.raises(ClientClosed, match="open was not sent: the order desk is not open"):
        await desk.submit(command)
    await desk.start()
    await desk.aclose()
    await desk.aclose()
    with pytest.raises(ClientClosed):
        await desk.submit(command)


async def test_nobody_is_told_of_what_nobody_waits_for(client):
    """A caller is cancelled in the same turn in which its outcome becomes unknown."""
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    desk = OrderDesk(client, PARTITIONS)
    await desk.start()
    asking = await start_callers(desk, 3)
    for task in asking:
        task.cancel()
    await desk.aclose()
    await asyncio.gather(*asking, return_exceptions=True)
    del asking
    gc.collect()
    assert complaints == []


async def test_commands_of_others_in_the_stream_are_none_of_its_business(client):
    async with running(client) as run:
        assert isinstance(run, Run)
        await hand_in(client, b'{"type":"open_account","account":"C","id":"open"}')
        await run.fund("A")
        assert (await run.ask(Deposit(account="C", id="fund", amount=5))).balance == 5
        await run.audit()


@pytest.mark.parametrize(
    "wrong",
    [
        {"symbol": "X" * 65},
        {"volume": "5"},
        {"side": "up"},
        {"id": "quote:1"},
        {"id": "\ud800"},
        {"account": []},
    ],
    ids=str,
)
async def test_a_malformed_command_is_refused_and_not_handed_in(client, wrong: dict[str, Any]):
    async with open_desk(client) as desk:
        command = msgspec.structs.replace(place("A", "order"), **wrong)
        with pytest.raises(ValueError, match="Place was not sent: "):
            await desk.submit(command)
        assert desk.pending == 0
    assert await handed_in(client) == []
