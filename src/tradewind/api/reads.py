"""Reads over HTTP: accounts, positions, answers, quotes, instruments, events by the page.

State comes from replicas: what a replica has is replicated, as every answer is before it is given. The shown
state is never one that a failover takes back; it may be some milliseconds old.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from msgspec import Meta
from redis.exceptions import RedisError

from tradewind import clock
from tradewind.api.backend import Backend
from tradewind.api.bodies import read_query
from tradewind.api.limits import STATEMENT_EVENTS_MAX, STATEMENT_LINES_MAX, STATEMENT_S_MAX
from tradewind.api.problems import Problem, of_cluster, problem, rejected
from tradewind.api.replies import json_reply
from tradewind.api.tail import sequence_of
from tradewind.engine.account import Account, Position, from_fields
from tradewind.engine.instruments import INSTRUMENTS, Instrument, Quote, decode_quote
from tradewind.engine.keys import LAST_QUOTES_KEY, PartitionKeys, partition_of
from tradewind.engine.messages import AccountId, Answer, ClientOrderId, Event, decode_answer, decode_event
from tradewind.engine.partition import FINGERPRINT_DIGITS
from tradewind.engine.resting import Order
from tradewind.engine.statement import Statement
from tradewind.engine.store import days_of_answers
from tradewind.trail.errors import AccountUnknown, EventsMissing, StatementTooLong
from tradewind.trail.statement import read_statement

EVENTS_PER_PAGE_MAX: Final = 1_000
EVENTS_LOOKED_AT_MAX: Final = 5_000
SEQUENCE_MAX: Final = 2**53 - 1
TIME_MS_MAX: Final = 2**53 - 1


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


class AccountQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    account: AccountId


class AnswerQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    account: AccountId
    id: ClientOrderId


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    account: AccountId
    after: Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)] = 0
    limit: Annotated[int, Meta(ge=1, le=EVENTS_PER_PAGE_MAX)] = 100


class StatementQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Milliseconds since 1970 UTC; from the first event on, and until now, where they are left out."""

    account: AccountId
    from_ms: Annotated[int, Meta(ge=0, le=TIME_MS_MAX)] = msgspec.field(name="from", default=0)
    until_ms: Annotated[int, Meta(ge=0, le=TIME_MS_MAX)] | None = msgspec.field(name="until", default=None)


class AccountState(msgspec.Struct, frozen=True):
    """Cents. What depends on quotes is None while a symbol that is held has none."""

    account: str
    leverage: int
    balance: int
    used_margin: int
    equity: int | None
    free_margin: int | None
    margin_level_percent: int | None
    margin_called: bool
    positions: int


class PositionState(msgspec.Struct, frozen=True):
    """`profit` in cents at the last quote; prices are scaled by the instrument's digits."""

    position: str
    symbol: str
    side: str
    volume: int
    price: int
    margin: int
    opened_at_ms: int
    stop_loss: int | None
    take_profit: int | None
    profit: int | None


class Positions(msgspec.Struct, frozen=True):
    positions: list[PositionState]


class Orders(msgspec.Struct, frozen=True):
    """The oldest first."""

    orders: list[Order]


class QuoteState(msgspec.Struct, frozen=True):
    symbol: str
    bid: int
    ask: int
    time_ms: int
    bid_size: int | None
    ask_size: int | None


class QuoteList(msgspec.Struct, frozen=True):
    quotes: list[QuoteState]


class InstrumentList(msgspec.Struct, frozen=True):
    instruments: list[Instrument]


class NumberedEvent(msgspec.Struct, frozen=True):
    """`sequence` numbers the events of the account's partition, those of other accounts too."""

    sequence: int
    event: Event


class EventPage(msgspec.Struct, frozen=True):
    """`after` is where the next page begins; `is_end`: nothing is behind it yet; `is_trimmed`: the events
    right behind the `after` that was asked for have left the cluster.
    """

    events: list[NumberedEvent]
    after: int
    is_end: bool
    is_trimmed: bool


@dataclass(frozen=True)
class ReadRoute:
    """`GET path` with the parameters of `query`, some of which may be part of the path, gives `answer`."""

    path: str
    query: type[msgspec.Struct]
    answer: type[Any]
    summary: str
    read: "Callable[[ReadService, Any], Awaitable[object]]"


