"""One seed is one world: a cluster, a client, callers, cancellations, deadlines, faults, all drawn from it.

`run_seed` lets it happen and raises `Violation` when the client breaks one of its promises.
"""

import asyncio
import contextlib
import gc
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from redis.asyncio.cluster import ClusterNode

from tests.simulation.calls import KINDS, Call, check_call
from tests.simulation.clock_loop import ClockLoop, Outside, taken_over
from tests.simulation.faults import Faults
from tests.simulation.limits import LimitsWatch
from tests.simulation.scripted_cluster import ScriptedCluster
from tests.simulation.wire import Network
from tradewind import RedisCluster

BURSTS = (1, 1, 1, 1, 4, 20)  # calls at once
CALLS_MAX = (15, 60, 120, 300)
RECOVERY_S_MAX = 8.0  # backoff, refresh, dial, silence of a lane: each is at most a few seconds
QUIET_S_MAX = 12.0  # until what the servers owe has come, or has been given up with its connection
POLL_S = 0.05
TURNS_TO_TELL = 20  # of the loop, from a future to a caller who waits for it through a task or two
COMMAND_BYTES_MAX = 3200  # "one command larger than the rest of the room still goes", with its ASKING


class Violation(AssertionError):
    """The client broke a promise. Says the seed, how to run it again, and what happened."""


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, outside: Outside, make_client: Callable[..., RedisCluster]) -> None:
        self.dice = random.Random(seed)
        self.outside = outside
        self.command_bytes_max = COMMAND_BYTES_MAX
        self.loop = ClockLoop(self.outside)
        self.loop.set_exception_handler(self._complain)
        self.complaints: list[str] = []
        self.calls: list[Call] = []
        self.doomed: list[Call] = []  # will be cancelled in a turn of the loop in which something is read
        self._make_client = make_client
        dice = self.dice
        self.cluster = ScriptedCluster(
            self.outside, dice, shards=dice.choice((1, 2, 2, 3)), replicas=dice.choice((0, 1, 1, 1, 2)),
            ranges_per_shard=dice.randint(1, 3),
        )  # fmt: skip
        self.ledger = self.cluster.ledger
        self.network = Network(self.loop, dice)
        self.loop.connect = self.network.connect
        for server in self.cluster.servers:
            server.setinfo_known = dice.random() < 0.8
            self.network.listeners[server.name] = (server.weather, server.accept)
        self.faults = Faults(self.cluster, dice, self._stall_soon)
        self.client = self._draw_client()
        self.limits = LimitsWatch(self)
        self.outside.turn_ended = self.limits.turn_ended
        self.network.on_dial = self.limits.dialing
        self.network.on_reading = self._cancel_somebody
        self.pausing: asyncio.Future[None] | None = None
        # Worlds differ: what is rare in one is common in another.
        self.kinds = dice.choices(KINDS, k=dice.choice((2, 5, 30)))
        self.haste, self.impatient = dice.choice((0.05, 0.3, 0.8)), dice.choice((0.0, 0.1, 0.5))
        self.calls_max = dice.choice(CALLS_MAX)
        self.faults_end_s = self.outside.now_s + dice.uniform(1.0, 8.0)

    def _draw_client(self) -> RedisCluster:
        dice = self.dice
        seeds = dice.sample(self.cluster.servers, k=min(2, len(self.cluster.servers)))
        self.options = {
            "max_connections": dice.choice((1, 2, 2, 3, 3, 4, 8, 100, 100, 100)),
            "lanes": dice.randint(1, 3),
            "in_flight_max": dice.choice((1, 2, 8, 64, 4096)),
            "in_flight_bytes_max": dice.choice((200, 5000, 64 * 1024 * 1024)),
            "socket_timeout": dice.choice((0.3, 1.0, 3.0, 5.0)),
            "socket_connect_timeout": dice.choice((1.0, 3.0, 5.0)),
            "protocol": dice.choice((2, 3)),
            "require_full_coverage": dice.random() < 0.7,
        }
        self.ledger.note("options %s", self.options)
        return self._make_client(startup_nodes=[ClusterNode(s.host, s.port) for s in seeds], **self.options)

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _stall_soon(self, seconds: float) -> None:
        self.outside.wake(self.loop, lambda: self.loop.stall(seconds))

    # -- the course of events --------------------------------------------------------------------------------

    async def run(self) -> None:
        begun_s = self.outside.now_s
        self._arrange_faults(begun_s)
        caller_count = self.dice.randint(1, 25)
        calls_a_caller = self.calls_max / caller_count / (sum(BURSTS) / len(BURSTS))
        pace_s = (self.faults_end_s - begun_s) / calls_a_caller  # so that they are spread over the faults
        callers = [
            self.loop.create_task(self._caller(random.Random(self.dice.random()), pace_s))
            for _ in range(caller_count)
        ]
        if self.dice.random() < 0.15:
            await self._close_amid_the_work(callers)
        await self._finish(callers)
        await self._serves_again()
        await self._becomes_quiet()
        await self.client.aclose()
        self._check_nothing_left("at the end")
        for call in self.calls:
            check_call(call, self)

    async def _close_amid_the_work(self, callers: list["asyncio.Task[None]"]) -> None:
        """Everybody is told at once; those who come later have the client opened again."""
        await asyncio.sleep(self.dice.uniform(0, self.faults_end_s - self.outside.now_s))
        self.ledger.note("fault: the client is closed by its owner, and used again")
        self.pausing = self.loop.create_future()
        under_way = [call for call in self.calls if call.started_s and call.ended_s is None]
        await self.client.aclose()
        for _ in range(TURNS_TO_TELL):
            await asyncio.sleep(0)
        for call in under_way:
            if call.ended_s is None:
                self.fail("not told that the client was closed", call)
        if self.unfinished() is None:  # else somebody has opened it again
            self._check_nothing_left("after aclose() amid the work")
        self.pausing.set_result(None)
        self.pausing = None

    def _arrange_faults(self, begun_s: float) -> None:
        for _ in range(self.dice.choice((0, 1, 3, 6, 12, 30))):
            at_s = self.dice.uniform(begun_s - 0.3, self.faults_end_s)
            duration_s = self.dice.choice((0.05, 0.3, 1.0, 3.0, 10.0)) * self.dice.uniform(0.5, 1.0)
            server = self.dice.choice(self.cluster.servers)
            self.outside.at(max(begun_s, at_s), self.faults.begin, server, duration_s)
        self.faults.end_s = self.faults_end_s
        self.outside.at(self.faults_end_s, self.faults.end)

    async def _finish(self, callers: list["asyncio.Task[None]"]) -> None:
        """Nobody waits for ever: everybody has a deadline, and each call is checked against its own."""
        longest_s = self.faults_end_s - self.outside.now_s + 60.0 + self.loop.stalled_s
        done, waiting = await asyncio.wait(callers, timeout=longest_s)
        if waiting:
            self.fail(f"{len(waiting)} callers wait for ever", self.unfinished())
        for task in done:
            task.result()
        await asyncio.sleep(max(0.0, self.faults_end_s - self.outside.now_s))

    def unfinished(self) -> Call | None:
        return next((call for call in self.calls if call.ended_s is None), None)

    async def _serves_again(self) -> None:
        """After the faults every range is served, by the same client, within a bounded time."""
        ends_s = max(self.faults_end_s, max(s.frozen_until_s for s in self.cluster.servers)) + RECOVERY_S_MAX
        for index in range(len(self.cluster.owners)):
            while not await self._probe(index):
                if self.outside.now_s > ends_s:
                    self.fail(f"range {index} is not served {RECOVERY_S_MAX} s after the last fault")
                await asyncio.sleep(POLL_S)

    async def _probe(self, index: int) -> bool:
        call = Call(self, "get", self.tag_of(index), 1.0)
        await call.run(None)
        return call.reply is not None

    async def _becomes_quiet(self) -> None:
        """Whatever a call took is given back, and what the client counts is what there is."""
        ends_s = self.outside.now_s + QUIET_S_MAX
        while left := self._what_is_left():
            if self.outside.now_s > ends_s:
                self.fail(f"never given back: {left}")
            await asyncio.sleep(POLL_S)

    def _what_is_left(self) -> list[str]:
        stats = self.client.stats()
        left = [f"{stats.delayed} delayed, {stats.parked} parked"] if stats.delayed or stats.parked else []
        for node in stats.nodes:
            counted, real = node.connections, len(self.network.open_connections(node.name))
            if node.in_flight or node.in_flight_bytes:
                left.append(f"{node.in_flight} in flight at {node.name}, {node.in_flight_bytes} bytes")
            if node.waiting or node.waiting_dedicated:
                left.append(f"{node.waiting}+{node.waiting_dedicated} waiting at {node.name}")
            if counted != real:
                left.append(f"{counted} connections counted at {node.name}, and there are {real}")
        return left

    def _check_nothing_left(self, when: str) -> None:
        tasks = [task for task in asyncio.all_tasks(self.loop) if not _is_ours(task)]
        timers = [timer for timer in self.loop.pending_timers() if not _is_a_sleep(timer)]
        links = [link.name for link in self.network.open_links]
        if tasks or timers or links:
            self.fail(f"left {when}: tasks {sorted(map(repr, tasks))}, timers {timers}, connections {links}")

    # -- callers ---------------------------------------------------------------------------------------------

    async def _caller(self, dice: random.Random, pace_s: float) -> None:
        while self.outside.now_s < self.faults_end_s and len(self.calls) < self.calls_max:
            pause_s = dice.expovariate(1 / pace_s) * dice.choice((0.0, 0.5, 2.0))
            await asyncio.sleep(max(0.0, min(pause_s, self.faults_end_s - self.outside.now_s)))
            if self.pausing is not None:
                await self.pausing
            count = dice.choice(BURSTS)
            await asyncio.gather(*(self._draw_call(dice) for _ in range(count)))

    def _draw_call(self, dice: random.Random) -> Awaitable[None]:
        timeout_s = dice.choice((None, None, None, 0.05, 0.3, 2.0))
        index = dice.randrange(len(self.cluster.owners))
        call = Call(self, dice.choice(self.kinds), self.tag_of(index), timeout_s)
        patience = dice.random()
        if patience < self.impatient:
            self.doomed.append(call)
        elif patience > 0.9:
            return call.run(dice.choice((0.0, 0.001, 0.01, 0.2)) * dice.random())
        return call.run(None)

    def _cancel_somebody(self) -> None:
        """A cancellation in the same turn as an answer: perhaps its own."""
        while self.doomed and self.dice.random() < self.haste:
            call = self.doomed.pop(self.dice.randrange(len(self.doomed)))
            self._cancel_in_turns(call, self.dice.choice((0, 0, 1, 2, 3)))

    def _cancel_in_turns(self, call: Call, turns: int) -> None:
        """An answer takes a few turns of the loop from the wire to its caller."""
        if turns:
            self.loop.call_soon(self._cancel_in_turns, call, turns - 1)
        elif call.task is not None:
            call.task.cancel()

    def tag_of(self, index: int) -> str:
        """A hash tag in the range; each range has a few, so that callers meet at the same keys."""
        tags = self._tags()[index]
        return tags[len(self.calls) % len(tags)]

    def _tags(self) -> list[list[str]]:
        if not hasattr(self, "_tags_by_range"):
            self._tags_by_range: list[list[str]] = [[] for _ in self.cluster.owners]
            number = 0
            while any(len(tags) < 3 for tags in self._tags_by_range):
                tag = f"k{number}"
                number += 1
                self._tags_by_range[self.cluster.servers[0].range_of(tag.encode())].append(tag)
        return self._tags_by_range

    def fail(self, what: str, call: Call | None = None) -> None:
        complaints = f"; asyncio complains: {self.complaints}" if self.complaints else ""
        trace = self.ledger.trace(f"t{call.token}" if call else "")
        raise Violation(f"{what}{f' ({call})' if call else ''}{complaints}\n{trace}")


