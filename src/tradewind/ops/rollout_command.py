"""`tradewind rollout`: replaces all workers of a cluster, one by one, while orders come in.

Each worker in turn is asked, through the cluster, to have itself replaced. Its parent process starts a new
worker, and stops the old one once the new one has joined; the partitions that it hands over are taken at
once.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Annotated

from cyclopts import Parameter

from tradewind import RedisCluster, clock
from tradewind.engine.keys import FLEET_CHANNEL, WORKERS_KEY, replace_message
from tradewind.engine.opening import partitions_of
from tradewind.ops import console
from tradewind.ops.cluster_url import client_of
from tradewind.ops.errors import RolloutFailed
from tradewind.ops.loop import run_loop
from tradewind.ops.workers import survey

LOOK_S = 0.05
ASK_EVERY_S = 2.0  # the request may be lost on its way, and may be heard twice
STEP_S_MAX = 30.0


def rollout(
    *,
    url: Annotated[str, Parameter(help="The cluster, as redis://HOST:PORT.")] = "redis://127.0.0.1:6379",
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="One JSON object on stdout.")
    ] = False,
) -> int:
    """Replace every worker that runs now by a new process, one by one. Orders go on meanwhile.

    Exit code 0: all were replaced. 1: one was not within 30 s, and the output says which; run it again.
    """
    with console.progress_line("rollout") as progress:
        result = run_loop(_rollout(url, progress))
    if as_json:
        print(json.dumps(result))
    else:
        console.out.print(f"{result['replaced']} workers replaced in {result['seconds']} s", highlight=False)
    return 0


async def _rollout(url: str, progress: Callable[[str], None]) -> dict[str, float]:
    client = client_of(url)
    try:
        partitions = await partitions_of(client)
        names = await _live(client)
        if not names:
            raise RolloutFailed("no workers run on this cluster: start some with `tradewind worker`")
        started_s = asyncio.get_running_loop().time()
        for number, name in enumerate(names, 1):
            await _replace(client, partitions, name)
            progress(f"{number} of {len(names)} workers replaced")
        seconds = round(asyncio.get_running_loop().time() - started_s, 2)
        return {"replaced": len(names), "seconds": seconds}
    finally:
        await client.aclose()


async def _replace(client: RedisCluster, partitions: int, name: str) -> None:
    """Until the worker has left and every partition is owned again.

    :raises RolloutFailed: not within `STEP_S_MAX`
    """
    loop = asyncio.get_running_loop()
    ask_at_s, deadline_s = loop.time(), loop.time() + STEP_S_MAX
    while True:
        live = await _live(client)
        if name not in live and (await survey(client, partitions))[1] == partitions:
            return
        now_s = loop.time()
        if now_s >= deadline_s:
            raise RolloutFailed(
                f"worker {name} was not replaced within {STEP_S_MAX:g} s: {len(live)} workers live; "
                "look at its parent process, then run the command again"
            )
        if name in live and now_s >= ask_at_s:
            await client.execute_command("SPUBLISH", FLEET_CHANNEL, replace_message(name))
            ask_at_s = now_s + ASK_EVERY_S
        await asyncio.sleep(LOOK_S)


async def _live(client: RedisCluster) -> list[str]:
    names = await client.execute_command("ZRANGEBYSCORE", WORKERS_KEY, clock.now_ms(), "+inf")
    return sorted(name.decode() for name in names)
