"""The report of a run: one JSON object, or a table."""

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from tradewind.ops import console
from tradewind.ops.audit import AuditResult
from tradewind.ops.connections import ConnectionCounts
from tradewind.ops.process_age import process_age_s
from tradewind.ops.system import UpOptions
from tradewind.ops.tally import ShardTally, Tally

Report = dict[str, Any]

MS_DIGITS = 1
S_DIGITS = 2


@dataclass(frozen=True)
class Failover:
    """A primary that was killed: `at_s` after trading began, `killed_s` by the monotonic clock."""

    at_s: float
    shard: str
    killed_s: float


def build(
    options: UpOptions,
    tally: Tally,
    audit: AuditResult,
    crash_ms: int | None,
    connections: ConnectionCounts,
    *,
    connections_limit: int,
    errors: Counter[str],
    workers_reported: int,
    failover: Failover | None,
    resent: int,
) -> Report:
    """All figures of a run under the names that its readers know."""
    return {
        "workers": options.workers,
        "accounts": options.accounts,
        "orders": {
            "offered": tally.offered,
            "acknowledged": tally.acknowledged,
            "filled": tally.filled,
            "rejected": tally.rejected,
            "done": tally.done,
            "unknown": tally.unknown,
            "not_sent": tally.not_sent,
            "resent": resent,
        },
        "orders_per_s": _rate(tally),
        "latency_ms": _latency(tally),
        "rejections": dict(tally.reasons.most_common()),
        "stop_outs": _stop_outs(audit, crash_ms),
        "connections": {
            "per_node_max": connections.per_node_max,
            "limit_per_node": connections_limit,
            "total_max": connections.total_max,
        },
        # The first is always there: it is what this project exists to end.
        "errors": {"MaxConnectionsError": 0} | dict(errors),
        "workers_reported": workers_reported,
        "failover": _failover(tally.shards, failover),
        "audit": audit.as_dict(),
        "start_seconds": _start_seconds(tally),
    }


def _rate(tally: Tally) -> float:
    if tally.first_s is None or tally.started_s is None or tally.last_s <= tally.started_s:
        return 0.0
    return round(tally.acknowledged / (tally.last_s - tally.started_s), 1)


def _latency(tally: Tally) -> dict[str, float]:
    total = tally.total
    return {
        "p50": round(total.percentile_ms(50), MS_DIGITS),
        "p99": round(total.percentile_ms(99), MS_DIGITS),
        "p99_9": round(total.percentile_ms(99.9), MS_DIGITS),
        "max": round(total.max_ms, MS_DIGITS),
    }


def _stop_outs(audit: AuditResult, crash_ms: int | None) -> dict[str, Any]:
    """With a crash: what its fall stopped out, and how long from its beginning to the last of them."""
    found = audit.stop_outs
    seconds = (found.last_ms - crash_ms) / 1_000 if crash_ms is not None and found.positions else None
    return {"accounts": found.accounts, "positions": found.positions, "seconds": seconds}


def _failover(shards: Sequence[ShardTally], failover: Failover | None) -> dict[str, Any] | None:
    """How long the killed primary's shard acknowledged nothing, and the longest silence of the others."""
    if failover is None:
        return None
    killed = next(shard for shard in shards if shard.name == failover.shard)
    others = [shard.gap_s_max for shard in shards if shard is not killed]
    first_s = killed.first_after_s
    return {
        "at_s": failover.at_s,
        "seconds_to_first_ack": None if first_s is None else round(first_s - failover.killed_s, S_DIGITS),
        "other_shards_gap_s_max": round(max(others, default=0.0), S_DIGITS),
    }


def _start_seconds(tally: Tally) -> float | None:
    """From the start of this process to the first acknowledged order."""
    if tally.first_s is None:
        return None
    return round(process_age_s() - (time.monotonic() - tally.first_s), S_DIGITS)


def show(report: Report) -> None:
    """The report as a table on stdout; what the audit found, below it."""
    table = Table("run", "", show_header=False)
    for name, value in report.items():
        if value is not None:
            table.add_row(name.replace("_", " "), _cell(value))
    console.out.print(table)
    for sentence in report["audit"]["findings"]:
        console.out.print(sentence, soft_wrap=True, markup=False, highlight=False)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        pairs = [(_label(key), _cell(item)) for key, item in value.items() if key != "findings"]
        return "   ".join(f"{key} {text}" for key, text in pairs)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _label(key: str) -> str:
    """A figure's name for people: p99_9 is p99.9."""
    return re.sub(r"(?<=\d)_(?=\d)", ".", key).replace("_", " ")
