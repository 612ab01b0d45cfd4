"""`python -m benchmarks clients` in small, against real servers."""

import json

from benchmarks import results
from benchmarks.clients import ClientsPlan, compare

OPS = 200


async def test_a_run_gives_figures_of_each_client_and_keeps_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    clients = ("redis-py", "tradewind")
    found = await compare(ClientsPlan(clients, tasks=(8,), ops=OPS, runs=1, save=True))
    assert [result.client for result in found] == list(clients)
    for result in found:
        assert result.failed is None
        assert (result.tasks, result.run, result.pool) == (8, 1, 1_000)
        assert (result.ops, result.errors) == (OPS, {})
        assert result.version
        assert result.ops_per_s > 0 and result.cpu_us_per_op > 0
        assert 0 < result.p50_ms <= result.p99_ms <= result.max_ms
        assert len(result.connections) == 6
        assert 10 < result.memory_mb_idle <= result.memory_mb_max
    assert max(found[1].connections) <= 2
    environment, *records = map(json.loads, (tmp_path / "clients.jsonl").read_text().splitlines())
    assert [record["ops_per_s"] for record in records] == [result.ops_per_s for result in found]
    assert {"date", "commit", "python", "system", "cpu", "cores", "server", "versions"} <= environment.keys()
    assert {"tradewind", "redis", "hiredis", "uvloop"} <= environment["versions"].keys()
    assert capsys.readouterr().out.strip() in (tmp_path / "clients.md").read_text()


async def test_a_client_that_ends_without_figures_is_a_result(capsys):
    (result,) = await compare(ClientsPlan(("tradewind",), tasks=(1,), ops="many", runs=1))
    assert result.failed.startswith("exit code 2: ") and "many" in result.failed
    assert "1 no result" in capsys.readouterr().out
