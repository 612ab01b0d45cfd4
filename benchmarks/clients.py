"""Clients side by side: each in a process of its own, in turn, over one embedded cluster."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.children import Ended, run_python
from benchmarks.contenders import CONTENDERS
from benchmarks.measurement import Measurement
from benchmarks.results import Results, last_line, say, server_version
from benchmarks.summary import CLIENT_COLUMNS, client_rows, table
from tradewind.embedded import EmbeddedCluster

TASKS = (1, 50, 1_000, 5_000, 20_000)
OPS = 100_000
POOL = 1_000  # redis-py's max_connections, the setting this project began with
RUN_S_MAX = 600.0


@dataclass(frozen=True)
class ClientsPlan:
    clients: Sequence[str] = tuple(CONTENDERS)
    tasks: Sequence[int] = TASKS
    ops: int = OPS
    runs: int = 3
    pool: int = POOL
    server: Path | None = None
    save: bool = False


async def compare(plan: ClientsPlan) -> list[Measurement]:
    """Measure every installed client of the plan, run by run, so that a drift of the machine meets all."""
    clients = [name for name in plan.clients if CONTENDERS[name].installed]
    for name in set(plan.clients) - set(clients):
        say(f"clients: {name} is not installed and left out (make bench installs it)")
    found: list[Measurement] = []
    async with EmbeddedCluster(server=plan.server, progress=lambda step: say(f"clients: {step}")) as cluster:
        ports = [node.port for node in cluster.nodes]
        options = {"tasks": plan.tasks, "ops": plan.ops, "runs": plan.runs, "pool": plan.pool}
        results = Results("clients", plan.save, options, await server_version(ports[0]))
        for run in range(1, plan.runs + 1):
            for tasks in plan.tasks:
                for name in clients:
                    found.append(await _measured(plan, name, tasks, run, ports))
                    results.add(asdict(found[-1]))
                    _tell(found[-1], plan.runs)
    results.finish(table(CLIENT_COLUMNS, client_rows(found)))
    return found


async def _measured(plan: ClientsPlan, name: str, tasks: int, run: int, ports: Sequence[int]) -> Measurement:
    words: list[str | int] = [
        "-m",
        "benchmarks.workload",
        name,
        "--tasks",
        tasks,
        "--ops",
        plan.ops,
        "--pool",
        plan.pool,
    ]
    ended = await run_python([*words, "--ports", *ports], seconds_max=RUN_S_MAX)
    if ended.code != 0:
        return Measurement(name, tasks, run, CONTENDERS[name].version, plan.pool, failed=_why(ended))
    return Measurement.from_record(json.loads(last_line(ended.output)), run)


def _why(ended: Ended) -> str:
    if ended.code is None:
        return f"stopped after {RUN_S_MAX:.0f} s"
    return f"exit code {ended.code}: {last_line(ended.said)}"


def _tell(result: Measurement, runs: int) -> None:
    what = f"clients: run {result.run} of {runs}, {result.tasks:,} callers, {result.client}"
    if result.failed:
        say(f"{what}: {result.failed}")
    else:
        errors = sum((result.errors or {}).values())
        say(f"{what}: {result.ops_per_s:,.0f} commands/s, {errors:,} errors")
