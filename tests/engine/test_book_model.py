"""The book against a naive one, over random histories of orders, ticks, pauses, commits and reloads."""

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.engine.books import NOW_MS, QUOTES
from tests.engine.naive import Happening, NaiveAccount, NaivePosition
from tests.engine.naive_orders import DAY_MS, NaiveMarket, NaiveOrder
from tradewind.engine.account import Position, from_fields, to_fields
from tradewind.engine.book import Book, Decision, rebuild
from tradewind.engine.cash import cash_flows
from tradewind.engine.instruments import INSTRUMENTS, Quote, QuoteFrame
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
    MarginCall,
    MarginRestored,
    OpenAccount,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderKind,
    OrderReduced,
    OrderRejected,
    OrderTriggered,
    Place,
    PositionClosed,
    Protect,
    Side,
    TimeInForce,
    Withdraw,
    decode_event,
    encode,
)
from tradewind.engine.statement import statement

PARTITION = 17
ACCOUNTS = ("A1", "A2", "A3")

accounts = st.sampled_from(ACCOUNTS)
symbols = st.sampled_from(["EURUSD", "USDJPY", "USDCHF"])
sides: st.SearchStrategy[Side] = st.sampled_from(["buy", "sell"])
lots = st.integers(1, 100).map(lambda hundredths: hundredths * 1_000)
small_lots = st.integers(1, 20).map(lambda hundredths: hundredths * 1_000)
steps = st.integers(-30, 30) | st.integers(-1_500, 1_500)
near = st.integers(-60, 60)
far = st.integers(-3, 120)


def happening(event: Event) -> Happening | None:
    match event:
        case MarginCall(account=account):
            return ("called", account)
        case MarginRestored(account=account):
            return ("restored", account)
        case PositionClosed(account=account, reason="stop_out", position=position, profit=profit):
            return ("stopped", account, position, profit)
        case PositionClosed(account=account, reason=reason, position=position, profit=profit):
            return None if reason == "close" else (reason, account, position, profit)
    return order_happening(event)


def order_happening(event: Event) -> Happening | None:
    match event:
        case OrderTriggered(account=account, order=order):
            return ("triggered", account, order)
        case OrderFilled(account=account, order=order, position=position, volume=volume):
            return ("filled", account, order, position, volume)
        case OrderReduced(account=account, order=order, volume=volume, profit=profit):
            return ("reduced", account, order, volume, profit)
        case OrderRejected(account=account, order=order, reason=reason) if order:
            return ("rejected", account, order, reason)
        case OrderCanceled(account=account, order=order, reason=reason) if reason is not None:
            return ("canceled", account, order, reason)
        case OrderExpired(account=account, order=order):
            return ("expired", account, order)
    return None


def happenings(decisions: list[Decision]) -> list[Happening]:
    found = [happening(event) for decision in decisions for event in decision.events]
    return [each for each in found if each is not None]


def shown(positions: Iterable[Position | NaivePosition]) -> list[tuple[object, ...]]:
    return [(each.id, each.volume, each.price, each.stop_loss, each.take_profit) for each in positions]


