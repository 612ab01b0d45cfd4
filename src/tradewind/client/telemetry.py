"""OpenTelemetry: a span and a duration for each command, and the client's state. Needs `tradewind[otel]`.

Names are those of the semantic conventions for database clients, and for Redis:
https://opentelemetry.io/docs/specs/semconv/db/redis/ ; where these have none, `tradewind.client...`.
"""

import asyncio
import re
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
from redis.exceptions import RedisError, ResponseError

from tradewind.client.errors import TradewindError
from tradewind.client.metrics import METRICS, Kind, Metric
from tradewind.client.stats import ClientStats
from tradewind.client.transaction import Transaction

if TYPE_CHECKING:
    from tradewind.client.base import ClientCore
    from tradewind.client.calls import CallOptions
    from tradewind.client.command import Command

PREFIX = "tradewind.client."
DURATION = "db.client.operation.duration"
DURATION_BOUNDS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)  # the convention's
ERROR_PREFIX = re.compile(r"[A-Z][A-Z0-9]+\b")  # at the beginning of an error reply: WRONGTYPE, NOPERM...

Attributes = dict[str, str | int]


class Telemetry:
    """For `RedisCluster(..., telemetry=Telemetry(...))`; `telemetry=True` uses the global providers.

    Every command of the client, of its views, pipelines and durable writes gets a span of the caller's trace
    (`spans=False`: none) and a duration. A transaction is one. Arguments are never recorded. A client without
    telemetry pays nothing for it. One object may serve several clients. `system` is `db.system.name`; say
    "valkey" for Valkey.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        spans: bool = True,
        system: str = "redis",
    ) -> None:
        from tradewind import __version__  # not at the top: tradewind's package imports the clients

        self._tracer = trace.get_tracer("tradewind", __version__, tracer_provider) if spans else None
        meter = metrics.get_meter("tradewind", __version__, meter_provider)
        self._duration = meter.create_histogram(
            DURATION,
            unit="s",
            description="Duration of database client operations.",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDS_S,
        )
        self._system = system
        self._clients: weakref.WeakSet[ClientCore] = weakref.WeakSet()
        self._observe(meter)

    def watch(self, client: "ClientCore") -> None:
        """Have the client's commands pass by here. Called by the client's constructor."""
        self._clients.add(client)
        client.intercept(
            _dispatch=partial(self._dispatch, client, client._dispatch),
            _block=partial(self._block, client, client._block),
        )

    # -- commands --------------------------------------------------------------------------------------------

    def _dispatch(
        self,
        client: "ClientCore",
        dispatch: Callable[..., None],
        command: "Command",
        call: "CallOptions",
        *,
        writes: bool,
    ) -> None:
        end = self._begin(client, command)
        try:
            dispatch(command, call, writes=writes)
        except BaseException as error:
            end(error)
            raise
        command.future.add_done_callback(partial(_ended, end))

    async def _block(
        self, client: "ClientCore", block: Callable[..., Awaitable[Any]], command: "Command", *args: Any
    ) -> Any:
        end = self._begin(client, command)
        try:
            reply = await block(command, *args)
        except BaseException as error:
            end(error)
            raise
        end(None)
        return reply

    def _begin(self, client: "ClientCore", command: "Command") -> Callable[[BaseException | None], None]:
        """The span begins now; call the result with how it ended."""
        attributes = self._attributes(client, command)
        span = None
        if self._tracer is not None:
            name = str(attributes["db.operation.name"])
            span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        return partial(self._end, client, command, attributes, span, time.perf_counter())

    def _attributes(self, client: "ClientCore", command: "Command") -> Attributes:
        attributes: Attributes = {"db.system.name": self._system, "db.operation.name": command.name}
        attributes["db.namespace"] = str(client._settings.database)
        if isinstance(command, Transaction):
            attributes["db.operation.name"] = "MULTI"
            if len(command.packed_commands) != 1:
                attributes["db.operation.batch.size"] = len(command.packed_commands)
        if client._router is not None:
            host, port = client._router.nodes.seeds[0]
            attributes["server.address"] = host
            if port:
                attributes["server.port"] = port
        return attributes

    def _end(
        self,
        client: "ClientCore",
        command: "Command",
        attributes: Attributes,
        span: Span | None,
        begun_s: float,
        error: BaseException | None,
    ) -> None:
        ended = {**_peer(client, command), **_failure(error)}
        recorded = {name: value for name, value in attributes.items() if name != "db.operation.batch.size"}
        self._duration.record(time.perf_counter() - begun_s, {**recorded, **ended})
        if span is None:
            return
        span.set_attributes(ended)
        if command.attempts or command.redirects:
            span.set_attributes(
                {"tradewind.retries": command.attempts, "tradewind.redirects": command.redirects}
            )
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end()

    # -- the state -------------------------------------------------------------------------------------------

    def _observe(self, meter: Meter) -> None:
        for metric in METRICS:
            create = (
                meter.create_observable_counter
                if metric.kind is Kind.COUNTER
                else meter.create_observable_up_down_counter
            )
            name = PREFIX + metric.name.removesuffix("_seconds")
            create(name, [partial(self._read, metric)], unit=metric.unit, description=metric.meaning)
        for name, unit, read in POOL_METRICS:
            create = (
                meter.create_observable_counter
                if name.endswith("timeouts")
                else meter.create_observable_up_down_counter
            )
            create(name, [partial(self._read_pool, read)], unit=unit)

    def _read(self, metric: Metric, _options: CallbackOptions) -> Iterator[Observation]:
        for client in tuple(self._clients):
            for labels, value in metric.read(client.stats()):
                yield Observation(value, labels)

    def _read_pool(
        self, read: Callable[[ClientStats], Iterable[Observation]], _options: CallbackOptions
    ) -> Iterator[Observation]:
        for client in tuple(self._clients):
            yield from read(client.stats())


def _ended(end: Callable[[BaseException | None], None], future: "asyncio.Future[Any]") -> None:
    end(asyncio.CancelledError() if future.cancelled() else future.exception())


def _peer(client: "ClientCore", command: "Command") -> Attributes:
    """The node that was contacted last."""
    router = client._router
    node = command.pinned
    if node is None and router is not None and command.slot >= 0:
        node = router.nodes.owners[command.slot]
    if node is None:
        return {}
    host, port = node.endpoint
    return (
        {"network.peer.address": host, "network.peer.port": port} if port else {"network.peer.address": host}
    )


def _failure(error: BaseException | None) -> Attributes:
    """The prefix of the server's error reply, or the class of what the client has to say."""
    if error is None:
        return {}
    code = _status_code(error)
    return (
        {"error.type": code, "db.response.status_code": code}
        if code
        else {"error.type": type(error).__name__}
    )


