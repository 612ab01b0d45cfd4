"""Medians and ratios of measurements, as tables that read well in a terminal and in a page."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.measurement import Measurement

REFERENCES = ("redis-py", "glide")
NONE = "-"

CLIENT_COLUMNS = (
    "callers", "client", "commands/s", "least to most", *(f"x {name}" for name in REFERENCES),
    "CPU us/command", "p50 ms", "p99 ms", "connections/node", "memory MB", "errors",
)  # fmt: skip
ORDER_COLUMNS = (
    "workers", "rate", "faults", "orders/s", "least to most", "p50 ms", "p99 ms", "connections/node",
    "in all", "MaxConnectionsError", "stop-outs s", "failover s", "audit",
)  # fmt: skip


def ratio(results: Iterable[Measurement], client: str, reference: str) -> float | None:
    """How many times the throughput of `reference` the client had: the median over the runs.

    Each run is compared with the same run of the reference, measured minutes apart on the same cluster.
    None when no run has both.
    """
    by_run: dict[int, dict[str, float]] = {}
    for result in results:
        by_run.setdefault(result.run, {})[result.client] = result.ops_per_s
    ratios = [
        run[client] / run[reference] for run in by_run.values() if client in run and run.get(reference, 0) > 0
    ]
    return median(ratios) if ratios else None


def client_rows(results: Sequence[Measurement]) -> list[list[str]]:
    """A row for each number of callers and client, in the order in which they were measured."""
    rows = []
    for tasks in dict.fromkeys(result.tasks for result in results):
        of_tasks = [result for result in results if result.tasks == tasks]
        for client in dict.fromkeys(result.client for result in of_tasks):
            rows.append(_client_row(of_tasks, client))
    return rows


def _client_row(of_tasks: Sequence[Measurement], client: str) -> list[str]:
    own = [result for result in of_tasks if result.client == client]
    rates = [result.ops_per_s for result in own]
    ratios = (ratio(of_tasks, client, reference) for reference in REFERENCES)
    connections = [max(result.connections) for result in own if result.connections]
    return [
        f"{own[0].tasks:,}",
        client,
        f"{median(rates):,.0f}",
        f"{min(rates):,.0f} to {max(rates):,.0f}",
        *(_text(value, 2) for value in ratios),
        _median_of(own, "cpu_us_per_op", 1),
        _median_of(own, "p50_ms", 1),
        _median_of(own, "p99_ms", 1),
        str(max(connections)) if connections else NONE,
        _median_of(own, "memory_mb_max", 0),
        _errors(own),
    ]


def _median_of(results: Iterable[object], name: str, digits: int) -> str:
    values = [value for result in results if (value := getattr(result, name)) is not None]
    return _text(median(values) if values else None, digits)


def _text(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:,.{digits}f}"


def _errors(results: Sequence[Measurement]) -> str:
    """Of all runs together, beside what succeeded in them."""
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(result.errors or {})
        if result.failed:
            counts["no result"] += 1
    if not counts:
        return "0"
    done = sum(result.ops for result in results)
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common()) + f" beside {done:,} done"


def order_rows(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each way `tradewind up` was run: medians of its reports, the worst of counts."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["workers"], record["rate"], record["faults"]), []).append(record)
    return [_order_row(key, group) for key, group in groups.items()]


def _order_row(key: tuple[Any, ...], group: Sequence[Mapping[str, Any]]) -> list[str]:
    workers, rate, faults = key
    reports = [record["report"] for record in group if record["report"] is not None]
    cells = [str(workers), f"{rate:,}" if rate else "all it takes", faults or NONE]
    if not reports:
        return cells + [NONE] * (len(ORDER_COLUMNS) - len(cells) - 1) + ["no report"]
    rates = [report["orders_per_s"] for report in reports]
    return [
        *cells,
        f"{median(rates):,.0f}",
        f"{min(rates):,.0f} to {max(rates):,.0f}",
        _text(median(report["latency_ms"]["p50"] for report in reports), 1),
        _text(median(report["latency_ms"]["p99"] for report in reports), 1),
        str(max(report["connections"]["per_node_max"] for report in reports)),
        str(max(report["connections"]["total_max"] for report in reports)),
        str(sum(report["errors"]["MaxConnectionsError"] for report in reports)),
        _seconds(report["stop_outs"]["seconds"] for report in reports),
        _seconds((report["failover"] or {}).get("seconds_to_first_ack") for report in reports),
        f"{sum(report['audit']['clean'] for report in reports)} of {len(group)} clean",
    ]


def _seconds(values: Iterable[float | None]) -> str:
    """The longest."""
    known = [value for value in values if value is not None]
    return f"{max(known):.2f}" if known else NONE


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, its columns padded."""
    lines = [list(columns), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