def _is_ours(task: "asyncio.Task[Any]") -> bool:
    """A task of the simulation itself."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(str(Path(__file__).parent))


def _is_a_sleep(timer: asyncio.TimerHandle) -> bool:
    """Of asyncio.sleep(), or the impatience of a caller: not the client's own."""
    return "_set_result_unless_cancelled" in repr(timer) or "Task.cancel" in repr(timer)


def run_seed(seed: int, make_client: Callable[..., RedisCluster] = RedisCluster) -> World:
    """Run one world to its end. Raises Violation."""
    outside = Outside()
    again = f"run it again: pytest tests/simulation --seed {seed}"
    with taken_over("tradewind.client", lambda: outside.now_s, seed):
        world = World(seed, outside, make_client)
        try:
            world.loop.run_until_complete(world.run())
            gc.collect(0)  # so that an error that nobody looked at is complained of now
            if world.complaints:
                world.fail("an error that nobody looked at")
        except Violation as violation:
            raise Violation(f"seed {seed}: {violation}\n{again}") from None
        except BaseException as error:
            raise Violation(f"seed {seed}: {error!r}\n{world.ledger.trace()}\n{again}") from error
        finally:
            _tear_down(world)
    return world


def _tear_down(world: World) -> None:
    """Nothing of a world that failed may speak up in the next one."""
    world.loop.set_exception_handler(lambda _loop, _context: None)
    world.client._initialize = True  # else redis-py complains when it is collected
    outside = world.outside
    outside.turn_ended = lambda: None
    with contextlib.suppress(Exception):
        world.loop.run_until_complete(_cancel_all())
    world.loop.close()


async def _cancel_all() -> None:
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1.0)
