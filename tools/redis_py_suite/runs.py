"""One run: the tests of redis-py with one client, against servers of their own."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.redis_py_suite.errors import CannotRun
from tools.redis_py_suite.servers import running
from tools.redis_py_suite.source import suite_files

ROOT = Path(__file__).resolve().parents[2]
TEST_S_MAX = 30  # as redis-py's own configuration has it
RUN_S_MAX = 1200.0
NOT_FOR = {"cluster": "onlynoncluster", "single": "onlycluster"}  # redis-py's own marks


@dataclass(frozen=True)
class Outcome:
    """Of one test: passed, failed or skipped; what the error said."""

    outcome: str
    message: str


async def run_suite(
    client: str, kind: str, tests_folder: Path, server: Path | None, select: str
) -> dict[str, Outcome]:
    """The outcome of every test by its node id. Raises CannotRun when pytest fails, or takes too long."""
    stem = tests_folder.parent / f"{kind}-{client}"
    outcomes, log = stem.with_suffix(".jsonl"), stem.with_suffix(".txt")
    async with running(kind, server) as url:
        words = (
            "-c", "pyproject.toml", "-p", "tools.redis_py_suite.plugin", "-p", "no:cacheprovider",
            f"--client={client}", f"--outcomes={outcomes}", f"--redis-url={url}", f"--redis-mod-url={url}",
            f"--timeout={TEST_S_MAX}", "-m", f"not {NOT_FOR[kind]}", "-k", select,
            *suite_files(tests_folder, kind),
        )  # fmt: skip
        code = await _pytest(words, tests_folder, log)
    if code not in (0, 1, 5):  # passed, some failed, none selected
        raise CannotRun(f"pytest ended with code {code}: see {log}")
    return read_outcomes(outcomes)


async def _pytest(words: Sequence[str], folder: Path, log: Path) -> int:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pytest", *words, cwd=folder, env=os.environ | {"PYTHONPATH": path},
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            return await asyncio.wait_for(child.wait(), RUN_S_MAX)
        except TimeoutError:
            raise CannotRun(f"the tests took more than {RUN_S_MAX:.0f} s: see {log}") from None
        finally:
            if child.returncode is None:
                child.kill()
                await asyncio.shield(child.wait())


def read_outcomes(path: Path) -> dict[str, Outcome]:
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {record["test"]: Outcome(record["outcome"], record["message"]) for record in records}
