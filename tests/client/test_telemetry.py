"""OpenTelemetry and Prometheus, with their own SDKs: spans, durations, metrics, and their names."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import db_attributes, network_attributes
from opentelemetry.semconv._incubating.metrics import db_metrics
from opentelemetry.semconv.attributes import db_attributes as stable_db_attributes
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from redis.exceptions import ResponseError

from tests.conftest import EmbeddedCluster
from tests.programs import output_of
from tests.support.client_fixtures import MakeClient
from tests.support.fake_server import HANG_UP, FakeServer, bulk
from tests.support.waiting import eventually
from tradewind import OutcomeUnknown, RedisCluster, threads
from tradewind.client.metrics import DISTRIBUTIONS, METRICS, Kind
from tradewind.client.prometheus import PREFIX, PrometheusCollector
from tradewind.client.telemetry import PREFIX as OTEL_PREFIX
from tradewind.client.telemetry import Telemetry


class Recorded:
    """What the SDK was told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.telemetry = Telemetry(tracer_provider=self.tracers, meter_provider=self.meters)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    async def names(self, count: int) -> list[str]:
        """Of the spans, once there are so many: one ends in the turn after its caller's."""
        await eventually(lambda: len(self.spans) >= count)
        return sorted(span.name for span in self.spans)

    def forget(self) -> None:
        self._exporter.clear()

    def metrics(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    recorded = Recorded()
    yield recorded
    recorded.meters.shutdown()
    recorded.tracers.shutdown()


@pytest.fixture
async def traced(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, recorded: Recorded
) -> AsyncIterator[RedisCluster]:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True, telemetry=recorded.telemetry)
    await client.initialize()
    yield client
    await client.aclose()


# -- spans -------------------------------------------------------------------------------------------------


async def test_every_way_to_call_gets_a_span_a_command(traced: RedisCluster, recorded: Recorded) -> None:
    await traced.set("{a}1", 1)
    await traced.get("{a}1")
    await traced.set("{a}1", 2, ex=10)
    await traced.mget("{a}1", "{a}2")
    await traced.execute_command("PING", target_nodes=traced.get_default_node())
    await traced.with_options(idempotent=True).incr("{a}1")
    await traced.durable().incr("{a}1")
    await traced.blpop(["{a}empty"], 0.01)
    traced.post("INCR", "{a}1")
    expected = ["BLPOP", "GET", "INCR", "INCRBY", "INCRBY", "MGET", "PING", "SET", "SET"]
    assert await recorded.names(len(expected)) == expected


async def test_a_pipeline_is_its_commands_and_a_transaction_is_one(
    traced: RedisCluster, recorded: Recorded
) -> None:
    async with traced.pipeline() as pipeline:
        await pipeline.set("a", 1).get("b").execute()
    assert await recorded.names(2) == ["GET", "SET"]
    recorded.forget()
    async with traced.pipeline(transaction=True) as pipeline:
        await pipeline.set("{a}1", 1).get("{a}2").execute()
    assert await recorded.names(1) == ["MULTI"]
    assert recorded.spans[0].attributes is not None
    assert recorded.spans[0].attributes[stable_db_attributes.DB_OPERATION_BATCH_SIZE] == 2


async def test_a_span_says_what_was_called_where_and_no_argument(
    traced: RedisCluster, recorded: Recorded
) -> None:
    await traced.set("secret-key", "secret-value")
    await recorded.names(1)
    (span,) = recorded.spans
    owner = traced.get_node_from_key("secret-key")
    first = traced.startup_nodes[0]
    assert owner is not None
    assert span.kind is SpanKind.CLIENT
    assert dict(span.attributes or {}) == {
        stable_db_attributes.DB_SYSTEM_NAME: "redis",
        stable_db_attributes.DB_OPERATION_NAME: "SET",
        stable_db_attributes.DB_NAMESPACE: "0",
        server_attributes.SERVER_ADDRESS: first.host,
        server_attributes.SERVER_PORT: int(first.port),
        network_attributes.NETWORK_PEER_ADDRESS: owner.host,
        network_attributes.NETWORK_PEER_PORT: int(owner.port),
    }
    assert "secret" not in span.to_json()


