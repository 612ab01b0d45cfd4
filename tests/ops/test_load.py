"""Every order that is offered is counted as what became of it; no error vanishes."""

import asyncio
from collections.abc import Callable

import pytest

from tradewind import ClientClosed, OutcomeUnknown, Overloaded
from tradewind.engine.messages import Answer, Command
from tradewind.ops import load as load_module
from tradewind.ops.errors import JournalUnwritable, OrderFailed, StartFailed
from tradewind.ops.journal import Journal
from tradewind.ops.load import Load, open_accounts
from tradewind.ops.mix import Mix, Trader
from tradewind.ops.tally import ShardTally, Tally

RATE = 2_000


class Desk:
    """Answers each order, except where `errors` has an error for its number."""

    def __init__(self, errors: dict[int, Exception], is_silent: bool = False) -> None:
        self.errors = errors
        self.is_silent = is_silent
        self.submitted = 0

    async def submit(self, command: Command) -> Answer:
        self.submitted += 1
        number = self.submitted
        await asyncio.sleep(0)
        if error := self.errors.get(number):
            raise error
        if self.is_silent:
            await asyncio.Event().wait()
        return Answer(id=command.id, account=command.account, status="filled", position="0-1", balance=1)


class Floor:
    """A load on a desk of its own."""

    def __init__(self, desk: Desk, journal: Journal | None = None) -> None:
        self.failed = asyncio.Event()
        self.journal = journal or Journal()
        self.tally = Tally([ShardTally("p0")])
        mix = Mix([Trader("A", 0)], ["EURUSD"], seed=1, run="run")
        self.load = Load(desk, mix, self.tally, self.journal, self.failed.set)  # type: ignore[arg-type]

    async def offer(self, until: Callable[[], bool], rate: int = RATE) -> None:
        async with self.load.offering(rate), asyncio.timeout(10):
            while not until():
                await asyncio.sleep(0.001)

    def check(self) -> None:
        tally = self.tally
        assert tally.in_flight == 0
        assert tally.offered == tally.acknowledged + tally.unknown + tally.not_sent
        assert self.journal.entries == tally.acknowledged + tally.unknown
        self.journal.close()


async def test_each_order_is_counted_as_what_became_of_it():
    desk = Desk({2: OutcomeUnknown("no answer"), 3: Overloaded("no turn"), 4: ClientClosed("closed")})
    floor = Floor(desk)
    await floor.offer(lambda: desk.submitted > 20)
    floor.check()
    assert (floor.tally.unknown, floor.tally.not_sent) == (1, 2)
    assert floor.tally.errors == {"OutcomeUnknown": 1, "Overloaded": 1, "ClientClosed": 1}
    assert not floor.failed.is_set()


@pytest.mark.parametrize("rate", [RATE, 0])
async def test_the_first_error_that_is_no_outcome_ends_the_run(monkeypatch, rate):
    monkeypatch.setattr(load_module, "CALLERS", 3)
    floor = Floor(Desk({5: KeyError("first"), 6: KeyError("second")}))
    with pytest.raises(OrderFailed, match="an order met an error: KeyError: 'first'"):
        await floor.offer(floor.failed.is_set, rate)
    floor.check()


async def test_a_journal_that_takes_no_more_ends_the_run():
    class Full(Journal):
        def add(self, asked: Command, told: Answer | None) -> None:
            super().add(asked, told)
            if self.entries >= 5:
                raise JournalUnwritable("no space")

    floor = Floor(Desk({}), Full())
    with pytest.raises(JournalUnwritable, match="no space"):
        await floor.offer(floor.failed.is_set)
    floor.check()


async def test_orders_without_an_answer_at_the_end_are_unknown(monkeypatch):
    monkeypatch.setattr(load_module, "DRAIN_S_MAX", 0.05)
    desk = Desk({}, is_silent=True)
    floor = Floor(desk)
    await floor.offer(lambda: desk.submitted > 10)
    floor.check()
    assert floor.tally.unknown == floor.tally.offered > 10


@pytest.mark.parametrize("rate", [RATE, 0])
async def test_an_interrupt_waits_for_no_answer(monkeypatch, rate):
    monkeypatch.setattr(load_module, "CALLERS", 20)
    desk = Desk({}, is_silent=True)
    floor = Floor(desk)
    async with asyncio.timeout(5):
        with pytest.raises(ZeroDivisionError):
            async with floor.load.offering(rate):
                while desk.submitted < 10:
                    await asyncio.sleep(0.001)
                raise ZeroDivisionError
    floor.check()


@pytest.mark.parametrize("error", [OutcomeUnknown("no answer"), Overloaded("no turn")])
async def test_accounts_that_cannot_be_opened_are_one_error(error):
    journal = Journal()
    with pytest.raises(StartFailed, match=f"accounts cannot be opened: {error}"):
        await open_accounts(Desk({1: error}), journal, ["A", "B"], "run")  # type: ignore[arg-type]
    journal.close()
