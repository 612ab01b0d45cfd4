"""`tradewind up` as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.embedded.helpers import alive, wait_until
from tradewind.ops.journal import read_journal
from tradewind.ops.system import UpOptions, running_system

TICKS = Path(__file__).resolve().parents[3] / "shared" / "data"
SMALL = ("--workers", "4", "--accounts", "200")
END_S_MAX = 50

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")


def environment(temporary: Path) -> dict[str, str]:
    """With a folder for temporary files of its own, to see that none is left."""
    return os.environ | {"TMPDIR": str(temporary)}


def up(temporary: Path, *words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tradewind", "up", *map(str, words)],
        capture_output=True, text=True, timeout=END_S_MAX, check=False, env=environment(temporary),
    )  # fmt: skip
    assert done.returncode == code, done
    return done


def descendants(pid: int) -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        try:
            if (
                folder.name.isdigit()
                and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid
            ):
                yield int(folder.name)
                yield from descendants(int(folder.name))
        except OSError:
            continue


@contextmanager
def running(temporary: Path, *words: str | Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A system that trades: its process, and those of its servers and workers."""
    with subprocess.Popen(
        [sys.executable, "-m", "tradewind", "up", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(temporary),
    ) as process:  # fmt: skip
        try:
            seen = []
            while "orders/s" not in "".join(seen[-1:]):
                line = process.stderr.readline()
                assert line, "".join(seen)
                seen.append(line)
            yield process, list(descendants(process.pid))
        finally:
            process.kill()


def test_a_short_run_with_a_crash(tmp_path):
    words = (*SMALL, "--rate", "300", "--seconds", "6", "--crash-at", "3", "--json")
    done = up(tmp_path, *words)
    report = json.loads(done.stdout)
    assert "orders/s" in done.stderr
    orders = report["orders"]
    assert (report["workers"], report["accounts"]) == (4, 200)
    assert 1_700 <= orders["offered"] == orders["acknowledged"] <= 1_900
    assert orders["acknowledged"] == orders["filled"] + orders["rejected"] + orders["done"]
    assert orders["unknown"] == 0
    assert 250 < report["orders_per_s"] < 350
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"] <= report["latency_ms"]["max"]
    assert report["stop_outs"]["positions"] >= report["stop_outs"]["accounts"] > 20
    assert 0 < report["stop_outs"]["seconds"] < 3
    connections = report["connections"]
    assert 0 < connections["per_node_max"] <= connections["limit_per_node"] == 250
    assert connections["total_max"] >= connections["per_node_max"]
    assert report["errors"]["MaxConnectionsError"] == 0
    assert report["failover"] is None
    assert report["audit"]["clean"], report["audit"]["findings"]
    assert {report["audit"][name] for name in ("lost", "duplicated", "balance_errors", "gaps")} == {0}
    assert report["audit"]["journal_entries"] == orders["offered"] + 400
    assert 0 < report["start_seconds"] < 15
    assert not list(tmp_path.iterdir())


async def test_the_key_is_known_to_the_api_when_it_is_shown():
    statuses = []

    def ask_at_once(line: str) -> None:
        if shown := re.fullmatch(r"API on (\S+), key (\S+)", line):
            headers = {"Authorization": f"Bearer {shown[2]}"}
            statuses.append(httpx.get(f"{shown[1]}/v1/instruments", headers=headers).status_code)

    async with running_system("shown", UpOptions(workers=1), ask_at_once):
        assert statuses == [200]


def test_the_api_takes_orders_while_the_load_runs_and_the_audit_counts_them(tmp_path):
    data = tmp_path / "data"
    with running(tmp_path, *SMALL, "--rate", "100", "--data", data, "--json") as (process, children):
        key_file = data / "api.key"
        assert key_file.stat().st_mode & 0o777 == 0o600
        headers = {"Authorization": f"Bearer {key_file.read_text().strip()}"}
        [port] = {
            int(words[words.index("--port") + 1])
            for child in children
            if "api" in (words := Path(f"/proc/{child}/cmdline").read_text().split("\0"))
        }
        body = {"account": "A000001", "id": "by-http", "symbol": "EURUSD", "side": "buy", "volume": 1000}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as http:
            assert http.post("/v1/orders", json=body).json()["status"] == "filled"
        process.send_signal(signal.SIGINT)
        report = json.loads(process.communicate(timeout=END_S_MAX)[0])
    assert report["audit"]["clean"], report["audit"]["findings"]
    wait_until(lambda: not any(map(alive, children)), "every process of it has ended")


@pytest.mark.faults
def test_a_killed_primary_costs_seconds_and_no_order(tmp_path):
    words = (*SMALL, "--rate", "300", "--seconds", "8", "--kill-primary-at", "2", "--json")
    report = json.loads(up(tmp_path, *words).stdout)
    assert report["audit"]["clean"], report["audit"]["findings"]
    assert report["orders"]["unknown"] == 0
    assert report["failover"]["at_s"] == 2
    assert 0 < report["failover"]["seconds_to_first_ack"] < 4
    assert report["failover"]["other_shards_gap_s_max"] < 1


def test_a_second_start_on_the_same_data_goes_on(tmp_path):
    data = tmp_path / "data"
    words = (*SMALL, "--rate", "200", "--seconds", "1", "--data", data, "--json")
    first = json.loads(up(tmp_path, *words).stdout)
    second = json.loads(up(tmp_path, *words).stdout)
    assert second["audit"]["clean"], second["audit"]["findings"]
    assert second["audit"]["events"] > first["audit"]["events"] + second["orders"]["offered"]
    assert second["audit"]["accounts"] == 200
    assert len(list((data / "journals").iterdir())) == 2


@pytest.mark.faults
def test_after_a_kill_9_the_next_start_audits_both_runs(tmp_path):
    """What the callers of the first run were told is held against the cluster that came up again."""
    data, rate = tmp_path / "data", ("--rate", "1500")
    with running(tmp_path, *SMALL, *rate, "--data", data) as (process, pids):
        (first,) = (data / "journals").iterdir()
        wait_until(lambda: first.stat().st_size > 500_000, "thousands of answers are told")
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(alive, pids)), "servers and workers end with their parent")
    told = len(list(read_journal(first)))
    words = (*SMALL, *rate, "--seconds", "1", "--data", data, "--json")
    report = json.loads(up(tmp_path, *words).stdout)
    assert report["audit"]["clean"], report["audit"]["findings"]
    assert report["audit"]["journal_entries"] == told + report["orders"]["offered"] + 200
    first.write_bytes(re.sub(rb'"status":"filled","position":"', b"\\g<0>9", first.read_bytes(), count=1))
    report = json.loads(up(tmp_path, *words, code=1).stdout)
    assert not report["audit"]["clean"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_in_order(tmp_path, number):
    with running(tmp_path, *SMALL, "--rate", "200", "--json") as (process, pids):
        assert len(pids) >= 1 + 4 + 7
        process.send_signal(number)
        out, err = process.communicate(timeout=END_S_MAX)
    assert process.returncode == 0, err
    assert json.loads(out)["audit"]["clean"]
    assert not any(map(alive, pids))
    assert not list(tmp_path.iterdir())


def test_an_interrupt_while_starting_leaves_nothing(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "tradewind", "up", *SMALL],
        stderr=subprocess.PIPE, text=True, env=environment(tmp_path),
    ) as process:  # fmt: skip
        while "starting 4 workers" not in process.stderr.readline():
            assert process.poll() is None
        pids = list(descendants(process.pid))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=END_S_MAX)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not any(map(alive, pids))
    assert not list(tmp_path.iterdir())


