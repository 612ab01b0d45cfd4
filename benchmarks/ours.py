"""Tradewind for peers.py: OURS=benchmarks.ours:make."""

from benchmarks.contenders import HOST, SETTINGS
from tradewind import RedisCluster


async def make(port: int, pool: int) -> RedisCluster:
    client = RedisCluster(host=HOST, port=port, max_connections=pool, **SETTINGS)
    await client.initialize()
    return client
