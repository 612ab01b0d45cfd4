"""Credentials that come in a stream: open connections take new ones, without a caller noticing."""

import asyncio
from collections.abc import Callable
from typing import Any

from redis.auth.token import TokenInterface
from redis.credentials import CredentialProvider
from redis.event import AfterAsyncClusterInstantiationEvent


class CredentialStream:
    """Has redis-py's own listener subscribe to a StreamingCredentialProvider; nothing happens for any other.

    The listener calls `re_auth_callback` of each of the nodes that it is told of: this is all of them.
    `take` gets the arguments of AUTH, in the event loop.
    """

    def __init__(
        self,
        provider: CredentialProvider | None,
        dispatcher: Any,
        take: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._provider = provider
        self._dispatcher = dispatcher
        self._take = take
        self._loop: asyncio.AbstractEventLoop | None = None

    def listen(self) -> None:
        """Subscribe, once; and from now on hand the credentials to the loop that runs now."""
        is_first, self._loop = self._loop is None, asyncio.get_running_loop()
        if is_first:
            nodes = {"every node": self}
            self._dispatcher.dispatch(AfterAsyncClusterInstantiationEvent(nodes, self._provider))

    async def re_auth_callback(self, token: TokenInterface) -> None:
        """New credentials are there. May be called in any thread."""
        if self._loop is not None and not self._loop.is_closed():
            credentials = (token.try_get("oid"), token.get_value())
            self._loop.call_soon_threadsafe(self._take, credentials)
