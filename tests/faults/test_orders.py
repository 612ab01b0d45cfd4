"""Orders while servers and workers are killed, stopped and moved: none lost, none doubled, none misreported.

Each test trades, breaks one thing, waits until every partition trades again, and ends in the audit; see
tests/faults/trading.py.
"""

import asyncio
import os
import random
import signal

import pytest

from tests.faults.trading import (
    ACCOUNTS,
    HEAL_S_MAX,
    PARTITIONS,
    RUN,
    Floor,
    audited,
    prepared,
    trading_floor,
)
from tests.support.waiting import eventually
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.messages import Answer, Deposit
from tradewind.ops.load import open_accounts
from tradewind.ops.system import System

pytestmark = [pytest.mark.faults, pytest.mark.slow]

CANCELLED_SHARE = 0.3
CANCELLED_AFTER_S_MAX = 0.003


async def test_a_killed_primary_is_replaced_by_the_supervisor(fragile: EmbeddedCluster):
    async with trading_floor(fragile, seed=1, supervised=True) as floor:
        primary = await floor.primary(random.Random(1))
        mine = await floor.partitions_of(primary)
        await fragile.kill(primary)
        await floor.trading(set(range(PARTITIONS)) - mine)
        await floor.trading(mine)


async def test_a_shard_without_a_replica_acknowledges_nothing_until_it_has_one(fragile: EmbeddedCluster):
    async with trading_floor(fragile, seed=2) as floor:
        primary = await floor.primary(random.Random(2))
        mine = await floor.partitions_of(primary)
        others = set(range(PARTITIONS)) - mine
        await fragile.kill(primary)
        await floor.replaced(primary, min(mine))
        before = floor.acknowledged(mine)
        await floor.trading(others)
        await floor.trading(others)
        assert floor.acknowledged(mine) == before
        await fragile.restart(primary)
        await floor.trading(mine)


async def test_a_primary_that_slept_through_its_replacement_acknowledges_nothing(fragile: EmbeddedCluster):
    async with trading_floor(fragile, seed=3) as floor:
        primary = await floor.primary(random.Random(3))
        mine = await floor.partitions_of(primary)
        await fragile.kill(primary, signal.SIGSTOP)
        await floor.replaced(primary, min(mine))
        await fragile.kill(primary, signal.SIGCONT)
        await floor.trading(mine)


async def test_an_operators_failover_of_every_shard(fragile: EmbeddedCluster):
    async with trading_floor(fragile, seed=4) as floor:
        for port, role in (await fragile.roles()).items():
            if role == "primary":
                await floor.fail_over(next(node for node in fragile.nodes if node.port == port))
                await floor.trading()


async def test_a_killed_worker_is_replaced(fragile: EmbeddedCluster):
    async with trading_floor(fragile, seed=5) as floor:
        await floor.shared_out()
        before = floor.worker_pids()
        killed = random.Random(5).choice(before)
        os.kill(killed, signal.SIGKILL)
        await floor.trading()
        await floor.shared_out()
        assert set(before) - set(floor.worker_pids()) == {killed}


async def test_a_worker_that_slept_through_its_leases_is_fenced(fragile: EmbeddedCluster):
    async with trading_floor(fragile, seed=6) as floor:
        await floor.shared_out()
        sleeper = random.Random(6).choice(floor.worker_pids())
        mine = await floor.held_by(sleeper)
        os.kill(sleeper, signal.SIGSTOP)
        try:
            await eventually(lambda: _holds_nothing(floor, sleeper), HEAL_S_MAX)
            await floor.trading(mine)
        finally:
            os.kill(sleeper, signal.SIGCONT)
        await floor.shared_out()
        assert await floor.held_by(sleeper)


async def _holds_nothing(floor: Floor, pid: int) -> bool:
    return not await floor.held_by(pid)


