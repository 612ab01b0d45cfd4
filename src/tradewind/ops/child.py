"""How a child process of a run ends: in order, when its standard input does."""

import asyncio


async def end_child(process: asyncio.subprocess.Process, end_s_max: float) -> None:
    """Closes its standard input and waits until it has ended; kills it after `end_s_max` seconds."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(end_s_max):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