def test_kill_9_of_the_parent_leaves_no_process_and_no_folder(tmp_path):
    with running(tmp_path, *SMALL, "--rate", "200") as (process, pids):
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(alive, pids)), "servers and workers end with their parent")
        wait_until(lambda: not list(tmp_path.iterdir()), "the temporary folder is removed")


def test_a_broken_tick_line_stops_before_anything_starts(tmp_path):
    ticks = tmp_path / "EURUSD.csv"
    lines = [f"20200101 17000{n}000,1.1212{n},1.1217{n},0" for n in range(9)]
    lines[4] = "20200101 170004000,1.1x,1.1,0"
    ticks.write_text("\n".join(lines) + "\n")
    started_s = time.monotonic()
    done = up(tmp_path, "--ticks", ticks, code=1)
    assert time.monotonic() - started_s < 5
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert f"{ticks}:5: " in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--workers", "0"), "--workers 0: it must be between 1 and 1000"),
        (("--rate", "-1"), "--rate -1: it must be between 0 and 1000000"),
        (("--seconds", "-1"), "--seconds -1.0: it must be a number of seconds"),
        (("--url", "redis://h:1", "--data", "d"), "--data is for servers that we start"),
        (("--symbol", "EURXXX"), "unknown symbol 'EURXXX'"),
        (("--ticks", "none.csv"), "none.csv: "),
        (("--url", "redis://127.0.0.1:1"), "127.0.0.1:1"),
        (("--url", "foo"), "--url is not the address of a cluster"),
        (("--ticks", "x.csv") * 65, "--ticks is given 65 times: it must be 64 at most"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, words, message):
    done = up(tmp_path, *words, code=1)
    assert len(done.stderr.splitlines()) <= 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_real_ticks_are_replayed(tmp_path):
    files = sorted(TICKS.glob("*.csv*"))
    if not files:
        pytest.skip(f"no tick files in {TICKS.parent.name}/{TICKS.name} beside the checkout")
    ticks = [word for file in files for word in ("--ticks", file)]
    words = (*SMALL, *ticks, "--speed", "100", "--rate", "300", "--seconds", "4", "--json")
    done = up(tmp_path, *words)
    report = json.loads(done.stdout)
    assert report["audit"]["clean"], report["audit"]["findings"]
    assert report["orders"]["filled"] > 0.9 * report["orders"]["offered"]
    assert all(file.name in done.stderr for file in files)
