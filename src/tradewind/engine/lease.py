"""Leases of partitions, and the list of live workers. The server's clock decides; names and epochs do not
repeat.
"""

import asyncio

from redis.exceptions import ResponseError

from tradewind import RedisCluster
from tradewind.engine.keys import WORKERS_KEY, PartitionKeys
from tradewind.engine.library import is_missing, load_library
from tradewind.engine.store import Lease

LEASE_MS = 2_000


class Leases:
    """Takes, keeps and gives back leases for one worker."""

    def __init__(self, client: RedisCluster, worker: str, lease_ms: int = LEASE_MS) -> None:
        self.worker = worker
        self.lease_ms = lease_ms
        self._client = client

    async def acquire(self, partition: int) -> Lease | None:
        """The lease if it is free, expired, or this worker's own; None when somebody holds it.

        May run twice without harm: the epoch grows once more.
        """
        reply = await self._call(
            "tradewind_acquire", PartitionKeys(partition).owner, self.worker, self.lease_ms
        )
        return Lease(partition, self.worker, int(reply[1])) if int(reply[0]) else None

    async def renew(self, lease: Lease) -> bool:
        """Make the lease last `lease_ms` from now. False when somebody else has it."""
        owner = PartitionKeys(lease.partition).owner
        return bool(await self._call("tradewind_renew", owner, lease.worker, lease.epoch, self.lease_ms))

    async def release(self, lease: Lease) -> None:
        """Let others have it at once."""
        await self._call("tradewind_release", PartitionKeys(lease.partition).owner, lease.worker, lease.epoch)

    async def heartbeat(self) -> list[str]:
        """Say that this worker lives; learn who else does, in order of their names."""
        return sorted(
            name.decode()
            for name in await self._call("tradewind_heartbeat", WORKERS_KEY, self.worker, self.lease_ms)
        )

    async def leave(self) -> None:
        """Take this worker off the list."""
        await self._call("tradewind_heartbeat", WORKERS_KEY, self.worker, 0)

    async def holders(self, partitions: range, now_ms: int) -> dict[int, str]:
        """Who held each partition's lease a moment ago; the free and the expired are left out.

        A partition whose shard does not answer is reported as held by "?": it cannot be taken now.
        """
        client = self._client.with_options(timeout_s=self.lease_ms / 2000)
        owners = await asyncio.gather(
            *(
                client.execute_command("HMGET", PartitionKeys(p).owner, "worker", "expires_ms")
                for p in partitions
            ),
            return_exceptions=True,
        )
        found = zip(partitions, owners, strict=True)
        return {partition: name for partition, owner in found if (name := _holder(owner, now_ms)) is not None}

    async def _call(self, function: str, key: str, *arguments: str | int) -> list[bytes]:
        client = self._client.with_options(idempotent=True, timeout_s=self.lease_ms / 2000)
        try:
            return await client.fcall(function, 1, key, *arguments)  # type: ignore[no-any-return]  # untyped in redis-py
        except ResponseError as error:
            if not is_missing(error):
                raise
        await load_library(self._client)
        return await client.fcall(function, 1, key, *arguments)  # type: ignore[no-any-return]


def _holder(owner: object, now_ms: int) -> str | None:
    if not isinstance(owner, list):
        return "?"
    worker, expires_ms = owner
    return worker.decode() if worker is not None and int(expires_ms) > now_ms else None
