"""Commands whose replies nobody waits for: `client.post()` and `client.send_unanswered()`."""

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import hiredis
from redis.exceptions import DataError

from tradewind.client.catalog import Catalog
from tradewind.client.command import pack

if TYPE_CHECKING:
    from tradewind.client.router import Router

REPLY_SKIP_PACKED = pack(("CLIENT REPLY", "SKIP"))  # holds for the next command only


class SendsUnheard:
    """The part of a client that gives no reply."""

    _catalog: Catalog
    _short_path: dict[str, tuple[int, bool]]

    @abstractmethod
    def _need_router(self) -> "Router":
        """Of a client that is open."""

    @abstractmethod
    def _send(
        self, router: "Router", args: tuple[Any, ...], key: Any, repeatable: bool
    ) -> "asyncio.Future[Any] | None":
        """As `ClientCore._send`."""

    @abstractmethod
    def _slot_of_key(self, key: Any) -> int:
        """As `ClientCore._slot_of_key`."""

    def post(self, *args: Any) -> None:
        """Send a command with one key, as `execute_command` does (waiting, redirects, retries), for a caller
        who has no use for the reply: an error is counted in `stats()` and forgotten.

        For what should arrive and is checked in another way, such as an order that will be answered by a
        message. For a stream of messages that may be lost, `send_unanswered` is cheaper. The client must be
        initialized. Raises KeyError for a command that has not exactly one key, or that blocks, DataError for
        an argument that has no bytes.
        """
        first_key, repeatable = self._short_path[args[0]]
        future = self._send(self._need_router(), args, args[first_key], repeatable)
        if future is None:
            raise DataError(f"{args[0]}: convert the arguments to bytes, str, int or float first")
        future.add_done_callback(_forget)

    def send_unanswered(self, *args: Any) -> None:
        """Send a command with one key whose reply the server is told to leave out (CLIENT REPLY SKIP).

        Costs neither side a reply, and this process no wake-up; it is written together with the commands of
        the same turn of the loop, in the order of the calls. In return nothing is done for it: it is dropped
        where no connection is open or the socket is full, follows no redirect, and an error stays unknown and
        uncounted. For many messages each of which may be lost because it is asked for again or
        soon outdated; what should arrive goes by `post`. KeyError as for `post`, which does it where the
        server cannot be relied on to leave the reply out: an ACL forbids it to this user, it has not yet been
        asked on this connection whether one does, or (Redis 7.0) a busy server answers BUSY also to CLIENT
        REPLY.
        """
        first_key, _ = self._short_path[args[0]]
        slot = self._slot_of_key(args[first_key])
        router = self._need_router()
        if router.news.listeners:  # when it runs is not known
            router.news.write_begun(slot)
            router.news.write_ended(slot)
        node = router.nodes.owners[slot]
        if node is None:
            return
        if not (node.may_skip_replies() and self._catalog["CLIENT REPLY"].runs_when_busy):
            self.post(*args)
        else:
            node.write_unanswered(REPLY_SKIP_PACKED + hiredis.pack_command(args))


def _forget(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()  # looked at, so that asyncio does not report it
