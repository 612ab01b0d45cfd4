"""How an embedded cluster is built, and the configuration file of one of its servers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tradewind.embedded.errors import InvalidOption
from tradewind.embedded.ports import HOST

MEMORY_BYTES_MAX_DEFAULT = 1 << 30
NODES_MAX = 60


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """The shape of the cluster and the settings of its servers.

    `server_settings` are lines of the server's own configuration file, which win over ours.
    """

    primaries: int = 3
    replicas_per_primary: int = 1
    node_timeout_ms: int = 2_000
    memory_bytes_max: int = MEMORY_BYTES_MAX_DEFAULT
    server_settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The servers themselves refuse fewer than three primaries only in their tools; a
        # failover however needs a majority of primaries, which two cannot give.
        _require("primaries", self.primaries, 1, NODES_MAX)
        _require("replicas_per_primary", self.replicas_per_primary, 0, NODES_MAX)
        _require("node_timeout_ms", self.node_timeout_ms, 100, 600_000)
        _require("memory_bytes_max", self.memory_bytes_max, 16 << 20, 1 << 50)
        _require("primaries * (1 + replicas_per_primary)", self.node_count, 1, NODES_MAX)

    @property
    def node_count(self) -> int:
        return self.primaries * (1 + self.replicas_per_primary)


def _require(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidOption(f"{name} is {value}: it must be between {least} and {most}")


def server_configuration(options: ClusterOptions, port: int) -> str:
    """The configuration file of the server on `port`; its paths are relative to the server's folder."""
    settings: dict[str, str | int] = {
        "bind": HOST,
        "port": port,
        "daemonize": "no",
        "logfile": "server.log",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "maxmemory": options.memory_bytes_max,
        # An order book that evicts keys loses orders: at the limit writes are refused instead.
        "maxmemory-policy": "noeviction",
        "cluster-enabled": "yes",
        "cluster-config-file": "nodes.conf",
        "cluster-node-timeout": options.node_timeout_ms,
        "cluster-require-full-coverage": "no",
        "cluster-allow-replica-migration": "no",
        # A replica is on the same machine: waiting for others to share a transfer only delays the start.
        "repl-diskless-sync-delay": 0,
        # Valkey 9 notices up to a second late that a transfer to disk has ended; to memory there is no wait.
        "repl-diskless-load": "swapdb",
        # How long a server that is told to stop waits for its replicas; they are being stopped as well.
        "shutdown-timeout": 1,
    }
    settings.update(options.server_settings)
    return "".join(f"{name} {value}\n" for name, value in settings.items())
