"""Opening the engine on a cluster: the function library, and the number of partitions, fixed for good."""

from tradewind import RedisCluster
from tradewind.engine.errors import NotOpened, PartitionCountFixed, SettingsUnreadable
from tradewind.engine.keys import PARTITIONS_DEFAULT, PARTITIONS_MAX, SETTINGS_KEY
from tradewind.engine.library import load_library

PARTITIONS_FIELD = "partitions"


async def open_engine(client: RedisCluster, partitions: int | None = None) -> int:
    """Load the function library on all primaries and return the cluster's number of partitions.

    The first call on a cluster fixes the number: `partitions`, or the default. Later calls with None take
    what they find. May run any number of times, also at once: the first one wins.

    :raises PartitionCountFixed: `partitions` is not the number that the cluster was opened with
    """
    _check(partitions)
    await load_library(client)
    settings = client.durable(replicas=1, idempotent=True)
    await settings.execute_command("HSETNX", SETTINGS_KEY, PARTITIONS_FIELD, partitions or PARTITIONS_DEFAULT)
    fixed = _count(await client.execute_command("HGET", SETTINGS_KEY, PARTITIONS_FIELD))
    if partitions not in (None, fixed):
        raise PartitionCountFixed(
            f"{partitions} partitions asked, but this cluster was opened with {fixed} and accounts cannot "
            f"change theirs: leave the number out, or use another cluster or data folder"
        )
    return fixed


async def partitions_of(client: RedisCluster) -> int:
    """The number of partitions of a cluster that was opened before.

    :raises NotOpened: no engine has run on it
    """
    value = await client.execute_command("HGET", SETTINGS_KEY, PARTITIONS_FIELD)
    if value is None:
        raise NotOpened(
            "no engine has run on this cluster: start one with `tradewind up` or `tradewind worker`"
        )
    return _count(value)


def _check(partitions: int | None) -> None:
    if partitions is not None and not 1 <= partitions <= PARTITIONS_MAX:
        raise PartitionCountFixed(f"{partitions} partitions asked: it must be between 1 and {PARTITIONS_MAX}")


def _count(value: bytes | str | None) -> int:
    try:
        count = int(value or 0)
    except ValueError:
        count = 0
    if not 1 <= count <= PARTITIONS_MAX:
        raise SettingsUnreadable(
            f"{SETTINGS_KEY} has {value!r} for {PARTITIONS_FIELD}, which is not ours: use another cluster"
        )
    return count
