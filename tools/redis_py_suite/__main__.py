"""`python -m tools.redis_py_suite`: redis-py's asyncio tests with redis-py and with Tradewind, compared."""

import argparse
import asyncio
import importlib.metadata
import platform
import signal
import subprocess
import sys
from pathlib import Path

import tradewind
from tools.redis_py_suite.errors import CannotRun
from tools.redis_py_suite.listed import read_exceptions
from tools.redis_py_suite.plugin import CLIENTS
from tools.redis_py_suite.report import as_json, as_markdown, as_table
from tools.redis_py_suite.runs import ROOT, Outcome, run_suite
from tools.redis_py_suite.servers import KINDS
from tools.redis_py_suite.source import unpacked_tests
from tools.redis_py_suite.verdict import Verdict, judge
from tradewind.embedded import EmbeddedError
from tradewind.embedded.binary import server_binary

FOLDER = ROOT / "build" / "redis-py-suite"
EXIT_MISSED = 1
EXIT_CANNOT_RUN = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    given = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that pytest and the servers end too
    try:
        verdict = asyncio.run(_compare(given))
    except (CannotRun, EmbeddedError) as error:
        print(f"redis_py_suite: {error}", file=sys.stderr)
        sys.exit(EXIT_CANNOT_RUN)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    print(given.form(verdict, _versions(given.server)))
    sys.exit(0 if verdict.holds else EXIT_MISSED)


async def _compare(given: argparse.Namespace) -> Verdict:
    """The clients run at once, each with its servers; the kinds of servers one after the other."""
    tests = unpacked_tests(importlib.metadata.version("redis"), FOLDER, given.source)
    runs: dict[str, tuple[dict[str, Outcome], dict[str, Outcome]]] = {}
    for kind in given.servers:
        both = (run_suite(client, kind, tests, given.server, given.select) for client in CLIENTS)
        redis_py, with_tradewind = await asyncio.gather(*both)
        runs[kind] = (redis_py, with_tradewind)
    complete = not given.select and set(runs) == set(KINDS)
    return judge(runs, read_exceptions(), complete)


def _testable() -> list[str]:
    """The kinds of servers for which Tradewind has a client."""
    return [kind for kind, client in KINDS.items() if hasattr(tradewind, client)]


def _versions(server: Path | None) -> dict[str, str]:
    said = subprocess.run(
        [server_binary(server), "--version"], capture_output=True, text=True, check=True
    ).stdout
    return {
        "redis-py": importlib.metadata.version("redis"),
        "Tradewind": importlib.metadata.version("tradewind"),
        "Python": platform.python_version(),
        "server": said.split(" sha=")[0].strip(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.redis_py_suite",
        description="Run redis-py's asyncio tests with redis-py and with Tradewind and compare test by test. "
        "Ends with 1 when the share of those that pass is below the bar, with 2 when nothing could run.",
    )
    parser.add_argument(
        "--source", type=Path, help="a folder with redis-VERSION.tar.gz, instead of a download"
    )
    parser.add_argument("--server", type=Path, help="another redis-server or valkey-server (the bundled one)")
    parser.add_argument(
        "--servers", nargs="+", choices=KINDS, default=_testable(), help="only these kinds of them"
    )
    parser.add_argument("--select", default="", metavar="EXPRESSION", help="only these tests, as pytest -k")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json", dest="form", action="store_const", const=as_json, help="the whole comparison as JSON"
    )
    form.add_argument(
        "--markdown", dest="form", action="store_const", const=as_markdown, help="as docs/redis-py-suite.md"
    )
    parser.set_defaults(form=as_table)
    return parser


if __name__ == "__main__":
    main()
