"""The fixtures of a client; see tests/support/client_fixtures.py."""

from tests.support.client_fixtures import (
    bundled,
    client,
    make_client,
    make_redis,
    no_complaints,
    pytest_asyncio_loop_factories,
    server,
)

__all__ = [
    "bundled",
    "client",
    "make_client",
    "make_redis",
    "no_complaints",
    "pytest_asyncio_loop_factories",
    "server",
]
