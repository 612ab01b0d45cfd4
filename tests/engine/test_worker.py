"""Workers share the partitions among themselves; who comes and who goes costs no order."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tradewind.engine.worker as worker_module
from tests.engine.partition_runs import place, quote
from tests.support.clients import check_idle
from tests.support.waiting import eventually
from tradewind import RedisCluster, clock
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.desk import OrderDesk
from tradewind.engine.house import Ruling
from tradewind.engine.house_store import set_ruling
from tradewind.engine.instruments import QuoteFrame, encode_frame, encode_quote
from tradewind.engine.keys import HOUSE_KEY, LAST_QUOTES_KEY, PartitionKeys, partition_of
from tradewind.engine.lease import Leases
from tradewind.engine.messages import Answer, Command, Deposit, OpenAccount, encode
from tradewind.engine.opening import open_engine
from tradewind.engine.worker import Worker, fair_share, pace_s, wanted
from tradewind.ops.audit import audit
from tradewind.ops.journal import JournalEntry

PARTITIONS = 12
LONG_LEASE_MS = 60_000
LEASE_MS = 1_500
ACCOUNTS = [f"A{number}" for number in range(24)]

counts = st.integers(1, 300)

# -- arithmetic ------------------------------------------------------------------------------------------


@given(workers=counts, partitions=counts)
def test_fair_shares_add_up_and_differ_by_one_at_most(workers: int, partitions: int):
    shares = [fair_share(rank, workers, partitions) for rank in range(workers)]
    assert sum(shares) == partitions
    assert max(shares) - min(shares) <= 1


@given(workers=counts, partitions=counts)
def test_workers_that_start_together_want_different_partitions(workers: int, partitions: int):
    every = list(range(partitions))
    tries = Counter[int]()
    for rank in range(workers):
        tries.update(wanted(every, fair_share(rank, workers, partitions), rank, workers, partitions))
    assert tries == Counter(every)


@given(data=st.data(), workers=counts, partitions=counts, count=st.integers(0, 300))
def test_a_worker_wants_as_many_free_partitions_as_it_lacks(
    data: st.DataObject, workers: int, partitions: int, count: int
):
    free = sorted(data.draw(st.sets(st.integers(0, partitions - 1))))
    rank = data.draw(st.integers(0, workers - 1))
    chosen = wanted(free, count, rank, workers, partitions)
    assert len(chosen) == len(set(chosen)) == min(count, len(free))
    assert set(chosen) <= set(free)


@given(workers=counts, cores=st.integers(1, 256))
def test_only_workers_that_share_a_core_keep_a_pace(workers: int, cores: int):
    pace = pace_s(workers, cores)
    assert 0 <= pace <= worker_module.PACE_S_MAX
    assert (pace > 0) == (workers > cores)


# -- workers in one process ------------------------------------------------------------------------------


class Crew:
    """Workers, each with a client of its own as in a process of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ends: dict[Worker, tuple[RedisCluster, asyncio.Task[None]]] = {}

    @property
    def workers(self) -> list[Worker]:
        return list(self._ends)

    async def start(self, count: int, *, expected: int | None = None, lease_ms: int = LEASE_MS) -> None:
        first = len(self._ends)
        for index in range(first, first + count):
            client = RedisCluster.from_url(self._url, lanes=1, max_connections=PARTITIONS + 8)
            worker = Worker(client, PARTITIONS, index=index, expected=expected or first + count)
            worker._leases.lease_ms = lease_ms
            self._ends[worker] = client, asyncio.create_task(worker.run())

    async def stop(self, worker: Worker) -> None:
        client, task = self._ends.pop(worker)
        worker.stop()
        await task
        await check_idle(client)
        await client.aclose()

    async def stop_silently(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a killed process: it does no more, and gives nothing back."""

        async def nothing(*_: object) -> None:
            return

        monkeypatch.setattr(worker._leases, "release", nothing)
        monkeypatch.setattr(worker._leases, "leave", nothing)
        await self.stop(worker)

    def shares(self) -> list[int]:
        return sorted((len(worker.runners) for worker in self._ends), reverse=True)

    async def settle(self, shares: list[int]) -> None:
        """Until each owns its share, and the cluster says the same."""

        async def settled() -> bool:
            held = {p: worker.name for worker in self._ends for p in worker.runners}
            now_ms = clock.now_ms()
            leases = Leases(next(iter(self._ends.values()))[0], "")
            return self.shares() == shares and await leases.holders(range(PARTITIONS), now_ms) == held

        await eventually(settled, timeout_s=20)


@pytest.fixture
async def crew(
    client: RedisCluster, clean_cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Crew]:
    monkeypatch.setattr(worker_module, "ROUND_S", 0.05)
    monkeypatch.setattr(worker_module, "SETTLE_S", 0.5)
    await open_engine(client, PARTITIONS)
    for symbol_quote in [quote()]:
        await client.hset(LAST_QUOTES_KEY, symbol_quote.symbol, encode_quote(symbol_quote))
    crew = Crew(clean_cluster.url)
    yield crew
    for worker in crew.workers:
        await crew.stop(worker)


class Asker:
    """Asks, keeps what it was told, and has the audit hold it against the cluster."""

    def __init__(self, client: RedisCluster, desk: OrderDesk) -> None:
        self._client = client
        self._desk = desk
        self.journal: list[JournalEntry] = []

    async def ask(self, command: Command) -> Answer:
        answer = await self._desk.submit(command)
        self.journal.append(JournalEntry(command, answer))
        return answer

    async def fund(self) -> None:
        async def fund(account: str) -> None:
            await self.ask(OpenAccount(account=account, id="open"))
            await self.ask(Deposit(account=account, id="fund", amount=10_000_000))

        await asyncio.gather(*map(fund, ACCOUNTS))

    async def check(self) -> None:
        result = await audit(self._client, PARTITIONS, self.journal)
        assert result.clean, result.findings.sentences
        assert result.journal_entries == len(self.journal)


@pytest.fixture
async def asker(client: RedisCluster) -> AsyncIterator[Asker]:
    desk = OrderDesk(client, PARTITIONS)
    await desk.start()
    yield Asker(client, desk)
    await desk.aclose()


@pytest.mark.parametrize(("count", "shares"), [(1, [12]), (2, [6, 6]), (3, [4, 4, 4]), (5, [3, 3, 2, 2, 2])])
async def test_workers_share_evenly(crew: Crew, count: int, shares: list[int]):
    await crew.start(count)
    await crew.settle(shares)


async def test_a_worker_waits_for_the_expected_ones_only_so_long(crew: Crew):
    await crew.start(1, expected=2, lease_ms=LONG_LEASE_MS)
    await eventually(lambda: crew.shares() == [6])
    await crew.settle([12])


async def test_a_worker_that_joins_gets_its_share(crew: Crew):
    await crew.start(2)
    await crew.settle([6, 6])
    await crew.start(1)
    await crew.settle([4, 4, 4])


async def test_a_worker_that_stops_hands_over_at_once(crew: Crew):
    """Long before its leases would have ended."""
    await crew.start(3, lease_ms=LONG_LEASE_MS)
    await crew.settle([4, 4, 4])
    await crew.stop(crew.workers[1])
    await crew.settle([6, 6])
    await crew.stop(crew.workers[0])
    await crew.settle([12])


async def test_a_worker_that_dies_is_replaced_when_its_leases_end(
    crew: Crew, asker: Asker, monkeypatch: pytest.MonkeyPatch
):
    await crew.start(3)
    await crew.settle([4, 4, 4])
    await asker.fund()
    await crew.stop_silently(crew.workers[1], monkeypatch)
    assert crew.shares() == [4, 4]
    orders = [place(account, "order") for account in ACCOUNTS]
    assert {answer.status for answer in await asyncio.gather(*map(asker.ask, orders))} == {"filled"}
    await crew.settle([6, 6])
    await asker.check()


async def test_coming_and_going_under_load_loses_nothing(crew: Crew, asker: Asker):
    chance = random.Random(3)
    await crew.start(2)
    await crew.settle([6, 6])
    await asker.fund()
    stop = asyncio.Event()

    async def caller(name: str) -> None:
        number = 0
        while not stop.is_set():
            account = chance.choice(ACCOUNTS)
            number += 1
            answer = await asker.ask(place(account, f"{name}-{number}"))
            assert answer.status in ("filled", "rejected")

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(caller(f"caller-{number}"))
        await crew.start(1)
        await crew.settle([4, 4, 4])
        await crew.stop(crew.workers[0])
        await crew.settle([6, 6])
        await crew.start(1)
        await crew.settle([4, 4, 4])
        stop.set()
    assert len(asker.journal) > 200
    await asker.check()


async def test_partitions_that_cannot_be_loaded_keep_no_other_from_working(
    crew: Crew, asker: Asker, client: RedisCluster
):
    broken = PartitionKeys(partition_of("A0", PARTITIONS))
    await client.sadd(broken.accounts, "A0")
    await client.hset(broken.account("A0"), mapping={"id": "A0", "balance": "much"})
    await crew.start(2)
    others = [name for name in ACCOUNTS if partition_of(name, PARTITIONS) != broken.partition]
    opened = await asyncio.gather(*(asker.ask(OpenAccount(account=name, id="open")) for name in others))
    assert {answer.status for answer in opened} == {"done"}
    await client.delete(broken.accounts, broken.account("A0"))
    assert (await asker.ask(OpenAccount(account="A0", id="open"))).status == "done"
    await asker.check()


async def test_a_lease_that_ended_under_its_own_worker_is_not_taken_from_itself(
    crew: Crew, client: RedisCluster
):
    """After a pause of the whole process all leases have ended and nobody else came: they are renewed."""
    await crew.start(1, lease_ms=LONG_LEASE_MS)
    await crew.settle([12])
    (worker,) = crew.workers
    runners = dict(worker.runners)
    ended = [partition for partition in runners if partition % 2]
    for partition in ended:
        await client.hset(PartitionKeys(partition).owner, "expires_ms", 0)
    await worker._take(PARTITIONS, 0, 1)
    assert worker.runners == runners
    for partition, runner in runners.items():
        assert int(await client.hget(PartitionKeys(partition).owner, "epoch")) == runner.lease.epoch


async def test_quotes_reach_every_partition(crew: Crew, asker: Asker, client: RedisCluster):
    await client.delete(LAST_QUOTES_KEY)
    await crew.start(2)
    await crew.settle([6, 6])
    await asker.fund()
    refused = await asyncio.gather(*(asker.ask(place(account, "early")) for account in ACCOUNTS))
    assert {str(answer.reason) for answer in refused} == {"no_quote"}
    subscribed = [worker._subscription for worker in crew.workers]
    await eventually(lambda: sum(s.confirmed for s in subscribed) == PARTITIONS + 2 * len(crew.workers))
    frame = encode_frame(QuoteFrame(1, [quote()]))
    for partition in range(PARTITIONS):
        await client.execute_command("SPUBLISH", PartitionKeys(partition).quotes_channel, frame)
    number = 0

    async def all_filled() -> bool:
        nonlocal number
        number += 1
        answers = await asyncio.gather(*(asker.ask(place(a, f"order-{number}")) for a in ACCOUNTS))
        return {answer.status for answer in answers} == {"filled"}

    await eventually(all_filled)
    await asker.check()


async def test_a_worker_starts_with_the_last_quotes(crew: Crew, asker: Asker):
    await crew.start(1)
    await asker.fund()
    assert (await asker.ask(place("A0", "order"))).status == "filled"


async def test_the_end_of_an_old_lease_does_not_end_its_successor(crew: Crew):
    await crew.start(1, lease_ms=LONG_LEASE_MS)
    await crew.settle([12])
    (worker,) = crew.workers
    old = worker.runners[3].lease
    worker._lost(old)
    await worker._leases.release(old)
    await eventually(lambda: 3 in worker.runners)
    worker._lost(old)  # a commit of the old owner was on its way for long
    assert worker.runners[3].lease.epoch > old.epoch


async def test_a_field_that_is_no_quote_costs_only_itself(client, crew, asker):
    await client.hset(LAST_QUOTES_KEY, mapping={"AUDUSD": b"\xff", "GBPUSD": "[1]", "USDJPY": ""})
    await crew.start(1)
    await crew.settle([PARTITIONS])
    await asker.fund()
    assert (await asker.ask(place(ACCOUNTS[0], "order"))).status == "filled"


async def test_a_halted_system_fills_nothing_also_of_what_was_queued(
    client: RedisCluster, crew: Crew, asker: Asker
):
    await crew.start(1)
    await crew.settle([12])
    await asker.fund()
    await crew.stop(crew.workers[0])
    queued = asyncio.create_task(asker.ask(place("A0", "queued")))
    await set_ruling(client, None, Ruling("halted", "a test", 1))
    await crew.start(1)
    assert (await queued).reason == "system_halted"
    await set_ruling(client, None, Ruling())
    await eventually(lambda: crew.workers[0].house.version == 2)
    assert (await asker.ask(place("A0", "later"))).status == "filled"
    await asker.check()


async def test_a_change_reaches_workers_by_message_long_before_the_next_round(
    client: RedisCluster, crew: Crew, monkeypatch: pytest.MonkeyPatch
):
    await crew.start(2)
    await crew.settle([6, 6])
    for worker in crew.workers:
        await eventually(lambda worker=worker: worker._subscription.confirmed == 8)
    monkeypatch.setattr(worker_module, "ROUND_S", 3_600)
    await asyncio.sleep(0.1)  # the rounds that were under way
    await set_ruling(client, "EURUSD", Ruling("reducing", "a test", 1))
    await eventually(lambda: all("EURUSD" in worker.house.symbols for worker in crew.workers))


async def test_a_change_whose_message_is_lost_is_found_in_the_next_round(client: RedisCluster, crew: Crew):
    await crew.start(1)
    await crew.settle([12])
    await client.hset(HOUSE_KEY, "system", encode(Ruling("halted")))
    await eventually(lambda: crew.workers[0].house.system.state == "halted")


async def test_what_a_worker_hands_over_is_taken_without_waiting_for_the_next_round(
    client: RedisCluster, crew: Crew, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker_module, "ROUND_S", 3_600.0)
    await crew.start(1, lease_ms=LONG_LEASE_MS)
    (first,) = crew.workers
    await eventually(lambda: len(first.runners) == PARTITIONS)
    await crew.start(1, expected=1, lease_ms=LONG_LEASE_MS)
    second = crew.workers[1]
    await eventually(lambda: second._has_joined and second._subscription.confirmed == 2)
    first.stop()
    await eventually(lambda: len(second.runners) == PARTITIONS)
