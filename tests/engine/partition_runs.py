"""One partition run by its runner, as a worker runs it, with a desk to ask and quotes to trade at."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tradewind import RedisCluster, clock
from tradewind.engine.desk import OrderDesk
from tradewind.engine.house import House
from tradewind.engine.instruments import Quote, QuoteFrame
from tradewind.engine.keys import PartitionKeys
from tradewind.engine.lease import Leases
from tradewind.engine.messages import Answer, Command, Deposit, Event, OpenAccount, Place, decode_event
from tradewind.engine.partition import PartitionRunner
from tradewind.engine.store import Lease
from tradewind.ops.audit import AuditResult, audit
from tradewind.ops.journal import JournalEntry

PARTITION = 0
PARTITIONS = 1
KEYS = PartitionKeys(PARTITION)
EURUSD = 112_120
ANSWER_S_MAX = 15.0


def quote(price: int = EURUSD) -> Quote:
    return Quote("EURUSD", price, price + 10, clock.now_ms())


def place(account: str, id: str, volume: int = 1_000) -> Place:
    return Place(account=account, id=id, symbol="EURUSD", side="buy", volume=volume)


@dataclass
class Run:
    """A partition at work. `journal` has what callers were told."""

    client: RedisCluster
    runner: PartitionRunner
    desk: OrderDesk
    task: "asyncio.Task[None]"
    lost: list[Lease]
    house: House
    journal: list[JournalEntry] = field(default_factory=list)

    async def ask(self, command: Command) -> Answer:
        answer = await self.desk.submit(command, deadline_s=ANSWER_S_MAX)
        self.journal.append(JournalEntry(command, answer))
        return answer

    async def fund(self, *accounts: str, amount: int = 10_000_000) -> None:
        for account in accounts:
            await self.ask(OpenAccount(account=account, id="open"))
            await self.ask(Deposit(account=account, id="fund", amount=amount))

    def quote(self, price: int) -> None:
        self.runner.take_frame(QuoteFrame(clock.now_ms(), [quote(price)]))

    async def audit(self) -> AuditResult:
        """What the events say against what was told: no lie, no loss, nothing twice."""
        result = await audit(self.client, PARTITIONS, self.journal)
        assert result.clean, result.findings.sentences
        assert result.journal_entries == len(self.journal)
        return result


@asynccontextmanager
async def running(client: RedisCluster, worker: str = "worker") -> AsyncIterator[Run]:
    """Takes the lease, and gives it back at the end if it is still this one's."""
    leases = Leases(client, worker)
    lease = await leases.acquire(PARTITION)
    assert lease is not None
    lost: list[Lease] = []
    house = House()
    runner = PartitionRunner(client, leases, lease, {"EURUSD": quote()}, lost.append, house=house)
    desk = OrderDesk(client, PARTITIONS)
    await desk.start()
    task = asyncio.create_task(runner.run())
    try:
        yield Run(client, runner, desk, task, lost, house)
    finally:
        runner.stop()
        await asyncio.wait([task], timeout=10)
        await desk.aclose()
        await leases.release(lease)
    assert task.done()
    await task


async def hand_in(client: RedisCluster, payload: bytes) -> None:
    """A command as it comes from whoever can write to the stream."""
    await client.execute_command("XADD", KEYS.commands, "*", "command", payload)


async def events(client: RedisCluster) -> list[Event]:
    entries = await client.execute_command("XRANGE", KEYS.events, "-", "+")
    return [decode_event(fields[b"event"]) for _, fields in entries]


async def put_aside(client: RedisCluster) -> list[tuple[bytes, bytes]]:
    """The commands that were put aside, with the reasons."""
    entries = await client.execute_command("XRANGE", KEYS.poison, "-", "+")
    return [(fields[b"command"], fields[b"reason"]) for _, fields in entries]
