"""How far each export target has got, kept in each partition's own slot, where trimming looks at it.

Registering is also what makes an export safe: it is a durable write, and answers how far the events went at
that moment. So all events up to there are on a replica, and no failover can put others in their place.
"""

import secrets
from collections.abc import Iterable

from redis.exceptions import ResponseError

from tradewind import RedisCluster
from tradewind.engine.keys import SETTINGS_KEY, PartitionKeys
from tradewind.engine.library import is_missing, load_library

LIBRARY = "trail"
CLUSTER_FIELD = "cluster"


async def cluster_id(client: RedisCluster) -> str:
    """The name that this cluster's events carry outside of it, made at the first call and then fixed."""
    settings = client.durable(replicas=1, idempotent=True)
    await settings.execute_command("HSETNX", SETTINGS_KEY, CLUSTER_FIELD, secrets.token_hex(8))
    return str((await client.execute_command("HGET", SETTINGS_KEY, CLUSTER_FIELD)).decode())


async def register(client: RedisCluster, partition: int, target: str, sequence: int) -> int:
    """Say that `target` has all events up to `sequence`; returns up to where events are final.

    May run twice without harm.
    """
    keys = PartitionKeys(partition)
    durable = client.durable(replicas=1, idempotent=True)
    call = ("FCALL", "tradewind_exported", 2, keys.exports, keys.cursor, target, sequence)
    try:
        return int(await durable.execute_command(*call))
    except ResponseError as error:
        if not is_missing(error):
            raise
    await load_library(client, LIBRARY)
    return int(await durable.execute_command(*call))


async def registered(client: RedisCluster, partition: int) -> dict[str, int]:
    """Target -> the last event that it has, of one partition."""
    fields = await client.execute_command("HGETALL", PartitionKeys(partition).exports)
    return {name.decode(): int(value) for name, value in fields.items()}


async def all_registered(client: RedisCluster, partitions: Iterable[int]) -> dict[str, int]:
    """Target -> how many events it has, of all partitions."""
    totals: dict[str, int] = {}
    for partition in partitions:
        for name, sequence in (await registered(client, partition)).items():
            totals[name] = totals.get(name, 0) + sequence
    return totals


async def forget(client: RedisCluster, partitions: int, target: str) -> bool:
    """Take a target off the list, so that trimming waits for it no more. False: there was none."""
    durable = client.durable(replicas=1, idempotent=True)
    removed = 0
    for partition in range(partitions):
        removed += int(await durable.execute_command("HDEL", PartitionKeys(partition).exports, target))
    return removed > 0
