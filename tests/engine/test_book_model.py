"""The book against a naive one, over random histories of orders, ticks, pauses, commits and reloads."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.engine.books import NOW_MS, QUOTES, frame
from tests.engine.naive import Happening, NaiveAccount, NaiveBook, NaivePosition
from tradewind.engine.account import from_fields, to_fields
from tradewind.engine.book import Book, Decision, rebuild
from tradewind.engine.instruments import INSTRUMENTS
from tradewind.engine.messages import (
    Answer,
    Close,
    CloseAll,
    Command,
    Deposit,
    Deposited,
    Event,
    MarginCall,
    MarginRestored,
    OpenAccount,
    OrderFilled,
    Place,
    PositionClosed,
    Side,
    decode_event,
    encode,
)

PARTITION = 17
ACCOUNTS = ("A1", "A2", "A3")

accounts = st.sampled_from(ACCOUNTS)
symbols = st.sampled_from(["EURUSD", "USDJPY", "USDCHF"])
sides: st.SearchStrategy[Side] = st.sampled_from(["buy", "sell"])
lots = st.integers(1, 100).map(lambda hundredths: hundredths * 1_000)
steps = st.integers(-30, 30) | st.integers(-1_500, 1_500)


def happening(event: Event) -> Happening | None:
    match event:
        case MarginCall(account=account):
            return ("called", account)
        case MarginRestored(account=account):
            return ("restored", account)
        case PositionClosed(account=account, reason="stop_out", position=position, profit=profit):
            return ("stopped", account, position, profit)
    return None


def happenings(decisions: list[Decision]) -> list[Happening]:
    found = [happening(event) for decision in decisions for event in decision.events]
    return [each for each in found if each is not None]


class BookAgainstNaiveBook(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.book = Book(PARTITION)
        self.naive = NaiveBook()
        self.now_ms = NOW_MS
        self.orders = 0
        self.events: list[bytes] = []
        self.hashes: dict[str, dict[str, str]] = {}
        self.uncommitted: set[str] = set()

    @initialize(
        leverages=st.tuples(*[st.sampled_from([1, 30, 100, 500])] * len(ACCOUNTS)),
        deposits=st.tuples(*[st.integers(10_000, 500_000)] * len(ACCOUNTS)),
    )
    def open_accounts(self, leverages: tuple[int, ...], deposits: tuple[int, ...]) -> None:
        self.move(dict.fromkeys(QUOTES, 0))
        for account, leverage, amount in zip(ACCOUNTS, leverages, deposits, strict=True):
            self.decide(OpenAccount(account=account, id=self.next_id(), leverage=leverage))
            self.naive.accounts[account] = NaiveAccount(leverage)
            self.deposit(account, amount)

    def next_id(self) -> str:
        self.orders += 1
        return f"order-{self.orders}"

    def keep(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            assert decision.first_sequence == len(self.events) + 1
            self.events += [encode(event) for event in decision.events]
            self.uncommitted.update(decision.touched)
        assert self.book.event_sequence == len(self.events)

    def decide(self, command: Command) -> tuple[Answer, list[Happening]]:
        decision = self.book.decide(command, self.now_ms)
        self.keep([decision])
        assert decision.answer is not None
        assert (decision.answer.id, decision.answer.account) == (command.id, command.account)
        return decision.answer, happenings([decision])

    def move(self, shifts: dict[str, int], wider: int = 0) -> None:
        now = {symbol: self.naive.prices.get(symbol, (*QUOTES[symbol], 0))[:2] for symbol in shifts}
        moved = {}
        for symbol, shift in shifts.items():
            bid = max(now[symbol][0] + shift, 1_000)
            moved[symbol] = (bid, bid + 10 + wider)
        self.send(moved)

    def send(self, quotes: dict[str, tuple[int, int]]) -> None:
        decisions = self.book.on_frame(frame(quotes, self.now_ms), self.now_ms)
        self.keep(decisions)
        timed = {symbol: (bid, ask, self.now_ms) for symbol, (bid, ask) in quotes.items()}
        assert happenings(decisions) == self.naive.tick(timed, self.now_ms)

    @rule(account=accounts, amount=st.integers(1, 500_000))
    def deposit(self, account: str, amount: int) -> None:
        answer, happened = self.decide(Deposit(account=account, id=self.next_id(), amount=amount))
        self.naive.accounts[account].balance += amount
        assert answer.balance == self.naive.accounts[account].balance
        assert happened == self.naive.restore(account)

    @rule(account=accounts, symbol=symbols, side=sides, volume=lots)
    def place(self, account: str, symbol: str, side: Side, volume: int) -> None:
        order = Place(account=account, id=self.next_id(), symbol=symbol, side=side, volume=volume)
        expected_id = f"{PARTITION}-{len(self.events) + 1}"
        position = NaivePosition(expected_id, symbol, side, volume, 0)
        refused = self.naive.place(account, position, self.now_ms)
        answer, happened = self.decide(order)
        assert answer.reason == refused
        assert happened == []
        if refused is None:
            assert (answer.position, answer.price) == (expected_id, position.price)

    @rule(orders=st.lists(st.tuples(symbols, sides, st.integers(10, 100)), min_size=1, max_size=6))
    def load_up(self, orders: list[tuple[str, Side, int]]) -> None:
        """Spends most of what is free, so that ticks hurt; fresh quotes first, so that it is filled."""
        self.move(dict.fromkeys(QUOTES, 0))
        for number, (symbol, side, percent) in enumerate(orders):
            account = ACCOUNTS[number % len(ACCOUNTS)]
            held = self.naive.accounts[account]
            free = self.naive.equity(held) - self.naive.used_margin(held)
            volume = free * held.leverage * percent // 10_000 // 1_000 * 1_000
            self.place(account, symbol, side, min(max(volume, 1_000), 10_000_000))

    @rule(account=accounts, level_percent=st.integers(20, 120) | st.integers(98, 112), pick=st.integers(0, 9))
    def squeeze(self, account: str, level_percent: int, pick: int) -> None:
        """Moves one symbol until the account is near the level: calls and stop-outs are rare else."""
        held = self.naive.accounts[account]
        if not held.positions:
            return
        symbol = held.positions[pick % len(held.positions)].symbol
        bid, ask, _ = self.naive.prices[symbol]
        before = self.naive.equity(held)
        standing = self.naive.prices.copy()
        self.naive.prices[symbol] = (bid + 100, ask + 100, 0)
        gain_of_100_steps = self.naive.equity(held) - before
        self.naive.prices = standing
        wanted = self.naive.used_margin(held) * level_percent // 100 - before
        if gain_of_100_steps:
            self.move({symbol: max(-50_000, min(50_000, wanted * 100 // gain_of_100_steps))})

    @precondition(lambda self: any(account.positions for account in self.naive.accounts.values()))
    @rule(data=st.data(), in_part=st.booleans())
    def close(self, data: st.DataObject, in_part: bool) -> None:
        held = [(id, each) for id, account in self.naive.accounts.items() for each in account.positions]
        account, position = data.draw(st.sampled_from(held))
        volume = data.draw(st.integers(1, position.volume // 1_000)) * 1_000 if in_part else position.volume
        command = Close(
            account=account, id=self.next_id(), position=position.id, volume=volume if in_part else None
        )
        answer, happened = self.decide(command)
        if not self.naive.is_fresh(position.symbol, self.now_ms):
            assert answer.reason == "stale_quote"
            return
        assert answer.profit == self.naive.close(self.naive.accounts[account], position, volume)
        assert happened == self.naive.restore(account)

    @rule(account=accounts, symbol=st.none() | symbols, side=st.none() | sides)
    def close_all(self, account: str, symbol: str | None, side: Side | None) -> None:
        held = self.naive.accounts[account]
        asked = [
            position
            for position in held.positions
            if symbol in (None, position.symbol) and side in (None, position.side)
        ]
        fresh = [position for position in asked if self.naive.is_fresh(position.symbol, self.now_ms)]
        answer, happened = self.decide(CloseAll(account=account, id=self.next_id(), symbol=symbol, side=side))
        profit = sum(self.naive.close(held, position, position.volume) for position in fresh)
        assert (answer.closed, answer.left) == (len(fresh), len(asked) - len(fresh))
        assert answer.profit == profit
        assert happened == self.naive.restore(account)

    @rule(shifts=st.dictionaries(symbols, steps, min_size=1), wider=st.integers(0, 20))
    def tick(self, shifts: dict[str, int], wider: int) -> None:
        self.move(shifts, wider)

    @rule(pause_ms=st.integers(0, 15_000))
    def wait(self, pause_ms: int) -> None:
        self.now_ms += pause_ms

    @rule()
    def commit(self) -> None:
        for account, (to_set, to_delete) in self.book.changes(sorted(self.uncommitted)).items():
            stored = self.hashes.setdefault(account, {})
            assert all(stored.get(name) != value for name, value in to_set.items()), "written in vain"
            assert stored.keys() >= set(to_delete), "deleted in vain"
            stored.update(to_set)
            for name in to_delete:
                del stored[name]
        self.uncommitted.clear()
        live = {account.id: to_fields(account) for account in self.book.accounts.values()}
        assert self.hashes == live

    @rule()
    def lose_the_owner_and_load_anew(self) -> None:
        self.commit()
        loaded = [from_fields(fields) for fields in self.hashes.values()]
        lost = self.book
        self.book = Book(PARTITION, loaded, lost.event_sequence)
        assert self.book.accounts == lost.accounts
        self.send({symbol: (bid, ask) for symbol, (bid, ask, _) in self.naive.prices.items()})

    @invariant()
    def accounts_are_those_of_the_naive_book(self) -> None:
        for id, expected in self.naive.accounts.items():
            account = self.book.accounts[id]
            assert account.balance == expected.balance
            assert account.margin_called == expected.called
            assert account.used_margin == self.naive.used_margin(expected)
            assert account.equity(self.book.quotes.last) == self.naive.equity(expected)
            held = [(each.id, each.volume, each.price) for each in account.positions.values()]
            assert held == [(each.id, each.volume, each.price) for each in expected.positions]

    @invariant()
    def sums_are_those_of_the_positions(self) -> None:
        for account in self.book.accounts.values():
            positions = account.positions.values()
            assert account.used_margin == sum(position.margin for position in positions)
            volumes: Counter[tuple[str, str]] = Counter()
            costs: Counter[tuple[str, str]] = Counter()
            for position in positions:
                volumes[position.symbol, position.side] += position.volume
                costs[position.symbol, position.side] += position.volume * position.price
            assert {key: leg.volume for key, leg in account.legs.items()} == volumes
            assert {key: leg.cost for key, leg in account.legs.items()} == costs
            assert all(leg.instrument is INSTRUMENTS[symbol] for (symbol, _), leg in account.legs.items())

    @invariant()
    def events_alone_give_the_accounts_and_nothing_twice(self) -> None:
        events = [decode_event(body) for body in self.events]
        assert rebuild(events) == self.book.accounts
        opened = [event.position for event in events if isinstance(event, OrderFilled)]
        assert len(opened) == len(set(opened))
        for id, account in self.book.accounts.items():
            paid_in = sum(e.amount for e in events if isinstance(e, Deposited) and e.account == id)
            earned = sum(e.profit for e in events if isinstance(e, PositionClosed) and e.account == id)
            assert account.balance == paid_in + earned


TestBookAgainstNaiveBook = pytest.mark.slow(BookAgainstNaiveBook.TestCase)
TestBookAgainstNaiveBook.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, print_blob=True
)
