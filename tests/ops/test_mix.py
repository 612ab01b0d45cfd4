"""The load is seeded, and does to the accounts what it is for."""

from collections import Counter

import msgspec

from tradewind.engine.book import Book
from tradewind.engine.instruments import INSTRUMENTS, Quote, QuoteFrame
from tradewind.engine.messages import Command, Deposit, OpenAccount, Place, PositionClosed
from tradewind.feed.simulation import MARKETS
from tradewind.ops.mix import DEPOSIT_CENTS, LEVERAGE, POSITIONS_AIMED, Mix, Trader

NOW_MS = 1_700_000_000_000
ACCOUNTS = 300


def market(fall_parts: int = 0, at_ms: int = NOW_MS) -> QuoteFrame:
    quotes = []
    for symbol, shape in MARKETS.items():
        bid = shape.start * (1_000 - (fall_parts if symbol == "EURUSD" else 0)) // 1_000
        quotes.append(Quote(symbol, bid, bid + shape.spread, at_ms))
    return QuoteFrame(1, quotes)


def trade(orders: int, seed: int = 1) -> tuple[Book, Counter[str], list[Command]]:
    """Runs the mix against a real book."""
    book, outcomes, commands = Book(0), Counter(), []
    book.on_frame(market(), NOW_MS)
    traders = [Trader(f"A{n}", 0) for n in range(ACCOUNTS)]
    for trader in traders:
        book.decide(OpenAccount(account=trader.account, id="open", leverage=LEVERAGE), NOW_MS)
        book.decide(Deposit(account=trader.account, id="fund", amount=DEPOSIT_CENTS), NOW_MS)
    mix = Mix(traders, list(INSTRUMENTS), seed=seed, run="r")
    for _ in range(orders):
        trader, command = mix.next()
        answer = book.decide(command, NOW_MS).answer
        outcomes[answer.reason or answer.status] += 1
        mix.learn(trader, command, answer)
        commands.append(command)
    return book, outcomes, commands


def test_the_same_seed_gives_the_same_orders():
    assert trade(2_000)[2] == trade(2_000)[2] != trade(2_000, seed=2)[2]


def test_ids_are_unique():
    commands = trade(3_000)[2]
    assert len({command.id for command in commands}) == len(commands)


def test_hardly_any_order_is_refused_and_accounts_stay_loaded():
    book, outcomes, _ = trade(ACCOUNTS * 20)
    assert outcomes["filled"] > 0.95 * ACCOUNTS * 20, outcomes
    used = sum(account.used_margin for account in book.accounts.values())
    assert used > 0.5 * DEPOSIT_CENTS * ACCOUNTS
    assert max(len(account.positions) for account in book.accounts.values()) <= POSITIONS_AIMED + 1


def test_a_crash_of_the_first_symbol_stops_most_accounts_out():
    book, _, _ = trade(ACCOUNTS * 5)
    decisions = book.on_frame(market(30, NOW_MS + 1), NOW_MS + 1)
    closed = [event for d in decisions for event in d.events if isinstance(event, PositionClosed)]
    assert len({event.account for event in closed}) > 0.3 * ACCOUNTS
    assert len(closed) > 0.6 * ACCOUNTS


def test_positions_of_an_earlier_run_are_closed_and_dry_accounts_deposit():
    book, _, _ = trade(ACCOUNTS * 5)
    book.on_frame(market(30, NOW_MS + 1), NOW_MS + 1)
    traders = [Trader(name, 0) for name in book.accounts]
    mix = Mix(traders, list(INSTRUMENTS), seed=3, run="second")
    kinds = Counter()
    for _ in range(ACCOUNTS * 8):
        trader, command = mix.next()
        answer = book.decide(command, NOW_MS + 1).answer
        kinds[type(command).__name__, answer.status] += 1
        mix.learn(trader, command, answer)
    assert kinds["CloseAll", "done"] > 0
    assert kinds["Deposit", "done"] > 0
    assert kinds["Place", "filled"] > kinds["Place", "rejected"]


def test_one_symbol_alone_will_do():
    trader = Trader("A", 0)
    mix = Mix([trader], ["USDJPY"], seed=1, run="r")
    commands = [mix.next()[1] for _ in range(10)]
    assert {command.symbol for command in commands if isinstance(command, Place)} == {"USDJPY"}
    assert all(INSTRUMENTS["USDJPY"].accepts_volume(command.volume) for command in commands)
    assert msgspec.structs.asdict(commands[0])["account"] == "A"
