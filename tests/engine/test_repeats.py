"""An id keeps its answer for at least a day, whoever runs the partition and whatever was restarted."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.engine.partition_runs import Run, place, running
from tradewind import RedisCluster, clock
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.keys import DAY_MS
from tradewind.engine.library import load_library
from tradewind.engine.messages import Answer, Close, Command, Deposit, OpenAccount, RejectReason

ASKED: Sequence[Command] = (
    OpenAccount(account="A", id="open"),
    Deposit(account="A", id="fund", amount=10_000_000),
    place("A", "order"),
    place("A", "too-much", volume=9_000_000),
    Close(account="A", id="close-nothing", position="0-0"),
    place("B", "of-nobody"),
)


async def first_answers(run: Run) -> list[Answer]:
    answers = [await run.ask(command) for command in ASKED]
    assert [answer.status for answer in answers] == ["done", "done", "filled"] + ["rejected"] * 3
    return answers


async def check_repeats(run: Run, answers: Sequence[Answer]) -> None:
    """Each is answered as before; another body under each id is refused; nothing happens."""
    before = (await run.audit()).events
    assert [await run.ask(command) for command in ASKED] == answers
    for command in ASKED:
        other = Deposit(account=command.account, id=command.id, amount=1)
        assert (await run.ask(other)).reason is RejectReason.DUPLICATE_ID
    assert [await run.ask(command) for command in ASKED] == answers
    assert (await run.audit()).events == before


async def test_repeats_after_another_worker_took_over(client):
    async with running(client, "first") as run:
        answers = await first_answers(run)
        await check_repeats(run, answers)
    async with running(client, "second") as run:
        await check_repeats(run, answers)


@pytest.mark.slow
async def test_repeats_after_the_whole_cluster_was_stopped_and_started(tmp_path: Path):
    async with EmbeddedCluster(tmp_path / "data") as cluster, RedisCluster.from_url(cluster.url) as client:
        await load_library(client)
        async with running(client) as run:
            answers = await first_answers(run)
    async with (
        EmbeddedCluster(tmp_path / "data") as cluster,
        RedisCluster.from_url(cluster.url) as client,
        running(client) as run,
    ):
        await check_repeats(run, answers)


@pytest.mark.parametrize("is_same_worker", [True, False])
async def test_repeats_on_the_next_day(client, monkeypatch, is_same_worker: bool):
    """Up to the last millisecond of it. What was new on that day is known on the one after it."""
    now_ms = clock.now_ms()
    times = {"now_ms": now_ms}
    monkeypatch.setattr(clock, "now_ms", lambda: times["now_ms"])
    async with running(client, "first") as run:
        answers = await first_answers(run)
        times["now_ms"] = (now_ms // DAY_MS + 2) * DAY_MS - 1
        if is_same_worker:
            await check_repeats(run, answers)
            return
    async with running(client, "second") as run:
        await check_repeats(run, answers)
        late = await run.ask(place("C", "late"))
        times["now_ms"] += 1
        assert await run.ask(place("C", "late")) == late
