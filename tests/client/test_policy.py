"""What follows from an error reply, how long to pause, and how limits share out connections."""

import random

import pytest

from tradewind.client.lane import server_error
from tradewind.client.policy import BACKOFF_CAP_S, Limits, Verdict, backoff_s, judge


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("MOVED 866 127.0.0.1:7002", Verdict.MOVED),
        ("MOVED 866 ::1:7002", Verdict.MOVED),
        ("MOVED 866 :7002", Verdict.MOVED),
        ("ASK 866 127.0.0.1:7002", Verdict.ASK),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Verdict.RETRY),
        ("CLUSTERDOWN The cluster is down", Verdict.RETRY_AND_REFRESH),
        ("CLUSTERDOWN Hash slot not served", Verdict.RETRY_AND_REFRESH),
        ("LOADING server is loading the dataset in memory", Verdict.RETRY_AND_REFRESH),
        ("READONLY You can't write against a read only replica.", Verdict.RETRY_AND_REFRESH),
        ("MASTERDOWN Link with MASTER is down", Verdict.RETRY_AND_REFRESH),
        ("BUSY the server is busy running a script", Verdict.RETRY),
        ("ERR max number of clients reached", Verdict.RETRY_AND_REFRESH),
        ("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
         Verdict.RETRY_AND_REFRESH),
        ("UNBLOCKED client unblocked via CLIENT UNBLOCK", Verdict.FAIL),
        ("MOVED 866", Verdict.FAIL),
        ("MOVED", Verdict.FAIL),
        ("BUSY resource is locked", Verdict.FAIL),  # a script's own
        ("ERR quota: max number of clients of this desk", Verdict.FAIL),
        ("BUSYGROUP Consumer Group name already exists", Verdict.FAIL),
        ("BUSYKEY Target key name already exists.", Verdict.FAIL),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Verdict.FAIL),
        ("OOM command not allowed when used memory > 'maxmemory'", Verdict.FAIL),
        ("NOREPLICAS Not enough good replicas to write.", Verdict.FAIL),
        ("NOPERM this user has no permissions", Verdict.FAIL),
        ("NOAUTH Authentication required.", Verdict.FAIL),
        ("CROSSSLOT Keys in request don't hash to the same slot", Verdict.FAIL),
        ("ERR unknown command", Verdict.FAIL),
        ("", Verdict.FAIL),
    ],
)  # fmt: skip
def test_each_error_reply_has_its_verdict(reply: str, verdict: Verdict) -> None:
    assert judge(server_error(reply)) is verdict


def test_backoff_grows_with_full_jitter_and_stays_under_its_cap() -> None:
    rng = random.Random(1)
    for attempt in range(60):
        delays = [backoff_s(attempt, rng) for _ in range(200)]
        most = min(BACKOFF_CAP_S, 0.01 * 2**attempt)
        assert 0 <= min(delays) < most / 4
        assert most * 0.75 < max(delays) <= most


@pytest.mark.parametrize(
    ("connections_max", "lanes", "shared", "dedicated"),
    [(1, 2, 1, 0), (2, 2, 1, 1), (3, 2, 2, 1), (4, 2, 2, 2), (1000, 2, 2, 998), (4, 1, 1, 3)],
)
def test_lanes_and_dedicated_connections_share_one_cap(
    connections_max: int, lanes: int, shared: int, dedicated: int
) -> None:
    limits = Limits(connections_max=connections_max, lanes_max=lanes)
    assert (limits.shared_lanes_max, limits.dedicated_max) == (shared, dedicated)
    assert limits.shared_lanes_max + limits.dedicated_max == connections_max
