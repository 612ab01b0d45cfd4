"""`tradewind poison`: the commands that were put aside because they could not be carried out."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

from cyclopts import App, Parameter

from tradewind import RedisCluster
from tradewind.engine.opening import partitions_of
from tradewind.engine.poison import PoisonCommand, drop, poison_commands, replay
from tradewind.ops import console
from tradewind.ops.cluster_url import client_of
from tradewind.ops.errors import OptionRefused
from tradewind.ops.loop import run_loop

EXIT_MISSING = 1

app = App(
    name="poison",
    help="""Commands that could not be read, or broke the engine: put aside with their reason.

Examples: `tradewind poison list`, `tradewind poison replay 17:1700000000000-0`, `tradewind poison drop
--all`.
""",
)

Url = Annotated[str, Parameter(help="The cluster, as redis://HOST:PORT.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON object on stdout.")]
Names = Annotated[list[str] | None, Parameter(negative="", help="As `list` shows them: PARTITION:ID.")]
All = Annotated[bool, Parameter(name="--all", negative="", help="All that are there now.")]

Act = Callable[[RedisCluster, int, str], Awaitable[bool]]


@app.command(name="list")
def list_(
    *,
    limit: Annotated[int, Parameter(help="How many to show, the oldest of each partition first.")] = 100,
    url: Url = "redis://127.0.0.1:6379",
    as_json: Json = False,
) -> int:
    """Show what was put aside, and why."""
    total, shown = run_loop(_list(url, limit))
    if as_json:
        print(json.dumps({"total": total, "commands": [_row(each) for each in shown]}))
        return 0
    for each in shown:
        text = f"{each.name}  {each.reason}\n    {each.command.decode(errors='backslashreplace')}"
        console.out.print(text, highlight=False, markup=False, soft_wrap=True)
    console.out.print(f"{total} commands are aside, {len(shown)} of them shown", highlight=False)
    return 0


@app.command(name="replay")
def replay_(
    names: Names = None, *, every: All = False, url: Url = "redis://127.0.0.1:6379", as_json: Json = False
) -> int:
    """Hand commands in again, each under its client order id: none takes effect twice.

    A worker that has put a command aside does so again: replay after the workers run a mended version.
    Exit code 0: all that were named. 1: some were not there any more.
    """
    return _tell("replayed", run_loop(_each(url, _places(names, every), replay)), as_json)


@app.command(name="drop")
def drop_(
    names: Names = None, *, every: All = False, url: Url = "redis://127.0.0.1:6379", as_json: Json = False
) -> int:
    """Forget commands for good. Exit code 0: all that were named. 1: some were not there any more."""
    return _tell("dropped", run_loop(_each(url, _places(names, every), drop)), as_json)


def _tell(what: str, done: tuple[int, list[str]], as_json: bool) -> int:
    count, missing = done
    if as_json:
        print(json.dumps({what: count, "missing": missing}))
    else:
        gone = f"; not there any more: {', '.join(missing)}" if missing else ""
        console.out.print(f"{count} commands {what}{gone}", highlight=False, markup=False)
    return EXIT_MISSING if missing else 0


def _row(found: PoisonCommand) -> dict[str, str]:
    command = found.command.decode(errors="backslashreplace")
    return {"name": found.name, "reason": found.reason, "command": command}


def _places(names: list[str] | None, every: bool) -> list[tuple[int, str]] | None:
    """None: all of them."""
    if every == bool(names):
        raise OptionRefused("name the commands as `tradewind poison list` shows them, or say --all")
    places = []
    for name in names or []:
        match = re.fullmatch(r"(\d+):(\d+-\d+)", name)
        if match is None:
            raise OptionRefused(
                f"{name} is not the name of a poison command: they look like 17:1700000000000-0"
            )
        places.append((int(match[1]), match[2]))
    return None if every else places


async def _list(url: str, limit: int) -> tuple[int, list[PoisonCommand]]:
    async with client_of(url) as client:
        total, shown = 0, []
        async for found in poison_commands(client, await partitions_of(client)):
            total += 1
            if total <= limit:
                shown.append(found)
        return total, shown


async def _each(url: str, places: list[tuple[int, str]] | None, act: Act) -> tuple[int, list[str]]:
    """How many it was done to, and the names of those that are not there."""
    async with client_of(url) as client:
        done, missing = 0, []
        async for partition, id in _chosen(client, places):
            if await act(client, partition, id):
                done += 1
            else:
                missing.append(f"{partition}:{id}")
        return done, missing


async def _chosen(
    client: RedisCluster, places: list[tuple[int, str]] | None
) -> AsyncIterator[tuple[int, str]]:
    if places is None:
        async for found in poison_commands(client, await partitions_of(client)):
            yield found.partition, found.id
        return
    for place in places:
        yield place
