"""The fixtures of a client; see tests/support/client_fixtures.py."""

from tests.support.client_fixtures import client, make_client

__all__ = ["client", "make_client"]
