"""A client for the cluster that a user named on the command line."""

from typing import Any

from redis.asyncio.connection import parse_url

from tradewind import RedisCluster
from tradewind.ops.errors import OptionRefused

REFUSAL = "--url is not the address of a cluster: it must be redis://HOST:PORT or rediss://HOST:PORT"


def check_url(url: str) -> None:
    """The URL is not repeated in the error: it may hold a password.

    :raises OptionRefused: it cannot be one of a cluster's server
    """
    try:
        host = parse_url(url).get("host")
    except (ValueError, TypeError):
        host = None
    if not host:
        raise OptionRefused(REFUSAL)


def client_of(url: str, **options: Any) -> RedisCluster:
    """A client of the cluster at `url`, not connected yet.

    :raises OptionRefused: it is not the URL of a cluster, or has options that no client knows
    """
    check_url(url)
    try:
        return RedisCluster.from_url(url, **options)
    except (ValueError, TypeError) as error:
        raise OptionRefused(f"--url has an option that is not a client's: {error}") from error
