"""What one run of one client gave, in the words of the result files."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One line of clients.jsonl. `ops` succeeded; with `failed` set, the process ended without figures."""

    client: str
    tasks: int
    run: int = 0
    version: str = ""
    pool: int = 0
    ops: int = 0
    ops_per_s: float = 0.0
    cpu_us_per_op: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    errors: Mapping[str, int] | None = None
    connections: list[int] | None = None
    memory_mb_idle: float | None = None
    memory_mb_max: float | None = None
    failed: str | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any], run: int) -> "Measurement":
        names = {field.name for field in fields(cls)}
        known = cls(**{name: value for name, value in record.items() if name in names})
        return replace(known, run=run)

    @classmethod
    def from_peers(cls, line: Mapping[str, Any], run: int) -> "Measurement":
        """Of a line that peers.py printed; its errors are counted by class and message."""
        errors: dict[str, int] = {}
        for text, count in line["errors"].items():
            kind = text.partition(":")[0]
            errors[kind] = errors.get(kind, 0) + count
        return cls(
            client="tradewind" if line["client"] == "ours" else line["client"],
            tasks=line["tasks"],
            run=run,
            pool=line["pool"],
            ops=line["ops"],
            ops_per_s=line["ops_s"],
            cpu_us_per_op=line["cpu_us_op"],
            p50_ms=line["p50_ms"],
            p99_ms=line["p99_ms"],
            max_ms=line["max_ms"],
            errors=errors,
            connections=line["conns"],
            memory_mb_max=line["maxrss_mb"],
        )
