"""redis-py's constructor arguments: each is honoured, or refused with a sentence; none is ignored."""

import inspect
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import ClusterDownError, DataError, OutOfMemoryError, RedisClusterException
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.fake_server import HANG_UP, FakeServer, bulk
from tradewind import Redis, RedisCluster
from tradewind.client.settings import HONOURED, OWN_ARGUMENTS, OWN_CLUSTER_ARGUMENTS, REFUSED, named_arguments

KNOWN_TO_REDIS_PY = set(inspect.signature(redis.asyncio.RedisCluster.__init__).parameters) - {"self"}
needs_redis_py_8 = pytest.mark.skipif("driver_info" not in KNOWN_TO_REDIS_PY, reason="redis-py 7 has it not")


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


def test_every_argument_of_redis_py_is_honoured_or_refused() -> None:
    assert not KNOWN_TO_REDIS_PY - HONOURED - REFUSED.keys()
    assert not HONOURED & REFUSED.keys()


def test_an_argument_of_a_newer_redis_py_is_refused_when_it_is_given() -> None:
    def constructor(self: Any, host: str | None = None, warp_speed: int = 1) -> None: ...

    assert named_arguments(constructor, ("somewhere",), {}) == {"host": "somewhere"}
    with pytest.raises(RedisClusterException, match="warp_speed is an argument of a redis-py newer than"):
        named_arguments(constructor, (), {"warp_speed": 9})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"db": 3}, "db=3: a cluster has one database"),
        ({"path": "/tmp/redis.sock"}, "reached by TCP"),
        ({"policy_resolver": object()}, "leave it out, and name nodes with target_nodes"),
        pytest.param(
            {"maint_notifications_config": type("On", (), {"enabled": True})()},
            "are not listened to",
            marks=needs_redis_py_8,
        ),
        ({"retry": "sometimes"}, 'pass "always", or a Retry of redis-py'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_refused_says_what_to_do(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RedisClusterException, match=sentence):
        RedisCluster(host="127.0.0.1", **options)


def test_an_unknown_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="no_such_argument"):
        RedisCluster(host="127.0.0.1", no_such_argument=1)


@pytest.mark.parametrize("kind", [RedisCluster, Redis])
@pytest.mark.parametrize(("wrong", "right"), [("lane", "lanes"), ("decode_response", "decode_responses")])
def test_an_unknown_argument_is_told_with_the_nearest_that_is_known(
    kind: type[Any], wrong: str, right: str
) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'; did you mean '{right}'"):
        kind(host="127.0.0.1", **{wrong: 1})


def test_tradewinds_own_arguments_are_known_by_name() -> None:
    for kind, names in ((RedisCluster, OWN_CLUSTER_ARGUMENTS), (Redis, OWN_ARGUMENTS)):
        parameters = inspect.signature(kind.__init__).parameters.values()
        own = {item.name for item in parameters if item.kind is item.KEYWORD_ONLY}
        assert own - {"connection_pool"} == set(names)


@pytest.mark.parametrize("kind", [RedisCluster, Redis])
@pytest.mark.parametrize("name", ["socket_timeout", "socket_connect_timeout"])
def test_a_timeout_in_which_nothing_could_be_answered_is_refused(kind: type[Any], name: str) -> None:
    for seconds in (0, -1, "0"):
        with pytest.raises(ValueError, match=f"{name}="):
            kind(host="127.0.0.1", **{name: seconds})


@pytest.mark.parametrize("seconds", [0, -1.0])
def test_a_view_without_time_is_refused(seconds: float) -> None:
    client = RedisCluster(host="127.0.0.1")
    for make in (client.with_options, client.durable):
        with pytest.raises(DataError, match=f"timeout_s={seconds}: more than 0 seconds"):
            make(timeout_s=seconds)


def test_defaults_and_positions_are_accepted() -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(redis.asyncio.RedisCluster.__init__).parameters.items()
        if name in KNOWN_TO_REDIS_PY and name != "host"
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        RedisCluster("127.0.0.1", **defaults)
    client = RedisCluster(None, 6379, [ClusterNode("127.0.0.1", 7000)])
    assert [node.name for node in client.startup_nodes] == ["127.0.0.1:7000"]
    assert client.connection_kwargs["socket_timeout"] == 5


