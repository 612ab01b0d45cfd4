"""A short ledger run: random clients, worker processes, six servers, faults, and the checker.

The long one is `python -m tests.ledger`, or `make soak`.
"""

import sys

import pytest

from tests.ledger.plan import plan
from tests.ledger.run import run

SEED = 21
"""A primary stopped while clients are paused, two forced failovers, slots moved, a failover; workers and a
client killed."""
ORDERS = 4_000
WORKERS = 4
ROUNDS = 4
PARTITIONS = 12

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the worker processes in /proc"),
]


async def test_no_order_is_lost_doubled_or_misreported_whatever_breaks():
    said: list[str] = []
    made = plan(SEED, ORDERS, WORKERS, rounds=ROUNDS, clients=2, callers=20)
    verdict = (await run(made, PARTITIONS, said.append)).verdict
    assert verdict.clean, (said, verdict.sentences, verdict.audit.findings.sentences)
    assert verdict.told >= ORDERS
    assert verdict.repeats > 0
    assert verdict.refused_bodies > 0
    assert verdict.askings > verdict.told
