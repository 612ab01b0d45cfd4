"""10,000 commands at once over a handful of connections, on a cluster of its own.

    python examples/many_callers.py

redis-py, at its defaults, opens up to 100 connections a node for this, and what does not get one of them
fails with MaxConnectionsError.
"""

import asyncio
import time

from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster

COMMANDS = 10_000
ACCOUNTS = 100


async def main() -> None:
    """Start six servers, send everything at once, show what it took."""
    async with EmbeddedCluster() as cluster, RedisCluster.from_url(cluster.url) as client:
        began_s = time.monotonic()
        await asyncio.gather(*(client.incr(f"account:{number % ACCOUNTS}") for number in range(COMMANDS)))
        took_s = time.monotonic() - began_s
        counts = await asyncio.gather(*(client.get(f"account:{number}") for number in range(ACCOUNTS)))
        stats = client.stats()
        print(f"{COMMANDS:,} increments by as many callers in {took_s:.2f} s")
        print(f"counted on the servers: {sum(map(int, counts)):,}")
        print(f"connections per node: {max(stats.connections.values())}; errors: {dict(stats.errors)}")


if __name__ == "__main__":
    asyncio.run(main())
