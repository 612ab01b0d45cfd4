"""`tradewind cluster`: a local cluster that goes on after the command has ended."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.table import Table

from tradewind.embedded import ClusterStatus, EmbeddedCluster, NodeStatus, cluster_status, stop_cluster
from tradewind.ops import console

EXIT_OK = 0
EXIT_DEGRADED = 1
EXIT_STOPPED = 3  # as `systemctl status` says it

app = App(
    name="cluster",
    help="""A local cluster of six servers: three primaries and their replicas.

Examples: `tradewind cluster start`, `tradewind cluster status --json`, `tradewind cluster stop`.
""",
)


def default_data_folder() -> Path:
    """Where the state of programs belongs (XDG), for this user."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "tradewind" / "cluster"


DataOption = Annotated[
    Path | None, Parameter(help="Data folder of the cluster. Default: in the user's state folder.")
]


def _data_folder(data: Path | None) -> Path:
    return (data or default_data_folder()).expanduser().resolve()


@app.command
async def start(
    *,
    data: DataOption = None,
    server: Annotated[Path | None, Parameter(help="Another redis-server or valkey-server binary.")] = None,
    primaries: Annotated[int, Parameter(help="Primaries, which share the slots.")] = 3,
    replicas: Annotated[int, Parameter(help="Replicas of each primary.")] = 1,
    node_timeout_ms: Annotated[int, Parameter(help="Silence after which a node counts as failed.")] = 2_000,
) -> int:
    """Start the cluster and leave it running; a second start on the same data resumes it."""
    with console.progress_line("cluster") as progress:
        cluster = EmbeddedCluster(
            _data_folder(data), server, node_timeout_ms, primaries, replicas, progress=progress
        )
        await cluster.start()
        url, folder = cluster.url, cluster.folder
        await cluster.detach()
    print(url)
    console.err.print(f"running, data in {folder}; `tradewind cluster stop` ends it", soft_wrap=True)
    return EXIT_OK


@app.command
async def stop(*, data: DataOption = None) -> int:
    """Stop the cluster and keep its data."""
    folder = _data_folder(data)
    stopped = await stop_cluster(folder)
    console.err.print(
        f"{'stopped' if stopped else 'no cluster was running'}, data in {folder}", soft_wrap=True
    )
    return EXIT_OK


@app.command
async def status(
    *,
    data: DataOption = None,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="One JSON object on stdout.")
    ] = False,
) -> int:
    """Show the nodes. Exit code 0: all is well, 1: something is missing, 3: not running."""
    found = await cluster_status(_data_folder(data))
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        _show(found)
    return {"running": EXIT_OK, "degraded": EXIT_DEGRADED}.get(found.state, EXIT_STOPPED)


def _show(found: ClusterStatus) -> None:
    console.out.print(f"{found.state}, data in {found.data}", soft_wrap=True)
    if not found.nodes:
        return
    table = Table("node", "port", "role", "of", "slots", "connections", "memory MiB", "pid")
    for node in found.nodes:
        table.add_row(*_cells(node))
    console.out.print(table)
    for reason in found.missing:
        console.out.print(f"missing: {reason}", soft_wrap=True)


def _cells(node: NodeStatus) -> list[str]:
    memory_mib = None if node.memory_bytes is None else f"{node.memory_bytes / 2**20:.1f}"
    cells = (
        node.name,
        node.port,
        node.role,
        node.primary_port,
        node.slots,
        node.connections,
        memory_mib,
        node.pid,
    )
    return ["-" if cell is None else str(cell) for cell in cells]
