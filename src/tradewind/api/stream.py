"""WebSocket /v1/events: an account's events as they are committed, from a sequence number on.

First what is kept behind `after`, by the page; then, without a gap and without a repeat, what comes. A client
that does not keep up is dropped with the reason, and resumes from the last number that it has seen.
"""

import asyncio
import logging
from typing import Annotated, Any, Final

import msgspec
from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.handlers import WebsocketRouteHandler
from msgspec import Meta
from redis.exceptions import RedisError

from tradewind.api.backend import Backend
from tradewind.api.bodies import read_query
from tradewind.api.problems import Problem, of_cluster, problem
from tradewind.api.reads import EVENTS_PER_PAGE_MAX, SEQUENCE_MAX, EventsQuery, ReadService
from tradewind.api.tail import EVENTS_WAITING_MAX, PartitionTail, Subscriber
from tradewind.engine.messages import AccountId, encode

STREAM_PATH: Final = "/v1/events"
HEARTBEAT_S: Final = 10.0
SEND_S_MAX: Final = 10.0

CLOSE_PROBLEM: Final = 4_000  # plus the status that an HTTP request would have got
CLOSE_RESTART: Final = 1012
CLOSE_SLOW: Final = 1013
REASON_BYTES_MAX: Final = 120  # what a close frame holds

Socket = WebSocket[Any, Any, Any]
Ending = tuple[int, str]  # code and reason of the close

logger = logging.getLogger(__name__)


class StreamQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    account: AccountId
    after: Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)] = 0


class _Stream:
    """One socket. `_after` is the last number it was sent."""

    def __init__(self, socket: Socket, query: StreamQuery, backend: Backend, reads: ReadService) -> None:
        self._socket = socket
        self._account = query.account
        self._after = query.after
        self._backend = backend
        self._reads = reads

    async def run(self) -> Ending:
        """Until the client leaves, or why the socket is to be closed.

        :raises Problem: the cluster does not answer, or events behind `after` are gone
        """
        await self._catch_up()  # the long way, before anything is kept for it
        subscriber = Subscriber(self._account)
        try:
            tail = await self._backend.hub.subscribe(subscriber)
            await self._catch_up()  # what came meanwhile
            return await self._live(subscriber, tail)
        except (RedisError, OSError) as error:
            raise of_cluster(error) from error
        finally:
            await self._backend.hub.unsubscribe(subscriber)

    async def _catch_up(self) -> None:
        is_end = False
        while not is_end:
            page = await self._reads.events(EventsQuery(self._account, self._after, EVENTS_PER_PAGE_MAX))
            if page.is_trimmed and self._after:
                raise problem(410, "trimmed")
            for one in page.events:
                await self._send(encode(one))
            self._after, is_end = page.after, page.is_end

    async def _live(self, subscriber: Subscriber, tail: PartitionTail) -> Ending:
        while True:
            events = await subscriber.next(HEARTBEAT_S)
            for sequence, event in events:
                if sequence > self._after:
                    await self._send(b'{"sequence":%d,"event":%b}' % (sequence, event))
                    self._after = sequence
            if subscriber.is_closed:
                return CLOSE_RESTART, "the server is stopping; resume at another one"
            if subscriber.is_too_slow:
                return CLOSE_SLOW, f"too slow: {EVENTS_WAITING_MAX} events wait"
            if not events:
                self._after = max(self._after, tail.sequence)
                await self._send(b'{"heartbeat":true,"sequence":%d}' % self._after)

    async def _send(self, message: bytes) -> None:
        """:raises TimeoutError: the client has not read for SEND_S_MAX"""
        async with asyncio.timeout(SEND_S_MAX):
            await self._socket.send_text(message.decode())


def stream_handler(backend: Backend, reads: ReadService) -> WebsocketRouteHandler:
    @websocket(STREAM_PATH, name=f"stream {STREAM_PATH}")
    async def handle(socket: Socket) -> None:
        backend.streams += 1
        try:
            await socket.accept()
            await converse(socket)
        finally:
            backend.streams -= 1

    async def converse(socket: Socket) -> None:
        leaving = asyncio.create_task(_left(socket), name="socket left")
        sending = asyncio.create_task(_serve(socket, backend, reads), name="socket events")
        try:
            await asyncio.wait((leaving, sending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (leaving, sending):
                task.cancel()
            results = await asyncio.gather(leaving, sending, return_exceptions=True)
        if isinstance(results[1], tuple):  # only now: granian closes no socket that is being received from
            await socket.close(*results[1])
        for result in results:
            if isinstance(result, Exception):
                logger.error("a stream of events ended: %s", type(result).__name__, exc_info=result)

    return handle


async def _serve(socket: Socket, backend: Backend, reads: ReadService) -> Ending:
    """What goes wrong is a close with a number and a reason."""
    try:
        return await _Stream(socket, _admitted(socket, backend), backend, reads).run()
    except Problem as error:
        reason = error.body.detail.encode()[:REASON_BYTES_MAX].decode(errors="ignore")
        return CLOSE_PROBLEM + error.body.status, reason
    except TimeoutError:
        return CLOSE_SLOW, f"too slow: nothing was read for {SEND_S_MAX:g} s"


def _admitted(socket: Socket, backend: Backend) -> StreamQuery:
    """:raises Problem: as a read would be refused; 503: there are too many sockets"""
    key = backend.authenticate(socket.headers.get("authorization"))
    backend.admit(key, "read")
    query = read_query(socket, StreamQuery)
    backend.check_account(key, query.account)
    if backend.hub.is_full or backend.stopping:
        raise problem(503, "overloaded", "This process has no room for another stream.")
    return query


async def _left(socket: Socket) -> None:
    """Ends when the client does. What it sends is not looked at."""
    try:
        while True:
            await socket.receive_data(mode="text")
    except WebSocketDisconnect:
        return