async def test_a_span_belongs_to_the_callers_trace(traced: RedisCluster, recorded: Recorded) -> None:
    tracer = recorded.tracers.get_tracer("test")

    async def order(name: str) -> int:
        with tracer.start_as_current_span(name) as parent:
            await asyncio.gather(traced.get("a"), traced.get("b"))
            return parent.get_span_context().span_id

    parents = await asyncio.gather(order("one"), order("two"))
    await recorded.names(6)
    children = [span.parent.span_id for span in recorded.spans if span.name == "GET" and span.parent]
    assert sorted(children) == sorted([*parents, *parents])


async def test_an_error_of_the_server_is_its_prefix(traced: RedisCluster, recorded: Recorded) -> None:
    await traced.set("key", "text")
    recorded.forget()
    with pytest.raises(ResponseError):
        await traced.incr("key")
    with pytest.raises(ResponseError):
        await traced.lpush("key", 1)
    await recorded.names(2)
    codes = [(span.attributes or {})[stable_db_attributes.DB_RESPONSE_STATUS_CODE] for span in recorded.spans]
    assert codes == ["ERR", "WRONGTYPE"]
    for span in recorded.spans:
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})[error_attributes.ERROR_TYPE] in codes


async def test_an_error_of_the_client_is_its_class(make_client: MakeClient, recorded: Recorded) -> None:
    async with FakeServer(lambda request: HANG_UP if request[0] == b"SET" else None) as server:
        client = make_client(server.port, telemetry=recorded.telemetry)
        with pytest.raises(OutcomeUnknown):
            await client.set("key", 1)
        await recorded.names(1)
        attributes = recorded.spans[0].attributes or {}
        assert attributes[error_attributes.ERROR_TYPE] == "OutcomeUnknown"
        assert stable_db_attributes.DB_RESPONSE_STATUS_CODE not in attributes
        await client.aclose()


async def test_retries_and_cancellation_are_seen(make_client: MakeClient, recorded: Recorded) -> None:
    def answer(request: list[bytes]) -> bytes | None:
        if request[0] == b"GET":
            return b"-TRYAGAIN later\r\n" if server.count(b"GET") == 1 else bulk("v")
        return b"" if request[0] == b"SET" else None

    async with FakeServer(answer) as server:
        client = make_client(server.port, telemetry=recorded.telemetry)
        assert await client.get("key") == b"v"
        call = asyncio.create_task(client.set("key", 1))
        await eventually(lambda: server.count(b"SET") == 1)
        call.cancel()
        await recorded.names(2)
        got, cancelled = (span.attributes or {} for span in recorded.spans)
        assert got["tradewind.retries"] == 1
        assert cancelled[error_attributes.ERROR_TYPE] == "CancelledError"
        server.drop_all()
        await client.aclose()


async def test_without_spans_there_are_durations(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, recorded: Recorded
) -> None:
    telemetry = Telemetry(
        tracer_provider=recorded.tracers, meter_provider=recorded.meters, spans=False, system="valkey"
    )
    client = make_client(clean_cluster.nodes[0].port, telemetry=telemetry)
    await client.set("key", 1)
    await eventually(lambda: db_metrics.DB_CLIENT_OPERATION_DURATION in recorded.metrics())
    assert recorded.spans == ()
    (point,) = recorded.metrics()[db_metrics.DB_CLIENT_OPERATION_DURATION].data.data_points
    assert point.attributes[stable_db_attributes.DB_SYSTEM_NAME] == "valkey"


