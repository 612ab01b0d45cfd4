"""What the engine's rules cost in memory, without any I/O: `python benchmarks/engine_book.py`."""

import random
import time
from collections.abc import Callable

from tradewind.engine.account import Account
from tradewind.engine.book import Book, Decision
from tradewind.engine.instruments import INSTRUMENTS, Quote, QuoteFrame
from tradewind.engine.messages import (
    Close,
    Deposit,
    OpenAccount,
    Place,
    Side,
    decode_command,
    encode,
    fingerprint,
)

MIDDLE_PRICES = {
    "EURUSD": 112_120,
    "GBPUSD": 130_500,
    "AUDUSD": 68_200,
    "USDJPY": 108_650,
    "USDCHF": 97_100,
    "USDCAD": 131_800,
}
ACCOUNTS = 5_000
POSITIONS = 20_000
RESTING_ORDERS = 10_000
NOW_MS = 1_700_000_000_000


def frame(sequence: int, shift_steps: int = 0) -> QuoteFrame:
    quotes = [
        Quote(symbol, price + shift_steps, price + shift_steps + 12, NOW_MS)
        for symbol, price in MIDDLE_PRICES.items()
    ]
    return QuoteFrame(sequence, quotes)


def funded_book(accounts: int, deposit_cents: int) -> Book:
    book = Book(partition=0)
    book.on_frame(frame(0), NOW_MS)
    for number in range(accounts):
        book.decide(OpenAccount(account=f"A{number}", id=f"open-{number}"), NOW_MS)
        book.decide(Deposit(account=f"A{number}", id=f"in-{number}", amount=deposit_cents), NOW_MS)
    return book


def random_order(random_source: random.Random, account: str, number: int) -> Place:
    side: Side = "buy" if random_source.random() < 0.5 else "sell"
    symbol = random_source.choice(list(INSTRUMENTS))
    volume = 1_000 * random_source.randint(1, 20)
    return Place(account=account, id=f"order-{number}", symbol=symbol, side=side, volume=volume)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(what: str, total_s: float, count: int) -> None:
    print(f"{what:<66} {total_s / count * 1e6:9.2f} us")


def measure_decide() -> None:
    count = 20_000
    source = random.Random(1)
    book = funded_book(1_000, 10**8)
    orders = [random_order(source, f"A{number % 1_000}", number) for number in range(count)]
    decisions: list[Decision] = []
    report(
        "decide: market order filled",
        seconds(lambda: decisions.extend(book.decide(order, NOW_MS) for order in orders)),
        count,
    )
    report(
        "changes: of one account after one order, on average",
        seconds(lambda: book.changes(book.accounts)),
        count,
    )
    closes = []
    for decision in decisions:
        assert decision.answer is not None and decision.answer.position is not None
        answer = decision.answer
        closes.append(Close(account=answer.account, id=f"c-{answer.id}", position=str(answer.position)))
    report(
        "decide: position closed",
        seconds(lambda: [book.decide(close, NOW_MS) for close in closes]),
        count,
    )
    rejected = [Place(account="A1", id="x", symbol="EURUSD", side="buy", volume=1) for _ in range(count)]
    report(
        "decide: order rejected",
        seconds(lambda: [book.decide(order, NOW_MS) for order in rejected]),
        count,
    )
    wire = [encode(order) for order in orders]
    report("decode a command", seconds(lambda: [decode_command(body) for body in wire]), count)
    report("encode a decision's event and answer", seconds(lambda: encode_all(decisions)), count)
    report("fingerprint of a command", seconds(lambda: [fingerprint(order) for order in orders]), count)


def encode_all(decisions: list[Decision]) -> None:
    for decision in decisions:
        encode(decision.events[0])
        encode(decision.answer)


def measure_frames() -> None:
    source = random.Random(2)
    book = funded_book(ACCOUNTS, 10**5)
    for number in range(POSITIONS):
        book.decide(random_order(source, f"A{number % ACCOUNTS}", number), NOW_MS)
    held = sum(len(account.positions) for account in book.accounts.values())
    print(f"\n{len(book.accounts)} accounts, {held} positions, every symbol moves in every frame:")
    measure_frame(book, "every account is due", [frame(1)])
    for steps in (1, 10, 100):
        frames = [frame(number, number % 2 * steps) for number in range(20)]
        measure_frame(book, f"prices jump {steps} steps forth and back", frames)
    report("value every account once, for comparison", seconds(lambda: value_all(book)), 1)
    measure_frame(book, "all prices fall by 6,000 steps", [frame(99, -6_000)])


def measure_frame(book: Book, what: str, frames: list[QuoteFrame]) -> None:
    decisions: list[Decision] = []
    total = seconds(lambda: decisions.extend(d for moved in frames for d in book.on_frame(moved, NOW_MS)))
    events = sum(len(decision.events) for decision in decisions)
    report(f"on_frame: {what} ({events} events)", total, len(frames))


def measure_resting() -> None:
    """A tick costs what it sets off, however many orders rest."""
    book = funded_book(ACCOUNTS, 10**8)
    orders = [
        Place(
            account=f"A{number % ACCOUNTS}",
            id=f"rest-{number}",
            symbol="EURUSD",
            side="buy",
            volume=1_000,
            kind="limit",
            price=MIDDLE_PRICES["EURUSD"] - 50 - number // 10,
        )
        for number in range(RESTING_ORDERS)
    ]
    print(f"\n{len(book.accounts)} accounts, {len(orders)} resting orders:")
    report(
        "decide: limit order accepted",
        seconds(lambda: [book.decide(order, NOW_MS) for order in orders]),
        len(orders),
    )
    measure_frame(book, "nothing is met", [frame(number, number % 2 * 10) for number in range(20)])
    measure_frame(book, "all prices fall by 162 steps", [frame(98, -162)])
    measure_frame(book, "all prices fall by 1,100 steps", [frame(99, -1_100)])


def value_all(book: Book) -> list[int | None]:
    accounts: list[Account] = list(book.accounts.values())
    return [account.equity(book.quotes.last) for account in accounts]


if __name__ == "__main__":
    measure_decide()
    measure_frames()
    measure_resting()