class BookAgainstNaiveBook(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.book = Book(PARTITION)
        self.naive = NaiveMarket(PARTITION)
        self.now_ms = NOW_MS
        self.orders = 0
        self.events: list[bytes] = []
        self.hashes: dict[str, dict[str, str]] = {}
        self.uncommitted: set[str] = set()
        self.amended: set[str] = set()  # fields that may have been changed to what they were

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
        self.naive.sequence = len(self.events)
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

    def send(
        self, quotes: dict[str, tuple[int, int]], sizes: tuple[int | None, int | None] = (None, None)
    ) -> None:
        self.naive.sequence = len(self.events)
        sent = QuoteFrame(1, [Quote(name, *prices, self.now_ms, *sizes) for name, prices in quotes.items()])
        decisions = self.book.on_frame(sent, self.now_ms)
        self.keep(decisions)
        timed = {symbol: (bid, ask, self.now_ms) for symbol, (bid, ask) in quotes.items()}
        for symbol, quote in timed.items():
            self.naive.take_sizes(symbol, quote, sizes)
        assert happenings(decisions) == self.naive.tick(timed, self.now_ms)

    @rule(account=accounts, amount=st.integers(1, 500_000))
    def deposit(self, account: str, amount: int) -> None:
        answer, happened = self.decide(Deposit(account=account, id=self.next_id(), amount=amount))
        self.naive.accounts[account].balance += amount
        assert answer.balance == self.naive.accounts[account].balance
        assert happened == self.naive.restore(account)

    @rule(account=accounts, percent=st.integers(1, 110))
    def withdraw(self, account: str, percent: int) -> None:
        held = self.naive.accounts[account]
        amount = max(1, held.balance * percent // 100)
        refused = self.naive.withdraw(held, amount, self.now_ms)
        answer, happened = self.decide(Withdraw(account=account, id=self.next_id(), amount=amount))
        assert (answer.reason, happened) == (refused, [])

    @rule(account=accounts, symbol=symbols, side=sides, volume=lots)
    def place(self, account: str, symbol: str, side: Side, volume: int) -> None:
        order = Place(account=account, id=self.next_id(), symbol=symbol, side=side, volume=volume)
        expected_id = f"{PARTITION}-{len(self.events) + 1}"
        simple = NaiveOrder("", symbol, side, volume)
        refused, expected = self.place_naively(account, simple)
        answer, happened = self.decide(order)
        assert answer.reason == refused
        assert happened == expected
        if refused is None:
            position = self.naive.accounts[account].positions[-1]
            assert (answer.position, answer.price) == (expected_id, position.price)

    def place_naively(self, account: str, order: NaiveOrder) -> tuple[str | None, list[Happening]]:
        self.naive.sequence = len(self.events)
        return self.naive.place_order(account, order, self.now_ms)

    @rule(
        account=accounts,
        symbol=symbols,
        side=sides,
        volume=small_lots,
        kind=st.sampled_from(["market", "limit", "limit", "stop", "stop_limit"]),
        offsets=st.tuples(near, near),
        protection=st.none() | st.tuples(st.none() | far, st.none() | far),
        time_in_force=st.sampled_from(["gtc", "gtc", "day", "ioc", "fok"]),
        reduce_only=st.sampled_from([False, False, False, True]),
    )
    def order(
        self,
        account: str,
        symbol: str,
        side: Side,
        volume: int,
        kind: OrderKind,
        offsets: tuple[int, int],
        protection: tuple[int | None, int | None] | None,
        time_in_force: TimeInForce,
        reduce_only: bool,
    ) -> None:
        middle = self.naive.prices[symbol][0]
        price = middle + offsets[0] if "limit" in kind else None
        stop = middle + offsets[1] if "stop" in kind else None
        loses = -1 if side == "buy" else 1
        reference = price or stop or middle
        losing, gaining = protection or (None, None)
        stop_loss = None if losing is None else reference + losing * loses
        take_profit = None if gaining is None else reference - gaining * loses
        ends_ms = (self.now_ms // DAY_MS + 1) * DAY_MS if time_in_force == "day" else None
        naive = NaiveOrder(
            "", symbol, side, volume, price, stop, stop_loss, take_profit, time_in_force, reduce_only, ends_ms
        )
        refused, expected = self.place_naively(account, naive)
        command = Place(
            account=account,
            id=self.next_id(),
            symbol=symbol,
            side=side,
            volume=volume,
            kind=kind,
            price=price,
            stop_price=stop,
            stop_loss=stop_loss,
            take_profit=take_profit,
            time_in_force=time_in_force,
            reduce_only=reduce_only,
        )
        answer, happened = self.decide(command)
        assert (answer.reason, happened) == (refused, expected)
        if refused is None:
            rests = naive in self.naive.orders.get(account, [])
            assert answer.volume == naive.filled
            assert answer.order == (naive.id or None)
            whole = {True: "accepted", False: "filled" if naive.filled == volume else "partially_filled"}
            assert answer.status == (whole[rests] if not naive.filled or not rests else "partially_filled")

    def resting(self) -> list[tuple[str, NaiveOrder]]:
        return [(account, order) for account, orders in self.naive.orders.items() for order in orders]

    @precondition(lambda self: any(self.naive.orders.values()))
    @rule(data=st.data(), offset=near, volume=st.none() | lots)
    def amend(self, data: st.DataObject, offset: int, volume: int | None) -> None:
        account, order = data.draw(st.sampled_from(self.resting()))
        moves_stop = order.price is None
        price = self.naive.prices[order.symbol][0] + offset
        command = Amend(
            account=account,
            id=self.next_id(),
            order=order.id,
            volume=volume,
            stop_price=price if moves_stop else None,
            price=None if moves_stop else price,
        )
        self.amended.add(f"order:{order.id}")
        self.naive.sequence = len(self.events)
        refused, expected = self.naive.amend(account, order, volume, price, self.now_ms)
        answer, happened = self.decide(command)
        assert (answer.reason, happened) == (refused, expected)

    @precondition(lambda self: any(self.naive.orders.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        account, order = data.draw(st.sampled_from(self.resting()))
        answer, happened = self.decide(Cancel(account=account, id=self.next_id(), order=order.id))
        assert happened == []
        if order.ends_ms is not None and order.ends_ms <= self.now_ms:
            assert answer.reason == "too_late_to_cancel"
            return
        assert (answer.status, answer.volume, answer.volume_canceled) == ("done", order.filled, order.left)
        self.naive.orders[account].remove(order)
        again, _ = self.decide(Cancel(account=account, id=self.next_id(), order=order.id))
        assert again.reason == "too_late_to_cancel"

    @rule(account=accounts, symbol=st.none() | symbols, side=st.none() | sides)
    def cancel_all(self, account: str, symbol: str | None, side: Side | None) -> None:
        orders = self.naive.orders.get(account, [])
        asked = [order for order in orders if symbol in (None, order.symbol) and side in (None, order.side)]
        answer, happened = self.decide(
            CancelAll(account=account, id=self.next_id(), symbol=symbol, side=side)
        )
        assert (answer.canceled, answer.left, happened) == (len(asked), 0, [])
        self.naive.orders[account] = [order for order in orders if order not in asked]

    def held(self) -> list[tuple[str, NaivePosition]]:
        return [(id, each) for id, account in self.naive.accounts.items() for each in account.positions]

    @precondition(lambda self: self.held())
    @rule(data=st.data(), levels=st.tuples(st.none() | near, st.none() | near))
    def protect(self, data: st.DataObject, levels: tuple[int | None, int | None]) -> None:
        account, position = data.draw(st.sampled_from(self.held()))
        bid, ask, _ = self.naive.prices[position.symbol]
        asked = [None if level is None else bid + level for level in levels]
        command = Protect(
            account=account, id=self.next_id(), position=position.id, stop_loss=asked[0], take_profit=asked[1]
        )
        answer, happened = self.decide(command)
        self.amended.add(f"position:{position.id}")
        assert happened == []
        after = (asked[0] or position.stop_loss, asked[1] or position.take_profit)
        price = bid if position.side == "buy" else ask
        if not self.naive.is_fresh(position.symbol, self.now_ms):
            assert answer.reason == "stale_quote"
        elif self.naive.is_protection_wrong(position.side, after, price):
            assert answer.reason == "invalid_protection"
        else:
            assert answer.status == "done"
            position.stop_loss, position.take_profit = after

    @precondition(lambda self: self.held())
    @rule(data=st.data())
    def close_by(self, data: st.DataObject) -> None:
        account, position = data.draw(st.sampled_from(self.held()))
        other = data.draw(st.sampled_from(self.naive.accounts[account].positions))
        command = CloseBy(account=account, id=self.next_id(), position=position.id, by=other.id)
        answer, happened = self.decide(command)
        if other.symbol != position.symbol or other.side == position.side:
            assert answer.reason == "not_opposite"
            return
        volume = min(position.volume, other.volume)
        self.naive.sequence = len(self.events)
        profit = self.naive.close_by(self.naive.accounts[account], position, other)
        assert (answer.profit, answer.volume) == (profit, volume)
        assert happened == self.naive.restore(account)

    @rule(
        symbol=symbols,
        shift=steps,
        sizes=st.tuples(*[st.none() | st.integers(0, 60_000)] * 2),
    )
    def tick_with_sizes(self, symbol: str, shift: int, sizes: tuple[int | None, int | None]) -> None:
        bid = max(self.naive.prices[symbol][0] + shift, 1_000)
        self.send({symbol: (bid, bid + 10)}, sizes)

    @rule()
    def wait_for_the_next_day(self) -> None:
        self.now_ms = (self.now_ms // DAY_MS + 1) * DAY_MS

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
            in_vain = {name for name, value in to_set.items() if stored.get(name) == value}
            assert in_vain <= self.amended, "written in vain"
            assert stored.keys() >= set(to_delete), "deleted in vain"
            stored.update(to_set)
            for name in to_delete:
                del stored[name]
        self.uncommitted.clear()
        self.amended.clear()
        live = {account.id: to_fields(account) for account in self.book.accounts.values()}
        assert self.hashes == live
        self.check_that_events_alone_give_the_accounts_and_nothing_twice()

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
            assert shown(account.positions.values()) == shown(expected.positions)
            orders = [
                (each.id, each.volume, each.filled, each.price, each.stop_price, each.triggered)
                for each in account.orders.open.values()
            ]
            assert orders == [
                (each.id, each.volume, each.filled, each.price, each.stop, each.triggered)
                for each in self.naive.orders.get(id, [])
            ]

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

    def teardown(self) -> None:
        self.commit()

    def check_that_events_alone_give_the_accounts_and_nothing_twice(self) -> None:
        """At each commit: every event is read again, which is slow."""
        events = [decode_event(body) for body in self.events]
        assert rebuild(events) == self.book.accounts
        opened = [event.position for event in events if isinstance(event, OrderFilled)]
        assert len(opened) == len(set(opened))
        for id, account in self.book.accounts.items():
            own = [event for event in events if event.account == id]
            assert account.balance == sum(cents for event in own for _, cents in cash_flows(event))
            assert account.balance == statement(own, id, 0, 1 << 62).closing_balance


TestBookAgainstNaiveBook = pytest.mark.slow(BookAgainstNaiveBook.TestCase)
TestBookAgainstNaiveBook.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, print_blob=True
)
