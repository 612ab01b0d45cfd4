"""Medians and ratios, by hand."""

import pytest

from benchmarks.measurement import Measurement
from benchmarks.orders import OrdersPlan, trials
from benchmarks.summary import CLIENT_COLUMNS, ORDER_COLUMNS, client_rows, order_rows, ratio, table
from benchmarks.workload import percentile_ms


def measured(client: str, run: int, ops_per_s: float, tasks: int = 10, **more: object) -> Measurement:
    return Measurement(client, tasks, run, ops=100, ops_per_s=ops_per_s, **more)


RESULTS = [
    measured("redis-py", 1, 100, errors={"MaxConnectionsError": 3}, connections=[5, 7]),
    measured("tradewind", 1, 1_000, errors={}, connections=[1, 2], p50_ms=1.0),
    measured("redis-py", 2, 50, errors={"MaxConnectionsError": 4}, connections=[6, 4]),
    measured("tradewind", 2, 1_000, errors={}, connections=[1, 1], p50_ms=3.0),
    measured("redis-py", 3, 100, errors={}, connections=[1, 1]),
    measured("tradewind", 3, 1_200, errors={}, connections=[1, 1], p50_ms=2.0),
]


def test_a_ratio_is_the_median_of_the_ratios_within_a_run():
    assert ratio(RESULTS, "tradewind", "redis-py") == 12  # of 10, 20 and 12
    assert ratio(RESULTS, "redis-py", "redis-py") == 1


def test_there_is_no_ratio_to_what_was_not_measured_or_did_nothing():
    assert ratio(RESULTS, "tradewind", "glide") is None
    assert ratio([*RESULTS[1:2], measured("redis-py", 1, 0)], "tradewind", "redis-py") is None
    failed = [measured("tradewind", 1, 7), Measurement("glide", 10, 1, failed="exit code 1")]
    assert ratio(failed, "tradewind", "glide") is None


def test_rows_of_clients_have_medians_and_the_most_connections():
    redis_py, tradewind = (dict(zip(CLIENT_COLUMNS, row, strict=True)) for row in client_rows(RESULTS))
    assert (redis_py["client"], tradewind["client"]) == ("redis-py", "tradewind")
    assert (redis_py["commands/s"], redis_py["least to most"]) == ("100", "50 to 100")
    assert (tradewind["x redis-py"], tradewind["x glide"]) == ("12.00", "-")
    assert (tradewind["p50 ms"], redis_py["p50 ms"]) == ("2.0", "-")
    assert (redis_py["connections/node"], tradewind["connections/node"]) == ("7", "2")
    assert redis_py["errors"] == "7 MaxConnectionsError beside 300 done"
    assert tradewind["errors"] == "0"


def test_numbers_of_callers_are_not_mixed():
    more = [measured("tradewind", 1, 5, tasks=20), measured("redis-py", 1, 5, tasks=20)]
    assert [(row[0], row[3 - 1]) for row in client_rows([*RESULTS, *more])] == [
        ("10", "100"), ("10", "1,000"), ("20", "5"), ("20", "5"),
    ]  # fmt: skip


def test_a_client_without_a_result_is_told():
    (row,) = client_rows([Measurement("glide", 10, 1, failed="exit code 1: no")])
    assert row[-1] == "1 no result beside 0 done"


def test_a_line_of_peers_has_the_same_words():
    line = {
        "client": "ours", "pool": 1000, "tasks": 10, "ops": 90, "ops_s": 900, "cpu_us_op": 4.5, "p50_ms": 1.0,
        "p99_ms": 2.0, "max_ms": 3.0, "errors": {"TimeoutError: a": 1, "TimeoutError: b": 2}, "conns": [1, 1],
        "maxrss_mb": 40,
    }  # fmt: skip
    result = Measurement.from_peers(line, run=2)
    assert (result.client, result.run, result.ops_per_s) == ("tradewind", 2, 900)
    assert result.errors == {"TimeoutError": 3}


def report(orders_per_s: float, clean: bool) -> dict[str, object]:
    return {
        "orders_per_s": orders_per_s,
        "latency_ms": {"p50": 5.0, "p99": 20.0},
        "connections": {"per_node_max": 90, "total_max": 400},
        "errors": {"MaxConnectionsError": 0},
        "stop_outs": {"seconds": None},
        "failover": {"seconds_to_first_ack": orders_per_s / 1_000},
        "audit": {"clean": clean},
    }


def test_rows_of_orders_have_medians_and_the_worst():
    way = {"workers": 50, "rate": 0, "faults": ""}
    records = [way | {"report": report(rate, rate != 3_000)} for rate in (1_000, 3_000, 2_000)]
    (row,) = order_rows([*records, way | {"report": None}])
    named = dict(zip(ORDER_COLUMNS, row, strict=True))
    assert (named["rate"], named["orders/s"]) == ("all it takes", "2,000")
    assert (named["failover s"], named["stop-outs s"]) == ("3.00", "-")
    assert named["audit"] == "2 of 4 clean"
    (empty,) = order_rows([way | {"report": None}])
    assert len(empty) == len(ORDER_COLUMNS)


def test_every_size_is_tried_and_the_faults_when_asked():
    assert [(trial.workers, trial.rate) for trial in trials(OrdersPlan())] == [
        (50, 0), (50, 2_000), (2, 0), (2, 2_000),
    ]  # fmt: skip
    *_, last = trials(OrdersPlan(faults=True))
    assert last.words == [
        "up", "--workers", "50", "--rate", "2000", "--seconds", "30", "--kill-primary-at", "15", "--json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("percent", "milliseconds"), [(0, 1_000.0), (50, 3_000.0), (99, 4_000.0), (100, 4_000.0)]
)
def test_percentiles(percent, milliseconds):
    assert percentile_ms([1, 2, 3, 4], percent) == milliseconds


def test_a_percentile_of_nothing_is_none():
    assert percentile_ms([], 50) is None


def test_a_table_is_markdown():
    assert table(("a", "long"), [("1234", "5")]).splitlines() == [
        "| a    | long |",
        "| ---- | ---- |",
        "| 1234 | 5    |",
    ]
