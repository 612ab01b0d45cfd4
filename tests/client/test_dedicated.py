"""Connections of one's own: how many, who is next, and that nobody's place is lost."""

import asyncio
import time
from typing import Any

import pytest

from tests.support.waiting import eventually
from tradewind.client.dedicated import DedicatedConnections, from_finalizer
from tradewind.client.errors import ClientClosed, NodeUnavailable, Overloaded, SharedConnectionError
from tradewind.client.exclusive import EXCLUSIVE_OWNER
from tradewind.client.lane import Lane, LaneState


class Opener:
    """Makes open lanes without sockets; may be told to wait or to fail."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self.failure: Exception | None = None
        self.may_open = asyncio.Event()
        self.may_open.set()

    async def __call__(self) -> Lane:
        await self.may_open.wait()
        if self.failure is not None:
            raise self.failure
        lane = Lane(
            EXCLUSIVE_OWNER,
            name=f"lane {len(self.lanes)}",
            call_soon=asyncio.get_running_loop().call_soon,
            now=time.monotonic,
        )
        lane.opened(lambda _data: None, lambda: None)
        self.lanes.append(lane)
        return lane

    @property
    def open(self) -> int:
        return sum(lane.state is LaneState.OPEN for lane in self.lanes)


def _connections(opener: Opener, count_max: int = 2) -> DedicatedConnections:
    return DedicatedConnections("node:1", count_max=count_max, idle_s_max=30.0, open_connection=opener)


def _soon() -> float:
    return time.monotonic() + 5.0


async def test_an_idle_connection_is_used_again() -> None:
    opener = Opener()
    connections = _connections(opener)
    first = await connections.acquire(_soon())
    connections.release(first)
    assert await connections.acquire(_soon()) is first
    assert (connections.count, connections.idle) == (1, 0)


async def test_at_the_limit_callers_are_served_in_arrival_order() -> None:
    opener = Opener()
    connections = _connections(opener, 1)
    lane = await connections.acquire(_soon())
    served: list[int] = []

    async def caller(number: int) -> None:
        mine = await connections.acquire(_soon())
        served.append(number)
        await asyncio.sleep(0)
        connections.release(mine)

    callers = []
    for number in range(20):
        callers.append(asyncio.create_task(caller(number)))
        await eventually(lambda expected=number + 1: connections.waiting == expected)
    connections.release(lane)
    await asyncio.gather(*callers)
    assert served == list(range(20))
    assert len(opener.lanes) == 1


async def test_a_connection_given_back_goes_to_who_waits_and_not_to_who_comes_then() -> None:
    opener = Opener()
    connections = _connections(opener, 1)
    lane = await connections.acquire(_soon())
    waiter = asyncio.create_task(connections.acquire(_soon()))
    await eventually(lambda: connections.waiting == 1)
    connections.release(lane)
    late = asyncio.create_task(connections.acquire(_soon()))
    assert await waiter is lane
    assert not late.done()
    connections.release(lane)
    assert await late is lane


async def test_cancelled_callers_lose_nobodys_place() -> None:
    opener = Opener()
    connections = _connections(opener, 1)
    lane = await connections.acquire(_soon())
    callers = [asyncio.create_task(connections.acquire(_soon())) for _ in range(10)]
    await eventually(lambda: connections.waiting == 10)
    for caller in callers[:9]:
        caller.cancel()
    await asyncio.gather(*callers[:9], return_exceptions=True)
    assert connections.waiting == 1
    connections.release(lane)
    assert await callers[9] is lane


async def test_what_was_handed_over_to_a_caller_that_is_cancelled_in_that_moment_goes_on() -> None:
    opener = Opener()
    connections = _connections(opener, 1)
    lane = await connections.acquire(_soon())
    first, second = (asyncio.create_task(connections.acquire(_soon())) for _ in range(2))
    await eventually(lambda: connections.waiting == 2)
    connections.release(lane)  # promised to the first, who has not run yet
    first.cancel()
    assert await second is lane
    with pytest.raises(asyncio.CancelledError):
        await first
    assert connections.count == 1


async def test_who_waits_too_long_is_told_the_numbers() -> None:
    connections = _connections(Opener(), 2)
    taken = [await connections.acquire(_soon()) for _ in range(2)]
    with pytest.raises(Overloaded, match=r"node:1: all 2 dedicated connections are taken"):
        await connections.acquire(time.monotonic() + 0.02)
    assert connections.waiting == 0
    for lane in taken:
        connections.release(lane)
    assert connections.idle == 2


async def test_the_right_to_open_passes_on_when_opening_fails_or_is_given_up() -> None:
    opener = Opener()
    connections = _connections(opener, 1)
    opener.may_open.clear()
    opener.failure = NodeUnavailable("refused")
    first, second, third = (asyncio.create_task(connections.acquire(_soon())) for _ in range(3))
    await eventually(lambda: connections.waiting == 2)
    first.cancel()
    await eventually(lambda: connections.waiting == 1)
    opener.may_open.set()
    for caller in (second, third):
        with pytest.raises(NodeUnavailable, match="refused"):
            await caller
    assert connections.count == 0


async def test_opening_keeps_the_deadline() -> None:
    opener = Opener()
    opener.may_open.clear()
    connections = _connections(opener)
    with pytest.raises(NodeUnavailable, match="no connection before the deadline"):
        await connections.acquire(time.monotonic() + 0.02)
    assert connections.count == 0


async def test_a_connection_that_still_owes_a_reply_is_not_used_again() -> None:
    from tradewind.client.exclusive import exclusive_submit, give_up

    connections = _connections(Opener())
    lane = await connections.acquire(_soon())
    reply = exclusive_submit(lane, ("BLPOP", "a", 0))
    give_up(reply)
    connections.release(lane)
    assert lane.state is LaneState.CLOSED
    assert connections.count == 0


async def test_one_that_died_idle_is_not_handed_out() -> None:
    opener = Opener()
    connections = _connections(opener)
    lane = await connections.acquire(_soon())
    connections.release(lane)
    lane.close(ConnectionError("reset"))
    assert await connections.acquire(_soon()) is not lane
    assert connections.count == 1


async def test_idle_ones_are_closed_after_a_while() -> None:
    opener = Opener()
    connections = _connections(opener)
    connections.release(await connections.acquire(_soon()))
    connections.close_idle(time.monotonic() + 10)
    assert opener.open == 1
    connections.close_idle(time.monotonic() + 31)
    assert (opener.open, connections.count) == (0, 0)


async def test_closing_tells_everybody_and_leaves_nothing_open() -> None:
    opener = Opener()
    connections = _connections(opener, 2)
    taken = await connections.acquire(_soon())
    handed = await connections.acquire(_soon())
    waiters = [asyncio.create_task(connections.acquire(_soon())) for _ in range(3)]
    await eventually(lambda: connections.waiting == 3)
    connections.release(handed)  # on its way to the first of them
    connections.close()
    results: list[Any] = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(result) for result in results] == [ClientClosed] * 3
    connections.release(taken)
    assert opener.open == 0
    assert connections.count == 0
    with pytest.raises(ClientClosed):
        await connections.acquire(_soon())


async def test_closing_while_one_is_being_opened_closes_that_too() -> None:
    opener = Opener()
    opener.may_open.clear()
    connections = _connections(opener)
    caller = asyncio.create_task(connections.acquire(_soon()))
    await eventually(lambda: connections.count == 1)
    connections.close()
    opener.may_open.set()
    with pytest.raises(ClientClosed):
        await caller
    assert opener.open == 0


async def test_a_cap_that_leaves_none_is_said_at_once() -> None:
    with pytest.raises(SharedConnectionError, match="max_connections=1"):
        await _connections(Opener(), 0).acquire(float("inf"))


class Holder:
    """Opens its connection itself."""

    def __init__(self) -> None:
        self.dropped: list[Exception] = []

    def drop(self, error: Exception) -> None:
        self.dropped.append(error)


async def test_a_right_counts_as_a_connection_and_stands_in_the_same_line() -> None:
    connections = _connections(Opener(), 1)
    holder = Holder()
    await connections.acquire_right(holder, _soon())
    assert (connections.count, connections.idle) == (1, 0)
    waiter = asyncio.create_task(connections.acquire(_soon()))
    await eventually(lambda: connections.waiting == 1)
    late = Holder()
    late_waiter = asyncio.create_task(connections.acquire_right(late, _soon()))
    await eventually(lambda: connections.waiting == 2)
    connections.release_right(holder)
    lane = await waiter
    assert not late_waiter.done()
    connections.release(lane)
    await late_waiter
    assert lane.state is LaneState.CLOSED  # it made room
    assert (connections.count, connections.idle) == (1, 0)
    connections.release_right(late)
    assert connections.count == 0


async def test_an_idle_connection_makes_room_only_when_there_is_none() -> None:
    opener = Opener()
    connections = _connections(opener, 2)
    connections.release(await connections.acquire(_soon()))
    first, second = Holder(), Holder()
    await connections.acquire_right(first, _soon())
    assert (connections.count, connections.idle, opener.open) == (2, 1, 1)
    await connections.acquire_right(second, _soon())
    assert (connections.count, connections.idle, opener.open) == (2, 0, 0)
    with pytest.raises(Overloaded, match="all 2 dedicated connections are taken"):
        await connections.acquire_right(Holder(), time.monotonic() + 0.02)


async def test_closing_drops_what_holders_have_opened_and_refuses_new_ones() -> None:
    connections = _connections(Opener(), 1)
    holder = Holder()
    await connections.acquire_right(holder, _soon())
    waiter = asyncio.create_task(connections.acquire_right(Holder(), _soon()))
    await eventually(lambda: connections.waiting == 1)
    connections.close()
    assert [type(error) for error in holder.dropped] == [ClientClosed]
    with pytest.raises(ClientClosed):
        await waiter
    with pytest.raises(ClientClosed):
        await connections.acquire_right(Holder(), _soon())
    connections.release_right(holder)
    assert connections.count == 0


async def test_one_connection_in_all_leaves_no_right() -> None:
    with pytest.raises(SharedConnectionError, match="max_connections=1"):
        await _connections(Opener(), 0).acquire_right(Holder(), _soon())


def test_what_is_forgotten_after_its_loop_was_closed_needs_no_care() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    from_finalizer(loop, lambda: pytest.fail("nobody waits in line any more"))
