"""What the routes stand on: the client, the order desk, the keys. One per process, opened before the server
listens and closed after its last request.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from redis.exceptions import RedisError

from tradewind import RedisCluster, clock
from tradewind.api.keys import ApiKey, Scope, load_keys, matching
from tradewind.api.limits import PENDING_MAX, READ_S_MAX, TokenBucket
from tradewind.api.problems import problem
from tradewind.api.tail import EventHub
from tradewind.engine.desk import OrderDesk
from tradewind.engine.lease import Leases

# What a replica has is replicated: state that a failover could still take back is never shown.
CLIENT_OPTIONS: Final[dict[str, Any]] = {"read_from": "replica", "read_your_writes": False}
KEYS_EVERY_S: Final = 1.0
READY_KNOWN_S: Final = 0.5

logger = logging.getLogger(__name__)


@dataclass
class Backend:
    """`client` has CLIENT_OPTIONS. `stopping`: no new work; balancers of load see it in /health/ready."""

    client: RedisCluster
    partitions: int
    desk: OrderDesk
    keys: dict[str, ApiKey] = field(default_factory=dict)
    stopping: bool = False
    streams: int = 0  # sockets that are not closed yet
    _buckets: dict[str, TokenBucket] = field(default_factory=dict)
    _reasons: list[str] = field(default_factory=list)
    _looked_s: float = float("-inf")

    def __post_init__(self) -> None:
        self.reads = self.client.with_options(timeout_s=READ_S_MAX)
        self.hub = EventHub(self.client, self.reads, self.partitions)

    def authenticate(self, header: str | None) -> ApiKey:
        """The key of an `Authorization` header.

        :raises Problem: 401
        """
        kind, _, token = (header or "").partition(" ")
        key = matching(self.keys, token.strip()) if kind.lower() == "bearer" else None
        if key is None:
            refusal = problem(401, "unauthorized", "Send a known key as `Authorization: Bearer KEY`.")
            refusal.headers["WWW-Authenticate"] = "Bearer"
            raise refusal
        return key

    def admit(self, key: ApiKey, scope: Scope, count: int = 1) -> None:
        """Takes `count` off the key's rate.

        :raises Problem: 403 the key has not this scope; 429 it has asked for too much
        """
        if not key.may(scope):
            raise problem(403, "forbidden", f"Key {key.id} has not the scope {scope}.")
        bucket = self._buckets.get(key.id)
        if bucket is None or bucket.rate_per_s != key.rate_per_s:
            bucket = self._buckets[key.id] = TokenBucket(key.rate_per_s)
        wait_s = bucket.take(count)
        if wait_s:
            detail = f"Key {key.id} may ask {key.rate_per_s} times a second; ask again in {wait_s:.2f} s."
            raise problem(429, "rate_limited", detail, retry_after_s=wait_s)

    def check_account(self, key: ApiKey, account: str) -> None:
        """:raises Problem: 403 the account is not the key's"""
        if not key.reaches(account):
            raise problem(403, "forbidden", f"Key {key.id} does not reach account {account}.")

    async def reasons_not_ready(self) -> list[str]:
        """Why orders cannot be taken now; empty: they can. Looked at twice a second at most."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._looked_s >= READY_KNOWN_S:
            self._looked_s = now_s
            self._reasons = await self._look()
        return ["the server is stopping", *self._reasons] if self.stopping else self._reasons

    async def _look(self) -> list[str]:
        try:
            holders = await Leases(self.client, "").holders(range(self.partitions), clock.now_ms())
        except (RedisError, OSError) as error:
            return [f"the cluster does not answer: {type(error).__name__}"]
        silent = sum(name == "?" for name in holders.values())
        free = self.partitions - len(holders)
        reasons = [f"{silent} of {self.partitions} partitions do not answer"] if silent else []
        return reasons + ([f"{free} of {self.partitions} partitions have no worker"] if free else [])

    async def refresh_keys(self) -> None:
        """Take in which keys there are; rates of keys that are gone are forgotten."""
        self.keys = await load_keys(self.client)
        self._buckets = {id: bucket for id, bucket in self._buckets.items() if id in self.keys}

    async def keep_keys(self) -> None:
        """For good. While the cluster is silent the keys of the moment before count."""
        while True:
            await asyncio.sleep(KEYS_EVERY_S)
            try:
                await self.refresh_keys()
            except (RedisError, OSError) as error:
                logger.info("reading the API keys: %s", error)


@asynccontextmanager
async def opened_backend(client: RedisCluster, partitions: int) -> AsyncIterator[Backend]:
    """Ready to answer inside, with a client of CLIENT_OPTIONS.

    Callers that still wait at the end are told OutcomeUnknown.
    """
    desk = OrderDesk(client, partitions, pending_max=PENDING_MAX)
    backend = Backend(client, partitions, desk)
    try:
        await desk.start()
        await backend.refresh_keys()
        keeper = asyncio.create_task(backend.keep_keys(), name="api keys")
        try:
            yield backend
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
    finally:
        await backend.hub.aclose()
        await desk.aclose()