def _status_code(error: BaseException) -> str:
    if isinstance(error, TradewindError) or not isinstance(error, RedisError):
        return ""
    known = getattr(error, "status_code", None)  # of redis-py 8
    if known:
        return str(known)
    found = ERROR_PREFIX.match(str(error))
    return found[0] if found else "ERR" if isinstance(error, ResponseError) else ""


# -- connection pools, as the convention counts them ---------------------------------------------------------


def _connection_count(stats: ClientStats) -> Iterator[Observation]:
    for node in stats.nodes:
        pool = {"db.client.connection.pool.name": node.name}
        yield Observation(
            node.connections - node.dedicated_idle, {**pool, "db.client.connection.state": "used"}
        )
        yield Observation(node.dedicated_idle, {**pool, "db.client.connection.state": "idle"})


def _connection_max(stats: ClientStats) -> Iterator[Observation]:
    for node in stats.nodes:
        yield Observation(node.connections_max, {"db.client.connection.pool.name": node.name})


def _pending_requests(stats: ClientStats) -> Iterator[Observation]:
    for node in stats.nodes:
        waiting = node.waiting + node.waiting_dedicated
        yield Observation(waiting, {"db.client.connection.pool.name": node.name})


def _timeouts(stats: ClientStats) -> Iterator[Observation]:
    yield Observation(stats.errors.get("Overloaded", 0), {"db.client.connection.pool.name": "all"})


POOL_METRICS = (
    ("db.client.connection.count", "{connection}", _connection_count),
    ("db.client.connection.max", "{connection}", _connection_max),
    ("db.client.connection.pending_requests", "{request}", _pending_requests),
    ("db.client.connection.timeouts", "{timeout}", _timeouts),
)
