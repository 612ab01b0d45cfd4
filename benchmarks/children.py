"""Programs that are measured, each in a process of its own."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.results import ROOT

STOP_S_MAX = 20.0


@dataclass(frozen=True)
class Ended:
    """How a child ended. `code` is None when it was stopped because its time was over."""

    code: int | None
    output: str
    said: str


async def run_python(
    words: Sequence[str | int], *, seconds_max: float, variables: Mapping[str, str] | None = None
) -> Ended:
    """Run `python WORDS` in the checkout until it ends; what it started ends with it."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, *map(str, words),
        cwd=ROOT, env=os.environ | (variables or {}),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    talking = asyncio.ensure_future(child.communicate())
    try:
        await asyncio.wait([talking], timeout=seconds_max)
        in_time = talking.done()
    finally:
        if child.returncode is None:
            await asyncio.shield(_stop(child, talking))
    output, said = await talking
    return Ended(child.returncode if in_time else None, output.decode(), said.decode(errors="replace"))


async def _stop(child: asyncio.subprocess.Process, talking: "asyncio.Future[tuple[bytes, bytes]]") -> None:
    """By request first: a system that is told to stop takes its servers and workers along."""
    child.terminate()
    await asyncio.wait([talking], timeout=STOP_S_MAX)
    if child.returncode is None:
        child.kill()
    await talking
