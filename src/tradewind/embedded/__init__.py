"""A local cluster of real servers, for `tradewind up`, for development and for tests."""

from tradewind.embedded.cluster import EmbeddedCluster, Node
from tradewind.embedded.detached import ClusterStatus, NodeStatus, cluster_status, stop_cluster
from tradewind.embedded.errors import (
    ClusterStartFailed,
    DataFolderInUse,
    DataFolderUnusable,
    EmbeddedError,
    GuardianLost,
    InvalidOption,
    ServerEnded,
    ServerNotFound,
)
from tradewind.embedded.supervisor import Supervisor
from tradewind.embedded.survey import NodeReport

__all__ = [
    "ClusterStartFailed",
    "ClusterStatus",
    "DataFolderInUse",
    "DataFolderUnusable",
    "EmbeddedCluster",
    "EmbeddedError",
    "GuardianLost",
    "InvalidOption",
    "Node",
    "NodeReport",
    "NodeStatus",
    "ServerEnded",
    "ServerNotFound",
    "Supervisor",
    "cluster_status",
    "stop_cluster",
]
