"""The flash crash of the benchmark, made small: who is stopped out, in which order, and others trade on."""

import asyncio

from benchmarks.crash import CrashPlan, flash_crash
from tests.support.clients import check_idle
from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.opening import open_engine
from tradewind.engine.worker import Worker

PARTITIONS = 6
PLAN = CrashPlan(accounts=60, positions=4, others=10, rate=50)


async def test_every_account_is_stopped_out_largest_loss_first_while_others_trade(
    clean_cluster: EmbeddedCluster,
):
    client, own = (RedisCluster.from_url(clean_cluster.url) for _ in range(2))
    await open_engine(client, PARTITIONS)
    worker = Worker(own, PARTITIONS)
    running = asyncio.create_task(worker.run())
    try:
        result = await flash_crash(client, PARTITIONS, PLAN)
        await check_idle(client)
    finally:
        worker.stop()
        await running
        await own.aclose()
        await client.aclose()
    assert result["closed"] == PLAN.accounts * PLAN.positions
    assert result["out_of_order"] == 0
    assert result["others_rejected"] == 0
    assert result["others_max_ms"] > 0
