"""A cluster that outlives the program that started it: its state, and its end.

Started with `EmbeddedCluster.start` and `detach`; found again by its data folder.
"""

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tradewind.embedded.errors import EmbeddedError
from tradewind.embedded.folder import owner_pid, read_description
from tradewind.embedded.survey import NodeReport, missing, survey

# The guardian's own bound, for SIGTERM and then SIGKILL, and some more.
STOP_TIMEOUT_S = 30.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One server at one moment; `error` says why it did not answer, and the rest is empty then."""

    name: str
    port: int
    role: str
    pid: int | None
    primary_port: int | None
    slots: int
    connections: int | None
    memory_bytes: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """A data folder's cluster at one moment. `missing` says what keeps a running one from being ready."""

    data: str
    state: str  # "running", "degraded" (some of it is missing) or "stopped"
    guardian_pid: int | None
    nodes: tuple[NodeStatus, ...]
    missing: tuple[str, ...]


async def cluster_status(data: Path) -> ClusterStatus:
    """What runs on the data folder; a folder without a cluster is one that is stopped.

    :raises DataFolderUnusable: the folder holds something else
    """
    guardian_pid = owner_pid(data)
    description = read_description(data)
    if guardian_pid is None or description is None:
        return ClusterStatus(str(data), "stopped", None, (), ())
    reports = await survey(description.ports)
    reasons = tuple(missing(reports))
    nodes = tuple(_node_status(f"node-{index + 1}", report) for index, report in enumerate(reports))
    return ClusterStatus(str(data), "degraded" if reasons else "running", guardian_pid, nodes, reasons)


def _node_status(name: str, report: NodeReport) -> NodeStatus:
    return NodeStatus(
        name=name,
        port=report.port,
        role=report.role,
        pid=report.info.get("process_id"),
        primary_port=report.primary_port,
        slots=report.myself.slots if report.myself else 0,
        connections=report.info.get("connected_clients"),
        memory_bytes=report.info.get("used_memory"),
        error=report.error,
    )


async def stop_cluster(data: Path) -> bool:
    """Stop the cluster of the data folder and wait until nothing of it is left; False if none ran.

    :raises EmbeddedError: it is just being started, is not ours to stop, or did not end in time
    """
    guardian_pid = owner_pid(data)
    if guardian_pid is None:
        return False
    if guardian_pid == 0:
        raise EmbeddedError(f"the cluster on {data} is just being started: try again in a moment")
    try:
        os.kill(guardian_pid, signal.SIGTERM)
    except PermissionError as error:
        raise EmbeddedError(
            f"the cluster on {data} belongs to another user (process {guardian_pid})"
        ) from error
    except ProcessLookupError:
        pass  # it ended by itself, and its servers are about to
    give_up_at = time.monotonic() + STOP_TIMEOUT_S
    while owner_pid(data) is not None:
        if time.monotonic() > give_up_at:
            raise EmbeddedError(
                f"the cluster on {data} still runs {STOP_TIMEOUT_S:g} s after it was told to stop "
                f"(guardian process {guardian_pid}): see {data / 'guardian.log'}"
            )
        await asyncio.sleep(POLL_S)
    return True