class ReadService:
    """Looks things up. One per process."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._statements = asyncio.Semaphore(1)

    async def account(self, query: AccountQuery) -> AccountState:
        account, quotes = await self._account(query.account), await self._quotes()
        return AccountState(
            account=account.id,
            leverage=account.leverage,
            balance=account.balance,
            used_margin=account.used_margin,
            equity=account.equity(quotes),
            free_margin=account.free_margin(quotes),
            margin_level_percent=account.margin_level_percent(quotes),
            margin_called=account.margin_called,
            positions=len(account.positions),
        )

    async def positions(self, query: AccountQuery) -> Positions:
        account, quotes = await self._account(query.account), await self._quotes()
        return Positions([_position_state(position, quotes) for position in account.positions.values()])

    async def orders(self, query: AccountQuery) -> Orders:
        return Orders(list((await self._account(query.account)).orders.open.values()))

    async def answer(self, query: AnswerQuery) -> Answer:
        """:raises Problem: the engine refused the command (as it said then), or 404: no answer is kept"""
        keys = self._keys(query.account)
        for day in days_of_answers(clock.now_ms()):
            kept = await self._backend.reads.execute_command(
                "HGET", keys.ids(day), f"{query.account}:{query.id}"
            )
            if kept is None:
                continue
            answer: Answer = decode_answer(kept[FINGERPRINT_DIGITS:])
            if answer.status == "rejected":
                raise Problem(rejected(answer))
            return answer
        raise problem(404, "no_answer")

    async def quotes(self, _query: NoQuery) -> QuoteList:
        quotes = sorted((await self._quotes()).values(), key=lambda quote: quote.symbol)
        return QuoteList([QuoteState(*msgspec.structs.astuple(quote)) for quote in quotes])

    async def instruments(self, _query: NoQuery) -> InstrumentList:
        return InstrumentList(list(INSTRUMENTS.values()))

    async def events(self, query: EventsQuery) -> EventPage:
        """At most EVENTS_LOOKED_AT_MAX of the partition are looked at for a page, so it may be short."""
        entries = await self._backend.reads.execute_command(
            "XRANGE",
            self._keys(query.account).events,
            f"({query.after}-0",
            "+",
            "COUNT",
            EVENTS_LOOKED_AT_MAX,
        )
        events: list[NumberedEvent] = []
        after = query.after
        is_trimmed = bool(entries) and sequence_of(entries[0][0]) > after + 1
        for entry_id, fields in entries:
            if len(events) == query.limit:
                return EventPage(events, after, False, is_trimmed)
            after = sequence_of(entry_id)
            event = decode_event(fields[b"event"])
            if event.account == query.account:
                events.append(NumberedEvent(after, event))
        return EventPage(events, after, len(entries) < EVENTS_LOOKED_AT_MAX, is_trimmed)

    async def statement(self, query: StatementQuery) -> Statement:
        """One at a time in a process, for it may read all events of a partition.

        :raises Problem: 404 no such account; 410 its events of the time have been trimmed; 422 it is too long
        """
        until_ms = clock.now_ms() if query.until_ms is None else query.until_ms
        backend = self._backend
        try:
            async with asyncio.timeout(STATEMENT_S_MAX), self._statements:
                result = await read_statement(
                    backend.reads, backend.partitions, query.account, query.from_ms, until_ms,
                    events_max=STATEMENT_EVENTS_MAX,
                )  # fmt: skip
        except AccountUnknown as error:
            raise problem(404, "not_found", f"There is no account {query.account}.") from error
        except EventsMissing as error:
            raise problem(410, "trimmed", f"Of the time asked for {error}.") from error
        except StatementTooLong as error:
            raise problem(422, "too_many_events", f"Use `tradewind statement`: {error}.") from error
        if len(result.lines) > STATEMENT_LINES_MAX:
            lines = f"The statement has {len(result.lines)} lines; the limit is {STATEMENT_LINES_MAX}"
            raise problem(422, "too_many_events", f"{lines}: ask for a shorter time.")
        return result

    def _keys(self, account: str) -> PartitionKeys:
        return PartitionKeys(partition_of(account, self._backend.partitions))

    async def _account(self, name: str) -> Account:
        fields = await self._backend.reads.execute_command("HGETALL", self._keys(name).account(name))
        if not fields:
            raise problem(404, "not_found", f"There is no account {name}.")
        return from_fields({field.decode(): value.decode() for field, value in fields.items()})

    async def _quotes(self) -> dict[str, Quote]:
        values = await self._backend.reads.execute_command("HVALS", LAST_QUOTES_KEY)
        return {quote.symbol: quote for quote in map(decode_quote, values) if quote.symbol in INSTRUMENTS}

    def handler(self, route: ReadRoute) -> HTTPRouteHandler:
        @get(route.path.replace("}", ":str}"), name=f"get {route.path}")
        async def handle(request: Request[Any, Any, Any]) -> Response[bytes]:
            key = self._backend.authenticate(request.headers.get("authorization"))
            self._backend.admit(key, "read")
            query = read_query(request, route.query)
            if (account := getattr(query, "account", None)) is not None:
                self._backend.check_account(key, account)
            try:
                return json_reply(await route.read(self, query))
            except (RedisError, OSError) as error:
                raise of_cluster(error) from error

        return handle

    def handlers(self) -> list[HTTPRouteHandler]:
        return list(map(self.handler, READ_ROUTES))


def _position_state(position: Position, quotes: dict[str, Quote]) -> PositionState:
    return PositionState(
        position=position.id,
        symbol=position.symbol,
        side=position.side,
        volume=position.volume,
        price=position.price,
        margin=position.margin,
        opened_at_ms=position.opened_at_ms,
        stop_loss=position.stop_loss,
        take_profit=position.take_profit,
        profit=position.profit(quotes) if position.symbol in quotes else None,
    )


READ_ROUTES: Final = (
    ReadRoute("/v1/accounts", AccountQuery, AccountState, "An account's money", ReadService.account),
    ReadRoute(
        "/v1/accounts/{account}/statement",
        StatementQuery,
        Statement,
        "What changed an account's balance over a time",
        ReadService.statement,
    ),
    ReadRoute("/v1/positions", AccountQuery, Positions, "Open positions", ReadService.positions),
    ReadRoute("/v1/orders", AccountQuery, Orders, "Resting orders", ReadService.orders),
    ReadRoute("/v1/answers", AnswerQuery, Answer, "The answer to a client order id", ReadService.answer),
    ReadRoute("/v1/events", EventsQuery, EventPage, "An account's events, by the page", ReadService.events),
    ReadRoute("/v1/quotes", NoQuery, QuoteList, "The last quote of each symbol", ReadService.quotes),
    ReadRoute("/v1/instruments", NoQuery, InstrumentList, "What can be traded", ReadService.instruments),
)
