"""A local cluster of real servers, for `tradewind up`, for development and for tests."""

from tradewind.embedded.cluster import EmbeddedCluster, Node
from tradewind.embedded.errors import (
    ClusterStartFailed,
    DataFolderInUse,
    DataFolderUnusable,
    EmbeddedError,
    GuardianLost,
    ServerEnded,
    ServerNotFound,
)
from tradewind.embedded.survey import NodeReport

__all__ = [
    "ClusterStartFailed",
    "DataFolderInUse",
    "DataFolderUnusable",
    "EmbeddedCluster",
    "EmbeddedError",
    "GuardianLost",
    "Node",
    "NodeReport",
    "ServerEnded",
    "ServerNotFound",
]
