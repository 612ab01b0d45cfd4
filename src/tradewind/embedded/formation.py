"""Make six servers one cluster, and wait until it is."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from redis.exceptions import RedisError

from tradewind.embedded.errors import ClusterStartFailed
from tradewind.embedded.ports import HOST
from tradewind.embedded.survey import SLOTS, Admin, missing, parse_cluster_nodes, survey

POLL_S = 0.03
REASONS_SHOWN_MAX = 3


class Deadline:
    """Waiting on conditions until a moment that all the steps of a start share.

    `check` is called at each turn and raises when waiting is pointless, as when a server has ended.
    """

    def __init__(self, timeout_s: float, check: Callable[[], Awaitable[None]]) -> None:
        self._timeout_s = timeout_s
        self._at = time.monotonic() + timeout_s
        self._check = check

    async def until(self, reasons_left: Callable[[], Awaitable[list[str]]]) -> None:
        """Return when `reasons_left` has nothing left.

        :raises ClusterStartFailed: the deadline passed; the message has the reasons that were left
        """
        while reasons := await reasons_left():
            await self._check()
            if time.monotonic() > self._at:
                shown = "; ".join(reasons[:REASONS_SHOWN_MAX])
                more = (
                    f" and {len(reasons) - REASONS_SHOWN_MAX} more"
                    if len(reasons) > REASONS_SHOWN_MAX
                    else ""
                )
                raise ClusterStartFailed(
                    f"the cluster is not ready after {self._timeout_s:g} s: {shown}{more}"
                )
            await asyncio.sleep(POLL_S)


async def wait_until_answering(ports: Sequence[int], deadline: Deadline) -> None:
    """Every server accepts connections and has loaded its data."""

    async def silent() -> list[str]:
        return [reason for reason in await asyncio.gather(*map(_why_silent, ports)) if reason]

    await deadline.until(silent)


async def _why_silent(port: int) -> str | None:
    try:
        async with Admin(port) as admin:
            await admin.ask("PING")
    except (RedisError, OSError) as error:
        return f"node {port} does not answer: {error}"
    return None


async def wait_until_ready(ports: Sequence[int], deadline: Deadline) -> None:
    """The whole cluster is ready, as `survey.missing` defines it."""

    async def reasons_left() -> list[str]:
        return missing(await survey(ports))

    await deadline.until(reasons_left)


async def form(ports: Sequence[int], primaries: int, deadline: Deadline) -> None:
    """Give empty servers their slots, let them meet, and make the later ones replicas.

    The first `primaries` ports share the slots evenly; replicas are dealt out to them in turn.

    :raises ClusterStartFailed: a server went away or refused a step, or the deadline passed
    """
    try:
        await _form(ports, primaries, deadline)
    except (RedisError, OSError) as error:
        raise ClusterStartFailed(f"the cluster cannot be formed on ports {list(ports)}: {error}") from error


async def _form(ports: Sequence[int], primaries: int, deadline: Deadline) -> None:
    async with AsyncExitStack() as stack:
        admins = [await stack.enter_async_context(Admin(port)) for port in ports]
        ids = await _all_of(admin.ask("CLUSTER", "MYID") for admin in admins)
        await _all_of(_prepare(admin, index, primaries) for index, admin in enumerate(admins))
        await _introduce(admins)
        await _all_of(
            _replicate(admin, ids[index % primaries], deadline)
            for index, admin in enumerate(admins)
            if index >= primaries
        )


async def _all_of(steps: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """What they return; the first that fails ends the others.

    Left alone, one of them could connect again after its connection had been closed, and leave it open.
    """
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _prepare(admin: Admin, index: int, primaries: int) -> None:
    # Epochs that differ from the start spare the nodes the rounds of resolving equal ones.
    await admin.ask("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
    if index < primaries:
        first, last = SLOTS * index // primaries, SLOTS * (index + 1) // primaries - 1
        await admin.ask("CLUSTER", "ADDSLOTSRANGE", first, last)


async def _introduce(admins: Sequence[Admin]) -> None:
    """Each meets each: gossip would take a second to spread what we know already."""
    for index, admin in enumerate(admins):
        for other in admins[index + 1 :]:
            await admin.ask("CLUSTER", "MEET", HOST, other.port)


async def _replicate(admin: Admin, primary_id: str, deadline: Deadline) -> None:
    async def primary_unknown() -> list[str]:
        views = parse_cluster_nodes(await admin.ask("CLUSTER", "NODES"))
        if any(view.id == primary_id and view.healthy for view in views):
            return []
        return [f"node {admin.port} has not met its primary"]

    await deadline.until(primary_unknown)
    await admin.ask("CLUSTER", "REPLICATE", primary_id)