async def test_callers_who_give_up_and_ask_again_learn_the_one_answer(fragile: EmbeddedCluster):
    """Three in ten are cancelled at random moments of their first three milliseconds; connections stay."""
    async with prepared(fragile, 7) as system:
        names = [f"A{number:03d}" for number in range(ACCOUNTS)]
        await open_accounts(system.desk, system.journal, names, RUN)
        lost = sum(node.connections_lost for node in system.client.stats().nodes)
        caller = ImpatientCaller(system, random.Random(7))
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(caller.deposits(names[number % ACCOUNTS], f"caller-{number}", 20))
        assert caller.cancelled > 100
        assert sum(node.connections_lost for node in system.client.stats().nodes) == lost
        assert system.desk.pending == 0
        result = await audited(system)
        assert result.events == 2 * ACCOUNTS + 100 * 20


class ImpatientCaller:
    """Deposits one after the other, may give up waiting, and then asks again until it knows."""

    def __init__(self, system: System, chance: random.Random) -> None:
        self.cancelled = 0
        self._system = system
        self._chance = chance

    async def deposits(self, account: str, name: str, count: int) -> None:
        for number in range(count):
            command = Deposit(account=account, id=f"{name}-{number}", amount=number + 1)
            answer = await self._submit(command)
            assert answer.status == "done"
            self._system.journal.add(command, answer)

    async def _submit(self, command: Deposit) -> Answer:
        while self._chance.random() < CANCELLED_SHARE:
            asking = asyncio.create_task(self._system.desk.submit(command))
            await asyncio.sleep(self._chance.random() * CANCELLED_AFTER_S_MAX)
            if asking.cancel():
                self.cancelled += 1
            await asyncio.wait([asking])
            if not asking.cancelled():
                return asking.result()
        return await self._system.desk.submit(command)


# -- the long form -----------------------------------------------------------------------------------

SOAK_ROUNDS = 25


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(100, 104))
async def test_one_fault_after_the_other(fragile: EmbeddedCluster, seed: int):
    """A server's and a worker's at once; the next when both copies of every shard are there again."""
    chance = random.Random(seed)
    async with trading_floor(fragile, seed=seed, supervised=True) as floor:
        for _ in range(SOAK_ROUNDS):
            server_fault, worker_fault = chance.choice(SERVER_FAULTS), chance.choice(WORKER_FAULTS)
            await asyncio.gather(server_fault(floor, chance), worker_fault(floor, chance))
            await floor.trading()
            await fragile.wait_until_ready()
        await floor.shared_out()


async def _kill_primary(floor: Floor, chance: random.Random) -> None:
    await floor.cluster.kill(await floor.primary(chance))


async def _stop_primary(floor: Floor, chance: random.Random) -> None:
    primary = await floor.primary(chance)
    await floor.cluster.kill(primary, signal.SIGSTOP)
    await asyncio.sleep(chance.uniform(0.05, 4.0))
    await floor.cluster.kill(primary, signal.SIGCONT)


async def _kill_replica(floor: Floor, chance: random.Random) -> None:
    replicas = [port for port, role in (await floor.cluster.roles()).items() if role == "replica"]
    port = chance.choice(replicas)
    await floor.cluster.kill(next(node for node in floor.cluster.nodes if node.port == port))


async def _fail_over(floor: Floor, chance: random.Random) -> None:
    await floor.fail_over(await floor.primary(chance))


async def _kill_worker(floor: Floor, chance: random.Random) -> None:
    os.kill(chance.choice(floor.worker_pids()), signal.SIGKILL)


async def _stop_worker(floor: Floor, chance: random.Random) -> None:
    pid = chance.choice(floor.worker_pids())
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(chance.uniform(0.05, 5.0))
    os.kill(pid, signal.SIGCONT)


async def _no_fault(_floor: Floor, _chance: random.Random) -> None:
    return


SERVER_FAULTS = (_kill_primary, _stop_primary, _kill_replica, _fail_over, _no_fault)
WORKER_FAULTS = (_kill_worker, _stop_worker, _no_fault)
