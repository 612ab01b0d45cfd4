"""Any number of concurrent orders through a Redis or Valkey Cluster over a handful of connections."""

__version__ = "0.1.0"

from tradewind.client.cache import CacheOptions, CacheStats
from tradewind.client.calls import CallOptions
from tradewind.client.cluster import RedisCluster
from tradewind.client.errors import (
    ClientClosed,
    ClusterNotReady,
    DeadlineExceeded,
    NodeUnavailable,
    OutcomeUnknown,
    Overloaded,
    SharedConnectionError,
    SlotNotServed,
    TradewindError,
)
from tradewind.client.standalone import Redis
from tradewind.client.stats import ClientStats, NodeStats

__all__ = [
    "CacheOptions",
    "CacheStats",
    "CallOptions",
    "ClientClosed",
    "ClientStats",
    "ClusterNotReady",
    "DeadlineExceeded",
    "NodeStats",
    "NodeUnavailable",
    "OutcomeUnknown",
    "Overloaded",
    "Redis",
    "RedisCluster",
    "SharedConnectionError",
    "SlotNotServed",
    "TradewindError",
    "__version__",
]
