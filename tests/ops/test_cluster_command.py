"""`tradewind cluster` as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.embedded.helpers import alive, pids_in

TRADEWIND = Path(sys.executable).parent / "tradewind"


def run(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [TRADEWIND, *map(str, words)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == code, done
    return done


def test_start_status_stop(tmp_path):
    try:
        started = run("cluster", "start", "--data", tmp_path)
        assert started.stdout.startswith("redis://127.0.0.1:")
        assert "waiting until every node sees every other" in started.stderr
        found = json.loads(run("cluster", "status", "--json", "--data", tmp_path).stdout)
        assert found["state"] == "running"
        assert [node["role"] for node in found["nodes"]] == ["primary"] * 3 + ["replica"] * 3
        assert "replica" in run("cluster", "status", "--data", tmp_path).stdout
        again = run("cluster", "start", "--data", tmp_path, code=1)
        assert f"in use by the cluster of process {found['guardian_pid']}" in again.stderr
    finally:
        stopped = run("cluster", "stop", "--data", tmp_path)
    assert "stopped" in stopped.stderr
    assert not list(pids_in(tmp_path))
    assert not alive(found["guardian_pid"])


def test_without_a_cluster_status_says_stopped_and_stop_is_content(tmp_path):
    found = json.loads(run("cluster", "status", "--json", "--data", tmp_path, code=3).stdout)
    assert (found["state"], found["nodes"]) == ("stopped", [])
    assert "no cluster was running" in run("cluster", "stop", "--data", tmp_path / "none").stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--server", "/no/such/server"], "tradewind: server binary '/no/such/server' does not exist"),
        (["--primaries", "0"], "tradewind: primaries is 0: it must be between 1 and 60"),
    ],
)
def test_bad_options_are_one_line(words, message, tmp_path):
    failed = run("cluster", "start", "--data", tmp_path, *words, code=1)
    assert failed.stderr.startswith(message)
    assert failed.stderr.count("\n") == 1
    assert failed.stdout == ""


def test_version_and_help():
    assert run("--version").stdout.strip()
    assert "cluster" in run("--help").stdout
    assert "--node-timeout-ms" in run("cluster", "start", "--help").stdout
