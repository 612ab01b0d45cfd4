"""A short history of one partition, made by the real book: events, accounts, stored answers, and a journal.

`write` puts it into a cluster as a worker would have. Tests then damage one thing and look what the audit
says.
"""

from dataclasses import dataclass, field

from tradewind import RedisCluster, clock
from tradewind.engine.account import to_fields
from tradewind.engine.book import Book
from tradewind.engine.instruments import Quote, QuoteFrame
from tradewind.engine.keys import DAY_MS, PartitionKeys, partition_of
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
    OpenAccount,
    Place,
    Protect,
    encode,
    fingerprint,
)
from tradewind.engine.partition import id_field
from tradewind.ops.journal import JournalEntry

PARTITIONS = 4
ACCOUNTS = 3


@dataclass
class History:
    partition: int
    events: list[bytes] = field(default_factory=list)
    accounts: dict[str, dict[str, str]] = field(default_factory=dict)
    answers: dict[str, bytes] = field(default_factory=dict)
    journal: list[JournalEntry] = field(default_factory=list)

    async def write(self, client: RedisCluster) -> None:
        keys = PartitionKeys(self.partition)
        for sequence, event in enumerate(self.events, 1):
            await client.execute_command("XADD", keys.events, f"{sequence}-0", "event", event)
        for name, fields in self.accounts.items():
            await client.hset(keys.account(name), mapping=fields)
            await client.sadd(keys.accounts, name)
        await client.hset(keys.ids(clock.now_ms() // DAY_MS), mapping=self.answers)
        await client.hset(keys.cursor, mapping={"command": "1-0", "sequence": len(self.events)})


class Scribe:
    """Runs commands and quotes through a book and writes down what a worker would have."""

    def __init__(self, partition: int) -> None:
        self.history = History(partition)
        self.book = Book(partition)
        self.now_ms = clock.now_ms()

    def run(self, command: Command) -> Answer:
        decision = self.book.decide(command, self.now_ms)
        self.history.events += map(encode, decision.events)
        answer = decision.answer
        assert answer is not None
        self.history.answers[id_field(command)] = fingerprint(command).encode() + encode(answer)
        self.history.journal.append(JournalEntry(command, answer))
        return answer

    def quote(self, bid: int, ask_size: int | None = None) -> None:
        frame = QuoteFrame(1, [Quote("EURUSD", bid, bid + 10, self.now_ms, ask_size=ask_size)])
        for decision in self.book.on_frame(frame, self.now_ms):
            self.history.events += map(encode, decision.events)

    def finish(self) -> History:
        self.history.accounts = {name: to_fields(account) for name, account in self.book.accounts.items()}
        return self.history


def trade_by_resting_orders(scribe: Scribe, name: str) -> None:
    """Every event of an order that rests but its expiry, and every answer that names one."""
    buy = {"account": name, "symbol": "EURUSD", "side": "buy", "volume": 3_000}
    sell = {**buy, "side": "sell"}
    limit = scribe.run(Place(id="limit", kind="limit", price=112_000, **buy)).order or ""
    scribe.run(Amend(account=name, id="amend", order=limit, price=112_010, stop_loss=111_000))
    scribe.quote(111_990)
    scribe.quote(112_100, ask_size=1_000)
    rests = scribe.run(Place(id="part", kind="limit", price=112_200, **buy))
    scribe.run(Cancel(account=name, id="cancel", order=rests.order or ""))
    scribe.run(Cancel(account=name, id="too-late", order=rests.order or ""))
    scribe.quote(112_120)
    scribe.run(Protect(account=name, id="protect", position=rests.position or "", take_profit=112_900))
    scribe.run(Place(id="reduce", reduce_only=True, **sell))
    opposite = scribe.run(Place(id="opposite", **sell)).position or ""
    another = scribe.run(Place(id="another", **buy)).position or ""
    scribe.run(CloseBy(account=name, id="by", position=opposite, by=another))
    stop = scribe.run(Place(id="stop", kind="stop", stop_price=112_300, **buy)).order or ""
    scribe.run(Amend(account=name, id="at-once", order=stop, stop_price=112_000))
    scribe.run(Place(id="far", kind="stop_limit", stop_price=114_000, price=113_900, **buy))
    scribe.run(Place(id="huge", kind="limit", price=112_000, **{**buy, "volume": 9_000_000}))
    scribe.quote(111_980)
    scribe.run(CancelAll(account=name, id="cancel-all"))
    scribe.run(CloseAll(account=name, id="all-again"))


def short_history(partition: int) -> History:
    """Deposits, fills, refusals, closes, a close_all, resting orders, a margin call and stop-outs."""
    scribe = Scribe(partition)
    names = [name for n in range(200) if partition_of(name := f"A{n:03d}", PARTITIONS) == partition]
    scribe.quote(112_120)
    for name in names[:ACCOUNTS]:
        scribe.run(OpenAccount(account=name, id="open"))
        scribe.run(Deposit(account=name, id="fund", amount=100_000))
        place = {"account": name, "symbol": "EURUSD", "side": "buy"}
        first = scribe.run(Place(id="buy-1", volume=20_000, **place))
        scribe.run(Place(id="buy-2", volume=20_000, **place))
        scribe.run(Place(id="too-much", volume=9_000_000, **place))
        scribe.run(Close(account=name, id="close-1", position=first.position or ""))
        scribe.run(Place(id="buy-3", volume=50_000, **place))
    scribe.run(CloseAll(account=names[0], id="all"))
    trade_by_resting_orders(scribe, names[0])
    scribe.quote(110_500)
    scribe.run(CloseAll(account=names[1], id="none-of-that", symbol="XXXYYY"))
    return scribe.finish()