async def test_a_retry_object_bounds_the_tries_and_sets_their_pace(
    server: FakeServer, make_client: MakeClient
) -> None:
    server.answer = lambda request: b"-CLUSTERDOWN down\r\n" if request[0] == b"GET" else None
    for retries in (0, 3):
        server.requests.clear()
        client = make_client(server.port, retry=Retry(ConstantBackoff(0.001), retries))
        with pytest.raises(ClusterDownError):
            await client.get("key")
        assert server.count(b"GET") == 1 + retries


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_the_number_of_attempts_bounds_the_tries_when_it_is_given(
    server: FakeServer, make_client: MakeClient
) -> None:
    server.answer = lambda request: HANG_UP if request[0] == b"GET" else None
    with pytest.raises(RedisConnectionError):
        await make_client(server.port, cluster_error_retry_attempts=2).get("key")
    assert server.count(b"GET") == 3


async def test_retry_on_error_repeats_reads_and_what_is_idempotent(
    server: FakeServer, make_client: MakeClient
) -> None:
    def refuse_twice(request: list[bytes]) -> bytes | None:
        name = request[0]
        if name in (b"GET", b"SET", b"INCRBY") and server.count(name) < 3:
            return b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
        return bulk("v") if name == b"GET" else None

    server.answer = refuse_twice
    client = make_client(server.port, retry_on_error=[OutOfMemoryError])
    assert await client.get("key") == b"v"
    assert await client.with_options(idempotent=True).set("key", 1) is True
    with pytest.raises(OutOfMemoryError):
        await client.incr("key")
    assert server.count(b"INCRBY") == 1


async def test_the_errors_of_a_retry_object_count_as_well(
    server: FakeServer, make_client: MakeClient
) -> None:
    def refuse_once(request: list[bytes]) -> bytes | None:
        if request[0] != b"GET":
            return None
        return b"-OOM full\r\n" if server.count(b"GET") == 1 else bulk("v")

    server.answer = refuse_once
    client = make_client(server.port, retry=Retry(NoBackoff(), 3, (OutOfMemoryError,)))
    assert await client.get("key") == b"v"


async def test_only_the_given_addresses_are_asked_for_the_map(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    port = clean_cluster.nodes[0].port
    for dynamic, asked in ((True, True), (False, False)):
        client = make_client(port, dynamic_startup_nodes=dynamic)
        await client.initialize()
        names = {node.name for node in client._router.nodes.to_ask()}  # type: ignore[union-attr]
        assert (len(names) > 1) is asked
        assert f"127.0.0.1:{port}" in names


@pytest.mark.parametrize(("steps", "refreshes"), [(5, True), (0, False)])
async def test_without_reinitialize_steps_a_moved_is_news_about_its_own_slot(
    server: FakeServer, make_client: MakeClient, steps: int, refreshes: bool
) -> None:
    async with FakeServer(lambda request: bulk("there") if request[0] == b"GET" else None) as other:
        moved = f"-MOVED 12539 127.0.0.1:{other.port}\r\n".encode()  # the slot of "key"
        server.answer = lambda request: moved if request[0] == b"GET" else None
        client = make_client(server.port, reinitialize_steps=steps)
        assert await client.get("key") == b"there"
        assert await client.get("key") == b"there"
        assert server.count(b"GET") == 1
        assert (client._router._refresher._timer is not None) is refreshes  # type: ignore[union-attr]
        await client.aclose()


@needs_redis_py_8
async def test_a_library_over_the_client_names_itself(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    from redis.driver_info import DriverInfo

    named = DriverInfo().add_upstream_driver("django-redis", "5.4.0")
    expected = [
        ({}, "tradewind"),
        ({"driver_info": named}, "tradewind(django-redis_v5.4.0)"),
        ({"driver_info": DriverInfo(name="mine", lib_version="3")}, "mine"),
        ({"driver_info": None}, ""),
    ]
    for options, name in expected:
        client = make_client(clean_cluster.nodes[0].port, decode_responses=True, **options)
        await client.initialize()
        info = await client.execute_command("CLIENT INFO", target_nodes=client.get_default_node())
        assert info.get("lib-name", "") == name


@needs_redis_py_8
async def test_replies_larger_than_socket_read_size_arrive_whole(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(clean_cluster.nodes[0].port, socket_read_size=4096)
    await client.set("key", "v" * 100_000)
    assert len(await client.get("key")) == 100_000


@pytest.mark.parametrize("name", ["lanes", "in_flight_max", "in_flight_bytes_max", "slow_command_s"])
def test_own_options_may_be_text_as_in_a_url_and_say_so_when_they_are_no_numbers(name: str) -> None:
    assert RedisCluster(host="localhost", **{name: "7"})
    with pytest.raises(ValueError, match=f"{name}='many': a number of at least"):
        RedisCluster(host="localhost", **{name: "many"})


@pytest.mark.parametrize("name", ["max_connections", "lanes", "in_flight_max", "in_flight_bytes_max"])
def test_a_limit_of_nothing_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0: a number of at least 1 is needed"):
        RedisCluster(host="localhost", **{name: 0})
