"""What can go wrong with the embedded cluster. Each message is one line that says what to do."""


class EmbeddedError(Exception):
    """Base of every error of the embedded cluster."""


class InvalidOption(EmbeddedError, ValueError):
    """An option of the cluster is out of its bounds."""


class ServerNotFound(EmbeddedError):
    """There is no server binary to run, or the one that was named cannot be run."""


class DataFolderInUse(EmbeddedError):
    """Another running cluster owns the data folder."""


class DataFolderUnusable(EmbeddedError):
    """The data folder cannot be written, or holds something else than this cluster."""


class ClusterStartFailed(EmbeddedError):
    """A server ended while starting, or the cluster did not become ready in time."""


class ServerEnded(ClusterStartFailed):
    """A server ended while the cluster started."""

    def __init__(self, name: str, port: int, exit_code: int, reason: str) -> None:
        super().__init__(f"server {name} on port {port} ended with code {exit_code}: {reason}")
        self.port = port


class GuardianLost(EmbeddedError):
    """The process that keeps the servers is gone, and the servers with it."""
