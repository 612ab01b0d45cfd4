"""The whole system under orders: `tradewind up --json` in several sizes, every report kept."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.children import run_python
from benchmarks.results import Results, last_line, say, server_version
from benchmarks.summary import ORDER_COLUMNS, order_rows, table
from tradewind.embedded import EmbeddedCluster

WORKERS = (50, 2)
RATES = (0, 2_000)
SECONDS = 20.0
AROUND_S_MAX = 180.0  # for the start, the audit and the end of a run

# What bars the way of the orders, in a run of 30 seconds of its own.
FAULTS = {
    "crash": ("--crash-at", "10"),
    "killed primary": ("--kill-primary-at", "15"),
}
FAULTS_WORKERS = 50
FAULTS_RATE = 2_000
FAULTS_SECONDS = 30.0


@dataclass(frozen=True)
class OrdersPlan:
    workers: Sequence[int] = WORKERS
    rates: Sequence[int] = RATES
    runs: int = 3
    seconds: float = SECONDS
    faults: bool = False
    server: Path | None = None
    save: bool = False


@dataclass(frozen=True)
class Trial:
    """One way to run `tradewind up`."""

    workers: int
    rate: int
    seconds: float
    faults: str = ""

    @property
    def words(self) -> list[str]:
        """As a user types them after `tradewind`."""
        size = ["--workers", str(self.workers), "--rate", str(self.rate), "--seconds", f"{self.seconds:g}"]
        return ["up", *size, *FAULTS.get(self.faults, ()), "--json"]


def trials(plan: OrdersPlan) -> Iterator[Trial]:
    for workers in plan.workers:
        for rate in plan.rates:
            yield Trial(workers, rate, plan.seconds)
    if plan.faults:
        for name in FAULTS:
            yield Trial(FAULTS_WORKERS, FAULTS_RATE, FAULTS_SECONDS, name)


async def trade(plan: OrdersPlan) -> list[dict[str, Any]]:
    """Run every trial, run by run. A run whose audit finds something is a result as well, and told."""
    options = {"workers": plan.workers, "rates": plan.rates, "runs": plan.runs, "seconds": plan.seconds}
    results = Results("orders", plan.save, options, await _version(plan.server))
    for run in range(1, plan.runs + 1):
        for trial in trials(plan):
            say(f"orders: run {run} of {plan.runs}, tradewind {' '.join(trial.words)}")
            results.add(await _traded(trial, run, plan.server))
            _tell(results.records[-1])
    results.finish(table(ORDER_COLUMNS, order_rows(results.records)))
    return results.records


async def _version(server: Path | None) -> str:
    """Of the server that `tradewind up` will start: it says so only when it runs."""
    cluster = EmbeddedCluster(server=server, primaries=1, replicas_per_primary=0)
    async with cluster:
        return await server_version(cluster.nodes[0].port)


async def _traded(trial: Trial, run: int, server: Path | None) -> dict[str, Any]:
    own = [] if server is None else ["--server", str(server)]
    seconds_max = trial.seconds + AROUND_S_MAX
    ended = await run_python(["-m", "tradewind", *trial.words, *own], seconds_max=seconds_max)
    report = json.loads(last_line(ended.output)) if ended.output.strip() else None
    failed = None if report else f"exit code {ended.code}: {last_line(ended.said)}"
    return {
        "run": run,
        "workers": trial.workers,
        "rate": trial.rate,
        "faults": trial.faults,
        "seconds": trial.seconds,
        "exit_code": ended.code,
        "failed": failed,
        "report": report,
    }


def _tell(record: dict[str, Any]) -> None:
    report = record["report"]
    if report is None:
        say(f"orders: no report: {record['failed']}")
        return
    audit = "audit clean" if report["audit"]["clean"] else f"audit: {report['audit']['findings']}"
    say(f"orders: {report['orders_per_s']:,.0f} orders/s, p99 {report['latency_ms']['p99']} ms, {audit}")
