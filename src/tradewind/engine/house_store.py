"""The rules for everybody in the cluster: reading them, changing them, and telling all workers.

A worker reads them before it takes a partition and then once a round (0.5 s); a change is also published, so
it is effective within milliseconds, and within a round if the message is lost. While the shard that keeps
them does not answer, workers trade on by what they know.
"""

from redis.exceptions import RedisError

from tradewind import RedisCluster
from tradewind.engine.hours import HoursRuling, parse_hours
from tradewind.engine.house import (
    GROUP_FIELD_PREFIX,
    HOURS_FIELD_PREFIX,
    SYMBOL_FIELD_PREFIX,
    SYSTEM_FIELD,
    VERSION_FIELD,
    House,
    Ruling,
    encode_rules,
)
from tradewind.engine.keys import GROUPS_KEY, HOUSE_CHANNEL, HOUSE_KEY
from tradewind.engine.messages import encode
from tradewind.engine.messages.groups import Terms, encode_terms


async def load_house(client: RedisCluster, house: House) -> None:
    """Bring a copy up to date."""
    house.take(await _read(client))


async def set_ruling(client: RedisCluster, symbol: str | None, ruling: Ruling) -> None:
    """Set the trading state of a symbol, or of the whole system (None), and tell all workers.

    Returns when a replica has it. May run twice without harm; of two at once the last one wins.
    """
    field = SYSTEM_FIELD if symbol is None else SYMBOL_FIELD_PREFIX + symbol
    await _change(client, HOUSE_KEY, field, encode(ruling))


async def set_hours(client: RedisCluster, symbol: str, ruling: HoursRuling) -> None:
    """Set when a symbol is traded, and tell all workers. As `set_ruling`.

    :raises ValueError: the hours are not written as `parse_hours` reads them
    """
    parse_hours(ruling.hours)
    await _change(client, HOUSE_KEY, HOURS_FIELD_PREFIX + symbol, encode(ruling))


async def set_group(client: RedisCluster, terms: Terms) -> None:
    """Keep a group under its name, for accounts to come; those that are there keep what they have.

    As `set_ruling`.
    """
    await _change(client, GROUPS_KEY, terms.group, encode_terms(terms))


async def _change(client: RedisCluster, key: str, field: str, value: bytes) -> None:
    """The version grows after the change: what is read with a version has all changes up to it."""
    durable = client.durable(replicas=1, idempotent=True)
    await durable.execute_command("HSET", key, field, value)
    await durable.execute_command("HINCRBY", HOUSE_KEY, VERSION_FIELD, 1)
    try:
        await client.execute_command("SPUBLISH", HOUSE_CHANNEL, encode_rules(await _read(client)))
    except (RedisError, OSError):
        return  # workers find it within a round


async def _read(client: RedisCluster) -> dict[str, str]:
    """One field for each rule. The version is not read after the rest: it promises no more than is there."""
    calls = client.with_options(idempotent=True)
    states = await calls.execute_command("HGETALL", HOUSE_KEY)
    groups = await calls.execute_command("HGETALL", GROUPS_KEY)
    rules = {name.decode(): value.decode() for name, value in states.items()}
    return rules | {GROUP_FIELD_PREFIX + name.decode(): value.decode() for name, value in groups.items()}
