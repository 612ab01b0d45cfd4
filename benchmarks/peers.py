"""An outside measurement: peers.py of the folder `shared/bench` beside the checkout, unmodified.

Its servers are started by the cluster.sh beside it, on six ports in a row, as peers.py wants them.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.children import run_python
from benchmarks.contenders import CONTENDERS
from benchmarks.measurement import Measurement
from benchmarks.results import ROOT, Results, last_line, say, server_version
from benchmarks.summary import CLIENT_COLUMNS, client_rows, table
from tradewind.embedded.binary import server_binary
from tradewind.embedded.ports import is_free

SCRIPTS = ROOT.parent / "shared" / "bench"
NODES = 6
TASKS = (1_000, 5_000)
OPS = 100_000
PORT = 7_100
RUN_S_MAX = 600.0
STOP_S_MAX = 20.0

# Names of peers.py -> ours.
NAMES = {"redis-py": "redis-py", "coredis": "coredis", "glide": "glide", "ours": "tradewind"}


class CannotRun(Exception):
    """What is missing, and where to get it."""


@dataclass(frozen=True)
class PeersPlan:
    tasks: Sequence[int] = TASKS
    ops: int = OPS
    runs: int = 3
    port: int = PORT
    server: Path | None = None
    save: bool = False


async def outside(plan: PeersPlan) -> list[Measurement]:
    """Every line that peers.py prints is kept as it is; a client that fails is told and left out.

    :raises CannotRun: no such folder, no redis-cli, or a port is taken
    """
    _check(plan)
    clients = [name for name, ours in NAMES.items() if CONTENDERS[ours].installed]
    found: list[Measurement] = []
    with _servers(plan):
        options = {"tasks": plan.tasks, "ops": plan.ops, "runs": plan.runs}
        results = Results("peers", plan.save, options, await server_version(plan.port))
        for run in range(1, plan.runs + 1):
            for tasks in plan.tasks:
                for client in clients:
                    await _run_client(plan, client, tasks, run, results, found)
    results.finish(table(CLIENT_COLUMNS, client_rows(found)))
    return found


def _check(plan: PeersPlan) -> None:
    if not (SCRIPTS / "peers.py").is_file():
        raise CannotRun(
            f"there is no {SCRIPTS}/peers.py: `python -m benchmarks clients` needs no other folder"
        )
    if shutil.which("redis-cli") is None:
        raise CannotRun(
            "peers.py counts connections with redis-cli, and there is none: install it "
            "(Debian: redis-tools), or run `python -m benchmarks clients`, which needs none"
        )
    taken = [port for port in range(plan.port, plan.port + NODES) if not is_free(port)]
    if taken:
        raise CannotRun(f"ports {taken} or their bus ports 10,000 above are taken: give another --port")


async def _run_client(
    plan: PeersPlan, client: str, tasks: int, run: int, results: Results, found: list[Measurement]
) -> None:
    what = f"peers: run {run} of {plan.runs}, {tasks:,} callers, {client}"
    ended = await run_python(
        [str(SCRIPTS / "peers.py"), client, "--port", plan.port, "--tasks", tasks, "--ops", plan.ops],
        seconds_max=RUN_S_MAX,
        variables={"OURS": "benchmarks.ours:make", "PYTHONPATH": str(ROOT)},
    )
    if not ended.output.strip():
        say(f"{what}: no result, exit code {ended.code}: {last_line(ended.said)}")
        return
    line = json.loads(last_line(ended.output))
    results.add(line)
    found.append(Measurement.from_peers(line, run))
    say(f"{what}: {line['ops_s']:,} commands/s, errors {line['errors'] or 'none'}")


@contextmanager
def _servers(plan: PeersPlan) -> Iterator[None]:
    """cluster.sh puts its folder where TMPDIR says; ours is removed when the servers are gone."""
    binary = server_binary(plan.server)
    with tempfile.TemporaryDirectory(prefix="tradewind-peers-") as folder:
        say(f"peers: starting {NODES} servers on ports {plan.port} to {plan.port + NODES - 1}")
        try:
            _cluster_script(folder, "start", str(plan.port), str(binary))
            yield
        finally:
            _stop_servers(Path(folder), plan.port)


def _stop_servers(folder: Path, port: int) -> None:
    pids = [int(path.read_text()) for path in folder.glob("*/*/pid")]
    _cluster_script(str(folder), "stop", str(port))
    deadline_s = time.monotonic() + STOP_S_MAX
    while any(map(_alive, pids)) and time.monotonic() < deadline_s:
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def _cluster_script(folder: str, *words: str) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPTS / "cluster.sh"), *words],
        env=os.environ | {"TMPDIR": folder}, stdout=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode:
        raise CannotRun(f"cluster.sh {' '.join(words)} failed with exit code {done.returncode}")