async def test_a_client_without_telemetry_takes_the_short_way(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(clean_cluster.nodes[0].port)
    await client.initialize()
    assert not {"_send", "_dispatch", "_block"} & vars(client).keys()
    loaded = output_of("-c", "import sys, tradewind; print(*sys.modules)").split()
    assert "tradewind.client.telemetry" not in loaded


async def test_calls_of_threads_have_spans_as_well(
    clean_cluster: EmbeddedCluster, recorded: Recorded
) -> None:
    def call() -> None:
        with threads.RedisCluster(
            host="127.0.0.1", port=clean_cluster.nodes[0].port, telemetry=recorded.telemetry
        ) as client:
            client.set("key", 1)
            client.get("key")

    await asyncio.to_thread(call)
    assert await recorded.names(2) == ["GET", "SET"]


async def test_true_is_the_global_providers(clean_cluster: EmbeddedCluster, make_client: MakeClient) -> None:
    client = make_client(clean_cluster.nodes[0].port, telemetry=True)
    assert await client.set("key", 1) is True


# -- metrics of OpenTelemetry ------------------------------------------------------------------------------


async def test_durations_are_as_the_convention_wants_them(traced: RedisCluster, recorded: Recorded) -> None:
    await traced.set("key", 1)
    await traced.get("key")
    await recorded.names(2)
    duration = recorded.metrics()[db_metrics.DB_CLIENT_OPERATION_DURATION]
    assert duration.unit == "s"
    points = {
        point.attributes[stable_db_attributes.DB_OPERATION_NAME]: point for point in duration.data.data_points
    }
    assert points.keys() == {"SET", "GET"}
    assert points["GET"].explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
    assert points["GET"].count == 1
    assert 0 < points["GET"].sum < 5


async def test_the_pool_metrics_have_the_conventions_names(traced: RedisCluster, recorded: Recorded) -> None:
    await traced.blpop(["empty"], 0.01)
    metrics = recorded.metrics()
    names = {name for name in metrics if name.startswith("db.client.connection.")}
    assert names == {
        db_metrics.DB_CLIENT_CONNECTION_COUNT,
        db_metrics.DB_CLIENT_CONNECTION_MAX,
        db_metrics.DB_CLIENT_CONNECTION_PENDING_REQUESTS,
        db_metrics.DB_CLIENT_CONNECTION_TIMEOUTS,
    }
    stats = traced.stats()
    counted: dict[str, dict[str, int]] = {}
    for point in metrics[db_metrics.DB_CLIENT_CONNECTION_COUNT].data.data_points:
        pool = point.attributes[db_attributes.DB_CLIENT_CONNECTION_POOL_NAME]
        counted.setdefault(pool, {})[point.attributes[db_attributes.DB_CLIENT_CONNECTION_STATE]] = point.value
    assert {name: sum(states.values()) for name, states in counted.items()} == dict(stats.connections)
    assert sum(states["idle"] for states in counted.values()) == 1


async def test_the_clients_state_is_observed_and_a_client_that_is_gone_is_not(
    traced: RedisCluster, recorded: Recorded
) -> None:
    await asyncio.gather(*(traced.incr(f"key:{number}") for number in range(20)))
    observed = {name: metric for name, metric in recorded.metrics().items() if name.startswith(OTEL_PREFIX)}
    assert observed[OTEL_PREFIX + "commands"].data.data_points[0].value == 20
    assert observed[OTEL_PREFIX + "slots_covered"].data.data_points[0].value == 16384
    await traced.aclose()
    recorded.metrics()


# -- Prometheus --------------------------------------------------------------------------------------------


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def scraped(registry: CollectorRegistry) -> dict[str, Any]:
    text = generate_latest(registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


async def test_a_scrape_has_what_stats_has(client: RedisCluster, registry: CollectorRegistry) -> None:
    registry.register(PrometheusCollector(client, name="orders"))
    await asyncio.gather(*(client.incr(f"key:{number}") for number in range(20)))
    await client.durable().incr("key")
    families, stats = await asyncio.to_thread(scraped, registry), client.stats()
    assert families.keys() == {PREFIX + item.name for item in (*METRICS, *DISTRIBUTIONS)}
    (commands,) = families[PREFIX + "commands"].samples
    assert (commands.name, commands.value) == (PREFIX + "commands_total", stats.commands)
    assert commands.labels == {"client": "orders"}
    connections = {
        (sample.labels["node"], sample.labels["kind"]): sample.value
        for sample in families[PREFIX + "connections"].samples
    }
    assert connections == {
        **{(node.name, "lane"): node.lanes for node in stats.nodes},
        **{(node.name, "dedicated"): node.dedicated for node in stats.nodes},
    }
    for name, of_node in (("reply_seconds", "replies"), ("durable_seconds", "durable")):
        counts = {
            sample.labels["node"]: sample.value
            for sample in families[PREFIX + name].samples
            if sample.name.endswith("_count")
        }
        assert counts == {node.name: getattr(node, of_node).count for node in stats.nodes}


def test_the_names_of_metrics_are_as_prometheus_wants_them() -> None:
    for metric in METRICS:
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
        assert metric.name.endswith("_seconds") == (metric.unit == "s")
        assert metric.kind in Kind
    assert all(distribution.name.endswith("_seconds") for distribution in DISTRIBUTIONS)


def test_a_client_that_is_closed_can_be_scraped(registry: CollectorRegistry) -> None:
    registry.register(PrometheusCollector(RedisCluster(host="127.0.0.1")))
    assert scraped(registry)[PREFIX + "commands"].samples[0].value == 0
