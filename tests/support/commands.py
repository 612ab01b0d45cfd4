"""`tradewind` as a person at a terminal runs it, against a cluster of the tests."""

import asyncio
import sys
from pathlib import Path

from tradewind.embedded import EmbeddedCluster

TRADEWIND = Path(sys.executable).parent / "tradewind"
ENDS_WITHIN_S = 60


async def run_command(cluster: EmbeddedCluster, *words: str, code: int = 0) -> tuple[str, str]:
    """What it wrote to stdout and to stderr. Fails when it ends with another exit code."""
    process = await asyncio.create_subprocess_exec(
        TRADEWIND, *words, "--url", cluster.url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), ENDS_WITHIN_S)
    assert process.returncode == code, (out, err)
    return out.decode(), err.decode()
