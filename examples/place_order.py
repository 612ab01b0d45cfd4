"""One order, from the first server to its answer, and the same order once more.

    python examples/place_order.py

A service runs the three parts in processes of their own: `tradewind worker` for the engine, a feed that
publishes quotes, and an `OrderDesk` wherever orders come in. Here they share one event loop.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tradewind import RedisCluster, clock
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.desk import OrderDesk
from tradewind.engine.instruments import Quote, QuoteFrame, encode_frame
from tradewind.engine.keys import PartitionKeys, partition_of
from tradewind.engine.messages import Deposit, OpenAccount, Place
from tradewind.engine.opening import open_engine
from tradewind.engine.worker import Worker

ACCOUNT = "alice"
PARTITIONS = 4
TRIES_MAX = 100


@asynccontextmanager
async def engine(url: str) -> AsyncIterator[None]:
    """One worker that owns every partition while inside."""
    async with RedisCluster.from_url(url) as client, asyncio.TaskGroup() as tasks:
        worker = Worker(client, await open_engine(client, PARTITIONS))
        tasks.create_task(worker.run())
        yield
        worker.stop()


@asynccontextmanager
async def order_desk(client: RedisCluster) -> AsyncIterator[OrderDesk]:
    """A desk that listens for answers while inside."""
    desk = OrderDesk(client, PARTITIONS)
    try:
        await desk.start()
        yield desk
    finally:
        await desk.aclose()


async def send_quote(client: RedisCluster) -> None:
    """EURUSD at 1.12120 / 1.12130, to the partition of our account; a feed sends to all of them.

    Publishing keeps nothing: once more until the partition's owner listens.
    """
    channel = PartitionKeys(partition_of(ACCOUNT, PARTITIONS)).quotes_channel
    frame = encode_frame(QuoteFrame(1, [Quote("EURUSD", 112120, 112130, clock.now_ms())]))
    for _ in range(TRIES_MAX):
        if await client.spublish(channel, frame):
            return
        await asyncio.sleep(0.05)


async def main() -> None:
    """Open and fund an account, quote, place, and ask again under the same client order id."""
    async with (
        EmbeddedCluster() as cluster,
        engine(cluster.url),
        RedisCluster.from_url(cluster.url) as client,
        order_desk(client) as desk,
    ):
        await desk.submit(OpenAccount(account=ACCOUNT, id="open"))
        await desk.submit(Deposit(account=ACCOUNT, id="fund", amount=100_000))  # cents
        await send_quote(client)
        order = Place(account=ACCOUNT, id="order-1", symbol="EURUSD", side="buy", volume=10_000)
        first = await desk.submit(order)
        again = await desk.submit(order)
        other = await desk.submit(
            Place(account=ACCOUNT, id="order-1", symbol="EURUSD", side="sell", volume=10_000)
        )
    print(f"{first.status} at {first.price}, position {first.position}")
    print(f"the same order again: {'the same answer' if again == first else 'another answer'}")
    print(f"another order under that id: {other.status}, {other.reason}")


if __name__ == "__main__":
    asyncio.run(main())
