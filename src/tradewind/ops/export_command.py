"""`tradewind export`: events to files or to a database, each exactly once, from where the last one ended."""

import asyncio
import json
import signal
from collections.abc import Callable
from typing import Annotated

from cyclopts import Parameter
from redis.exceptions import RedisError
from rich.table import Table

from tradewind import RedisCluster
from tradewind.engine.opening import partitions_of
from tradewind.ops import console
from tradewind.ops.cluster_url import client_of
from tradewind.ops.errors import OptionRefused
from tradewind.ops.loop import run_loop
from tradewind.trail import positions
from tradewind.trail.errors import TargetUnavailable
from tradewind.trail.export import Export, Exported
from tradewind.trail.places import is_database, target_of

EXIT_DONE = 0
EXIT_FAILED = 1
EVERY_S_FILES = 60.0  # each round leaves a file for each partition in which something happened
EVERY_S_DATABASE = 1.0
EVENTS_MAX = 10_000_000

Progress = Callable[[Exported], None]


def export_command(
    *,
    to: Annotated[
        str | None, Parameter(help="A folder for Parquet files, or postgresql://USER:PASSWORD@HOST/DATABASE.")
    ] = None,
    url: Annotated[str, Parameter(help="The cluster, as redis://HOST:PORT.")] = "redis://127.0.0.1:6379",
    follow: Annotated[
        bool, Parameter(negative="", help="Go on until Ctrl-C or SIGTERM, with what happens meanwhile.")
    ] = False,
    every_s: Annotated[
        float | None, Parameter(help="With --follow: seconds between two rounds (files 60, a database 1).")
    ] = None,
    events: Annotated[
        int | None, Parameter(help="Events in a file at most (100,000), or in a transaction (10,000).")
    ] = None,
    name: Annotated[
        str | None, Parameter(help="What the cluster shall know a new target by, instead of its place.")
    ] = None,
    targets: Annotated[
        bool, Parameter(negative="", help="Only list the registered targets, and how many events each has.")
    ] = False,
    forget: Annotated[
        str | None, Parameter(help="Only take this target off the list: trimming waits for it no more.")
    ] = None,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="One JSON object on stdout.")
    ] = False,
) -> int:
    """Export all events, exactly once, going on where the last export to the same place ended.

    Exit code 0: the target has every event that there was (with --follow: it was told to end). 1: it has
    not; the output says why. May be killed at any moment and started again.
    """
    if sum((to is not None, targets, forget is not None)) != 1:
        raise OptionRefused("one of --to PLACE, --targets and --forget NAME is needed")
    if events is not None and not 1 <= events <= EVENTS_MAX:
        raise OptionRefused(f"--events {events}: it must be between 1 and {EVENTS_MAX}")
    if every_s is not None and not 0 < every_s <= 86_400:
        raise OptionRefused(f"--every-s {every_s:g}: it must be more than 0, and a day at most")
    if to is None:
        return run_loop(_targets(url, forget, as_json))
    job = _Job(to, name, events, every_s or (EVERY_S_DATABASE if is_database(to) else EVERY_S_FILES), follow)
    done = run_loop(job.run(url))
    _show({"followed": follow, **done.as_dict()}, as_json)
    return EXIT_DONE


class _Job:
    """One call of the command."""

    def __init__(
        self, place: str, name: str | None, events: int | None, every_s: float, follow: bool
    ) -> None:
        self._place = place
        self._name = name
        self._events = events
        self._every_s = every_s
        self._follow = follow
        self._ended = asyncio.Event()

    async def run(self, url: str) -> Exported:
        client = client_of(url)
        try:
            partitions = await partitions_of(client)
            with console.slow_progress("export") as step:

                def progress(done: Exported) -> None:
                    step(f"{done.events:,} events written")

                run = self._until_ended if self._follow else self._once
                return await run(client, partitions, progress)
        finally:
            await client.aclose()

    def _export(self, client: RedisCluster, partitions: int) -> Export:
        target = target_of(self._place, name=self._name, events_per_piece=self._events)
        return Export(client, partitions, target)

    async def _once(self, client: RedisCluster, partitions: int, progress: Progress) -> Exported:
        async with self._export(client, partitions) as export:
            await export.catch_up(progress)
        return export.done

    async def _until_ended(self, client: RedisCluster, partitions: int, progress: Progress) -> Exported:
        """Rounds until a signal. What cannot be reached now is tried again, on a target opened anew."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        done = Exported()
        while not self._ended.is_set():
            try:
                async with self._export(client, partitions) as export:
                    export.done.events, export.done.pieces = done.events, done.pieces
                    done = export.done
                    await self._rounds(export, progress)
            except (TargetUnavailable, RedisError, OSError) as error:
                console.err.print(f"export: {error}; going on in {self._every_s:g} s", markup=False)
                await self._pause()
        return done

    async def _rounds(self, export: Export, progress: Progress) -> None:
        """A round ends between two pieces: what it leaves is complete."""
        while not self._ended.is_set():
            await export.catch_up(progress, self._ended.is_set)
            progress(export.done)
            await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._every_s):
                await self._ended.wait()
        except TimeoutError:
            return


async def _targets(url: str, forget: str | None, as_json: bool) -> int:
    client = client_of(url)
    try:
        partitions = await partitions_of(client)
        if forget is not None:
            known = await positions.forget(client, partitions, forget)
            _show({"forgotten": forget if known else None}, as_json)
            return EXIT_DONE if known else EXIT_FAILED
        found = await positions.all_registered(client, range(partitions))
        _show({"targets": found} if as_json else dict(found), as_json)
        return EXIT_DONE
    finally:
        await client.aclose()


def _show(result: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    table = Table("export", "", show_header=False)
    for name, value in result.items():
        table.add_row(name, f"{value:,}" if type(value) is int else str(value))
    console.out.print(table)
