"""`tradewind trading` as an operator runs it, beside a partition at work."""

import json

import pytest

from tests.engine.partition_runs import place, running
from tests.support.clients import check_idle
from tests.support.commands import run_command
from tradewind import OutcomeUnknown, RedisCluster, clock
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.hours import DAYS, MINUTES_PER_DAY, minute_of_week
from tradewind.engine.house_store import load_house
from tradewind.engine.keys import HOUSE_KEY
from tradewind.engine.messages import HALTED, Answer, Close, Command, Place
from tradewind.engine.opening import open_engine
from tradewind.ops.trading_command import _Switch


@pytest.fixture
async def client(clean_cluster: EmbeddedCluster):
    client = RedisCluster.from_url(clean_cluster.url)
    await open_engine(client, 1)
    yield client
    await check_idle(client)
    await client.aclose()


async def trading(cluster: EmbeddedCluster, *words: str, code: int = 0) -> tuple[dict[str, object], str]:
    out, err = await run_command(cluster, "trading", *words, "--json", code=code)
    return json.loads(out or "{}"), err


async def test_the_kill_switch_closes_everything_and_halts(client: RedisCluster, clean_cluster):
    async with running(client) as run:
        await run.fund("A1", "A2")
        for account in ("A1", "A2"):
            assert (await run.ask(place(account, "p"))).status == "filled"
        limit = Place(
            account="A1", id="l", symbol="EURUSD", side="buy", volume=1_000, kind="limit", price=111_000
        )
        assert (await run.ask(limit)).status == "accepted"
        told, _ = await trading(clean_cluster, "halted", "--reason", "a test", "--close-all", "--cancel-all")
        assert told == {"scope": "system", "state": "halted", "canceled": 1, "closed": 2, "left": 0}
        await load_house(client, run.house)
        assert (await run.ask(place("A1", "late"))).reason == "system_halted"
        assert (await trading(clean_cluster, "show"))[0] == {"system": "halted (a test)"}
        await trading(clean_cluster, "active", "--reason", "over")
        await load_house(client, run.house)
        assert (await run.ask(place("A1", "again"))).status == "filled"


async def test_an_account_without_an_answer_keeps_the_kill_switch_from_nothing_else(
    client: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(client) as run:
        await run.fund("A1", "A2")
        for account in ("A1", "A2"):
            await run.ask(place(account, "p"))
        submit = run.desk.submit

        async def unanswered(command: Command) -> Answer:
            if command.account == "A1":
                raise OutcomeUnknown("no answer")
            return await submit(command)

        monkeypatch.setattr(run.desk, "submit", unanswered)
        switch = _Switch(client, run.desk, 1, "a test", None, None)
        result = await switch.turn(HALTED, cancel_all=False, close_all=True)
        assert (result["closed"], result["refused"]) == (1, ["A1: no answer"])
        await load_house(client, run.house)
        assert run.house.system.state == HALTED


async def test_an_account_alone_is_halted(client: RedisCluster, clean_cluster):
    async with running(client) as run:
        await run.fund("A1", "A2")
        await trading(clean_cluster, "halted", "--account", "A1", "--reason", "a test")
        assert (await run.ask(place("A1", "p"))).reason == "account_halted"
        assert (await run.ask(place("A2", "p"))).status == "filled"
        told, _ = await trading(clean_cluster, "halted", "--account", "nobody", "--reason", "a test", code=1)
        assert "nobody" in str(told["refused"])


async def test_a_symbol_is_traded_at_its_hours_alone(client: RedisCluster, clean_cluster):
    today = DAYS[minute_of_week(clock.now_ms()) // MINUTES_PER_DAY]
    closed, opened = (DAYS[(DAYS.index(today) + days) % len(DAYS)] for days in (3, -1))
    async with running(client) as run:
        await run.fund("A1")
        position = (await run.ask(place("A1", "p"))).position
        told, _ = await trading(
            clean_cluster, "hours", "EURUSD", f"{closed} 08:00-17:00", "--reason", "a test"
        )
        assert told == {"symbol": "EURUSD", "hours": f"{closed} 08:00-17:00"}
        await load_house(client, run.house)
        late = await run.ask(place("A1", "late"))
        assert late.reason == "market_closed"
        assert late.text is not None and f"it opens {closed} 08:00" in late.text
        assert (await run.ask(Close(account="A1", id="c", position=str(position)))).reason == "market_closed"
        assert (await trading(clean_cluster, "show"))[0] == {
            "system": "active",
            "hours EURUSD": f"{closed} 08:00-17:00",
        }
        kept = await client.hget(HOUSE_KEY, "hours:EURUSD")
        assert json.loads(kept)["why"] == "a test"
        for number, hours in enumerate((f"{opened} 00:00-{closed} 00:00", "always")):
            await trading(clean_cluster, "hours", "EURUSD", hours)
            await load_house(client, run.house)
            assert (await run.ask(place("A1", f"again-{number}"))).status == "filled"
        assert (await trading(clean_cluster, "show"))[0] == {"system": "active"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("halted",), "--reason is missing"),
        (("halted", "--reason", "x", "--symbol", "EURXXX"), "--symbol EURXXX is not one of"),
        (("hours", "EURXXX", "always"), "EURXXX is not one of"),
        (("hours", "EURUSD", "mon 25:00-26:00"), "25:00 is no time"),
        (("active", "--reason", "x", "--close-all"), "go with reducing and halted"),
        (("halted", "--reason", "x", "--symbol", "EURUSD", "--account", "A"), "name one of them"),
    ],
)
async def test_what_makes_no_sense_is_refused(clean_cluster, words: tuple[str, ...], complaint: str):
    assert complaint in (await trading(clean_cluster, *words, code=1))[1]
