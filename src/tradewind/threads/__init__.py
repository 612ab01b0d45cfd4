"""Tradewind for blocking code: redis-py's synchronous API, any number of threads over the same few lanes."""

from tradewind.threads.cluster import RedisCluster
from tradewind.threads.server import Redis

__all__ = ["Redis", "RedisCluster"]
