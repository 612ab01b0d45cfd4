"""The engine's function library on the servers: loaded on every primary, loaded again where it is missing."""

import asyncio

from redis.exceptions import ResponseError

from tradewind import RedisCluster
from tradewind.engine.errors import FunctionsRefused
from tradewind.functions_path import function_library_source

LIBRARY = "engine"


async def load_library(client: RedisCluster, name: str = LIBRARY) -> None:
    """Load the library `name` on every primary, in place of an older one. Replicas get it by replication.

    May run twice without harm.

    :raises FunctionsRefused: a server does not take it
    """
    await client.initialize()
    source = function_library_source(name)
    nodes = client.get_primaries()
    try:
        await asyncio.gather(
            *(
                client.execute_command("FUNCTION LOAD", "REPLACE", source, target_nodes=[node])
                for node in nodes
            )
        )
    except ResponseError as error:
        raise FunctionsRefused(
            f"the engine's functions cannot be loaded: {error}. Servers must be Redis 7.0 or Valkey 7.2 at "
            "least, and their user must be allowed FUNCTION and FCALL"
        ) from error


def is_missing(error: Exception) -> bool:
    """The server does not have the function (an empty primary was added, or somebody flushed its
    functions).
    """
    return isinstance(error, ResponseError) and "Function not found" in str(error)
