"""The FIX adapter against an acceptor that loses, doubles, leaves gaps, cuts: each order has one outcome."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.providers.acceptor import SENDER, TARGET, Acceptor
from tests.support.waiting import eventually
from tradewind.engine.orders import IllegalTransition, OrderState
from tradewind.providers.errors import ProviderUnavailable
from tradewind.providers.fix.connection import Place
from tradewind.providers.fix.provider import FixProvider
from tradewind.providers.fix.session import SessionSettings
from tradewind.providers.orders import NEVER_ARRIVED, ExternalOrder

VOLUME = 100_000
SETTINGS = SessionSettings(sender=TARGET, target=SENDER)
LIVELY = SessionSettings(sender=TARGET, target=SENDER, heartbeat_s=1)


@dataclass
class Trader:
    """Who sends orders, and what it has heard of each."""

    heard: dict[str, list[ExternalOrder]] = field(default_factory=dict)
    fails: bool = False

    async def on_change(self, order: ExternalOrder) -> None:
        if self.fails:
            self.fails = False
            raise RuntimeError("the cluster is away")
        self.heard.setdefault(order.id, []).append(order)

    def last(self, order_id: str) -> ExternalOrder | None:
        return self.heard[order_id][-1] if order_id in self.heard else None

    def is_final(self, order_id: str) -> bool:
        order = self.last(order_id)
        return order is not None and order.is_final


def order(name: str, limit: int | None = None) -> ExternalOrder:
    return ExternalOrder(name, "EURUSD", "buy", VOLUME, limit)


@pytest.fixture
async def acceptor() -> AsyncIterator[Acceptor]:
    async with Acceptor() as acceptor:
        yield acceptor


@pytest.fixture
def trader() -> Trader:
    return Trader()


@asynccontextmanager
async def connected(
    acceptor: Acceptor,
    trader: Trader,
    folder: Path,
    settings: SessionSettings = SETTINGS,
    orders: tuple[ExternalOrder, ...] = (),
) -> AsyncIterator[FixProvider]:
    provider = FixProvider(
        Place("127.0.0.1", acceptor.port), settings, folder / "numbers", trader.on_change,
        answer_s_max=0.3, pause_s_min=0.05,
    )  # fmt: skip
    await provider.reconcile(orders)
    await provider.start()
    try:
        await eventually(lambda: provider.is_active)
        yield provider
    finally:
        await provider.close()


async def test_an_order_is_filled(acceptor, trader, tmp_path):
    async with connected(acceptor, trader, tmp_path) as provider:
        await provider.send(order("1"))
        await eventually(lambda: trader.is_final("1"))
        assert [change.state for change in trader.heard["1"]] == [OrderState.NEW, OrderState.FILLED]
        filled = trader.heard["1"][-1]
        assert (filled.filled, filled.cost, filled.provider_id) == (VOLUME, VOLUME * 112_130, "o-1")
        assert provider.open == []
    assert acceptor.kinds()[-1] == "5"


async def test_many_orders_at_once(acceptor, trader, tmp_path):
    names = [str(number) for number in range(200)]
    async with connected(acceptor, trader, tmp_path) as provider:
        await asyncio.gather(*(provider.send(order(name)) for name in names))
        await eventually(lambda: all(map(trader.is_final, names)))
    assert acceptor.book.doubled == []
    assert all(trader.heard[name][-1].state is OrderState.FILLED for name in names)


async def test_a_limit_order_goes_out_with_its_price_and_is_filled_in_parts_then_canceled(
    acceptor, trader, tmp_path
):
    acceptor.hold = True
    async with connected(acceptor, trader, tmp_path) as provider:
        await provider.send(order("1", limit=112_120))
        await eventually(lambda: trader.last("1") is not None)
        asked = acceptor.book.orders["1"]
        assert (asked[40], asked[44], asked[59], asked[54]) == ("2", "1.12120", "3", "1")
        acceptor.fill("1", 40_000, "1.12119")
        await eventually(lambda: trader.heard["1"][-1].state is OrderState.PARTIALLY_FILLED)
        await provider.cancel("1")
        with pytest.raises(IllegalTransition):
            await provider.cancel("1")
        await eventually(lambda: trader.is_final("1"))
    end = trader.heard["1"][-1]
    assert (end.state, end.filled, end.cost) == (OrderState.CANCELED, 40_000, 40_000 * 112_119)


async def test_a_cancel_that_comes_too_late_leaves_the_fill(acceptor, trader, tmp_path):
    acceptor.hold = True
    async with connected(acceptor, trader, tmp_path) as provider:
        await provider.send(order("1"))
        await eventually(lambda: trader.last("1") is not None)
        acceptor.deaf = lambda message: message[35] == "F"
        await provider.cancel("1")
        acceptor.fill("1", VOLUME)
        await eventually(lambda: trader.is_final("1"))
        assert trader.heard["1"][-1].state is OrderState.FILLED
        with pytest.raises(KeyError):
            await provider.cancel("1")


async def test_nothing_is_sent_without_a_session(acceptor, trader, tmp_path):
    async with connected(acceptor, trader, tmp_path) as provider:
        await acceptor.stop()
        await eventually(lambda: not provider.is_active)
        with pytest.raises(ProviderUnavailable, match="no session with"):
            await provider.send(order("1"))
        assert provider.open == []


# -- what the wire does --------------------------------------------------------------------------------


def is_fill(pairs: list[tuple[int, str]]) -> bool:
    return (150, "F") in pairs


def once(condition: Callable[..., bool]) -> Callable[..., bool]:
    """True the first time that the condition holds."""
    was_true = False

    def check(argument) -> bool:
        nonlocal was_true
        if was_true or not condition(argument):
            return False
        was_true = True
        return True

    return check


async def test_a_report_that_is_lost_is_asked_for_again(acceptor, trader, tmp_path):
    acceptor.lose = once(is_fill)
    async with connected(acceptor, trader, tmp_path) as provider:
        await provider.send(order("1"))
        await provider.send(order("2"))
        await eventually(lambda: trader.is_final("1") and trader.is_final("2"))
        assert "2" in acceptor.kinds()  # a resend request
    assert [heard.state for heard in trader.heard["1"]] == [OrderState.NEW, OrderState.FILLED]
    assert acceptor.book.doubled == []


async def test_a_report_that_comes_twice_counts_once(acceptor, trader, tmp_path):
    async with connected(acceptor, trader, tmp_path) as provider:
        await provider.send(order("0"))
        await eventually(lambda: trader.is_final("0"))
        acceptor.hold = True
        await provider.send(order("1"))
        await eventually(lambda: trader.last("1") is not None)
        acceptor.fill("1", 60_000)
        number = acceptor.next_out - 1
        acceptor._write(number, acceptor.sent[number], ((43, "Y"),))
        acceptor.send("8", acceptor.sent[number][1:])  # the same execution under a number of its own
        acceptor.fill("1", 40_000)
        await eventually(lambda: trader.is_final("1"))
    assert [heard.filled for heard in trader.heard["1"]] == [0, 60_000, VOLUME]


async def test_an_unmarked_number_that_was_used_ends_the_session(acceptor, trader, tmp_path):
    async with connected(acceptor, trader, tmp_path) as provider:
        acceptor.next_out = 1
        acceptor.send("0", [])
        await eventually(lambda: "5" in acceptor.kinds())
        assert "number too low: expected 2, got 1" in acceptor.received[-1][58]
        await eventually(lambda: not provider.is_active)


async def test_an_order_that_never_arrived_is_asked_about_and_not_sent_again(acceptor, trader, tmp_path):
    """Its number is missed, and gets a gap in place of the order: a price of a moment ago must not trade."""
    acceptor.deaf = once(lambda message: message[35] == "D")
    async with connected(acceptor, trader, tmp_path) as provider:
        await provider.send(order("1"))
        await eventually(lambda: trader.is_final("1"))
        assert trader.heard["1"][-1].state is OrderState.REJECTED
        assert trader.heard["1"][-1].text == NEVER_ARRIVED
        assert provider.queries >= 1
        await provider.send(order("2"))
        await eventually(lambda: trader.is_final("2"))
    assert list(acceptor.book.orders) == ["2"]
    assert acceptor.kinds().count("D") == 2


@pytest.mark.parametrize("kind", ["0", "F"])
async def test_a_connection_that_ends_inside_a_message_leaves_no_order_unknown(
    acceptor, trader, tmp_path, kind
):
    acceptor.cut_inside = lambda pairs: (150, kind) in pairs
    async with connected(acceptor, trader, tmp_path) as provider:
        await provider.send(order("1"))
        await eventually(lambda: trader.is_final("1"))
        assert acceptor.connections == 2
        assert provider.refused == []
    assert [heard.state for heard in trader.heard["1"]] == [OrderState.NEW, OrderState.FILLED]
    assert acceptor.book.doubled == []


async def test_an_order_whose_connection_is_cut_when_it_was_sent_is_asked_about(acceptor, trader, tmp_path):
    async with connected(acceptor, trader, tmp_path) as provider:
        acceptor.deaf = lambda message: message[35] == "D"
        await provider.send(order("1"))
        acceptor.cut()
        await eventually(lambda: acceptor.connections == 2)
        acceptor.deaf = lambda message: False
        await eventually(lambda: trader.is_final("1"))
    assert trader.heard["1"][-1].text == NEVER_ARRIVED
    assert acceptor.book.orders == {}


async def test_garbled_bytes_are_passed_over(acceptor, trader, tmp_path):
    async with connected(acceptor, trader, tmp_path) as provider:
        assert acceptor.writer is not None
        acceptor.writer.write(b"8=FIX.4.4\x019=5\x0135=0\x0110=000\x01 noise 8=FIX.4.4\x019=x\x01")
        await provider.send(order("1"))
        await eventually(lambda: trader.is_final("1"))


async def test_a_silent_provider_is_tested_then_left(acceptor, trader, tmp_path):
    async with connected(acceptor, trader, tmp_path, LIVELY):
        acceptor.deaf = lambda message: message[35] in "01"
        await eventually(lambda: "1" in acceptor.kinds())
        await eventually(lambda: acceptor.connections > 1)


async def test_a_quiet_session_is_kept_by_heartbeats(acceptor, trader, tmp_path):
    async with connected(acceptor, trader, tmp_path, LIVELY):
        acceptor.send("1", [(112, "are-you-there")])
        await eventually(lambda: any(m.get(112) == "are-you-there" for m in acceptor.received))
        await eventually(lambda: acceptor.kinds().count("0") >= 3)


async def test_a_gap_that_is_filled_and_a_reset_are_followed(acceptor, trader, tmp_path):
    async with connected(acceptor, trader, tmp_path) as provider:
        acceptor.send("4", [(123, "Y"), (36, str(acceptor.next_out + 5))])
        acceptor.next_out += 4
        await provider.send(order("1"))
        await eventually(lambda: trader.is_final("1"))
        acceptor.next_out = 100
        acceptor.send("4", [(36, "101")])
        await provider.send(order("2"))
        await eventually(lambda: trader.is_final("2"))
        assert acceptor.connections == 1


# -- a life later --------------------------------------------------------------------------------------


async def test_numbers_go_on_after_a_restart(acceptor, trader, tmp_path):
    for name in ("1", "2", "3"):
        async with connected(acceptor, trader, tmp_path) as provider:
            await provider.send(order(name))
            await eventually(lambda n=name: trader.is_final(n))
    logons = [int(message[34]) for message in acceptor.received if message[35] == "A"]
    assert logons == sorted(set(logons))
    assert logons[0] == 1
    assert "2" not in acceptor.kinds()


async def test_with_reset_both_sides_begin_at_one(acceptor, trader, tmp_path):
    settings = SessionSettings(sender=TARGET, target=SENDER, is_reset=True)
    for name in ("1", "2"):
        async with connected(acceptor, trader, tmp_path, settings) as provider:
            await provider.send(order(name))
            await eventually(lambda n=name: trader.is_final(n))
    logons = [int(message[34]) for message in acceptor.received if message[35] == "A"]
    assert logons == [1, 1]


async def test_what_was_filled_while_nobody_was_there_is_heard_after_reconciling(acceptor, trader, tmp_path):
    acceptor.hold = True
    async with connected(acceptor, trader, tmp_path) as provider:
        await provider.send(order("1"))
        await eventually(lambda: trader.last("1") is not None)
    known = trader.heard["1"][-1]
    acceptor.fill("1", VOLUME)  # into the void
    lost = order("2")  # written down by its owner, who ended before it was sent
    async with connected(acceptor, trader, tmp_path, orders=(known, lost)):
        await eventually(lambda: trader.is_final("1") and trader.is_final("2"))
    assert (trader.heard["1"][-1].state, trader.heard["1"][-1].filled) == (OrderState.FILLED, VOLUME)
    assert trader.heard["2"][-1].text == NEVER_ARRIVED


async def test_a_report_that_could_not_be_dealt_with_comes_again(acceptor, trader, tmp_path, caplog):
    acceptor.hold = True
    async with connected(acceptor, trader, tmp_path) as provider:
        await provider.send(order("1"))
        await eventually(lambda: trader.last("1") is not None)
        trader.fails = True
        acceptor.fill("1", VOLUME)
        await eventually(lambda: trader.is_final("1"))
        assert acceptor.connections == 2
        assert provider.open == []
    assert [heard.filled for heard in trader.heard["1"]] == [0, VOLUME]
    assert "the cluster is away" in caplog.text


async def test_a_report_that_cannot_be_is_kept_for_people_and_the_order_is_asked_about(
    acceptor, trader, tmp_path
):
    acceptor.hold = True
    async with connected(acceptor, trader, tmp_path) as provider:
        await provider.send(order("1"))
        await eventually(lambda: trader.last("1") is not None)
        acceptor.fill("1", 10_000, "1.121301")
        await eventually(lambda: provider.refused != [])
        assert "price '1.121301' is no multiple" in provider.refused[0]
        await eventually(lambda: len(provider.refused) > 1)
        assert "the provider has 10000 filled, its reports came to 0" in provider.refused[1]
        assert trader.heard["1"][-1].filled == 0
