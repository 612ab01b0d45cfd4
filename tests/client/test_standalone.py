"""In the place of redis.asyncio.Redis: the same class, calls and values, on a single server."""

import asyncio
import functools
import inspect
import ssl
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.connection import BlockingConnectionPool, ConnectionPool, SSLConnection
from redis.credentials import UsernamePasswordCredentialProvider
from redis.exceptions import (
    AuthenticationError,
    DataError,
    LockError,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
)

from tests.client.test_drop_in import CALLS
from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeRedis
from tests.support.proxy import FaultProxy
from tests.support.server import Server
from tests.support.waiting import eventually
from tradewind import ClusterNotReady, OutcomeUnknown, Redis, SharedConnectionError, __version__
from tradewind.client import standalone

OF_A_CLUSTER = ("CLUSTER KEYSLOT", "{d}s")


# -- the same class, calls and values ------------------------------------------------------------------------


async def test_it_is_redis_pys_class(bundled: Server, make_redis: MakeRedis) -> None:
    client = make_redis(bundled.port)
    assert isinstance(client, redis.asyncio.Redis)
    assert await client is client


@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("protocol", [2, 3, None], ids=["resp2", "resp3", "default"])
async def test_the_same_values_as_redis_py(
    server: Server, make_redis: MakeRedis, protocol: int | None, decode: bool
) -> None:
    options: dict[str, Any] = {"protocol": protocol} if protocol else {}  # redis-py 7 takes no None
    options["decode_responses"] = decode
    calls = [call for call in CALLS if call != OF_A_CLUSTER]
    ours = make_redis(server.port, **options)
    answers = [await ours.execute_command(*call) for call in calls]
    await ours.flushall()
    async with redis.asyncio.Redis(port=server.port, **options) as theirs:
        expected = [await theirs.execute_command(*call) for call in calls]
    for call, answer, value in zip(calls, answers, expected, strict=True):
        assert answer == value, call
        assert type(answer) is type(value), call


async def test_the_command_methods(server: Server, make_redis: MakeRedis) -> None:
    client = make_redis(server.port, decode_responses=True)
    assert await client.set("m", 1, ex=10, nx=True) is True
    assert await client.set("m", 2, xx=True, get=True) == "1"
    assert await client.mset({"a": 1, "b": 2, "c": 3}) is True
    assert await client.mget("a", "b", "none") == ["1", "2", None]
    assert await client.delete("a", "b", "c") == 3
    assert await client.rename("m", "other") is True
    assert await client.hset("h", mapping={"a": 1}) == 1
    assert await client.zadd("z", {"a": 1, "b": 2}) == 2
    assert await client.zrange("z", 0, -1, withscores=True) == [("a", 1.0), ("b", 2.0)]
    assert await client.blpop(["l"], timeout=0.01) is None
    assert {key async for key in client.scan_iter(count=1)} == {"other", "h", "z"}
    assert (await client.info("replication"))["role"] == "master"
    assert await client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert await client.dbsize() == 3
    assert await client.publish("nobody", "x") == 0
    assert await client.ping() is True


async def test_scripts_functions_locks_and_views(server: Server, make_redis: MakeRedis) -> None:
    client = make_redis(server.port, decode_responses=True)
    for one in (client, client.with_options(timeout_s=2.0), client.with_options(idempotent=True)):
        script = one.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        assert await script(keys=["n"], args=[5]) == 5
        assert await one.delete("n") == 1
        async with one.lock("lock", timeout=5) as lock:
            assert await lock.owned()
        with pytest.raises(LockError):
            await one.lock("lock").release()
    library = "#!lua name=tests\nredis.register_function('echo', function(keys, args) return args[1] end)"
    await client.function_load(library, replace=True)
    assert await client.fcall("echo", 0, "hello") == "hello"


async def test_ten_thousand_callers_share_one_connection(bundled: Server, make_redis: MakeRedis) -> None:
    client = make_redis(bundled.port, socket_timeout=30)
    await asyncio.gather(*(client.incr("n") for _ in range(10_000)))
    assert await client.get("n") == b"10000"
    assert client.stats().connections == {f"127.0.0.1:{bundled.port}": 1} or len(client.stats().nodes) == 1
    assert sum(client.stats().connections.values()) <= 2


async def test_it_is_closed_and_used_again(bundled: Server, make_redis: MakeRedis) -> None:
    client = make_redis(bundled.port)
    async with client:
        await client.set("a", 1)
        async with client:  # as redis-py counts them
            pass
        assert client.stats().nodes
    assert not client.stats().nodes
    assert repr(client) == "<Redis nodes=0 connections=0 in_flight=0 waiting=0>"
    assert await client.get("a") == b"1"
    assert repr(client) == "<Redis nodes=1 connections=1 in_flight=0 waiting=0>"
    await client.aclose(close_connection_pool=True)


@pytest.mark.parametrize(
    "call",
    [("SELECT", 1), ("MULTI",), ("WATCH", "a"), ("SUBSCRIBE", "c"), ("CLIENT", "REPLY", "OFF"), ("MONITOR",),
     ("HELLO", 3), ("HIMPORT SET", "k", "f", "v")],
    ids=str,
)  # fmt: skip
async def test_what_would_harm_others_on_the_connection_is_refused(
    bundled: Server, make_redis: MakeRedis, call: tuple[Any, ...]
) -> None:
    with pytest.raises(SharedConnectionError, match=r"many callers share: .+"):
        await make_redis(bundled.port).execute_command(*call)


# -- on connections of their own -----------------------------------------------------------------------------


async def test_subscriptions(server: Server, make_redis: MakeRedis) -> None:
    client = make_redis(server.port, decode_responses=True, db=2)
    async with client.pubsub(ignore_subscribe_messages=True) as subscription:
        await subscription.subscribe("news")
        await subscription.psubscribe("news:*")
        await eventually(lambda: _is_heard(client, "news"))
        assert client.stats().nodes[0].dedicated == 1
        await client.publish("news:today", "fine")
        heard: list[Any] = []
        await eventually(lambda: _hear(subscription, heard, 1))
        assert (heard[0]["channel"], heard[0]["data"]) == ("news:today", "fine")
        await client.client_kill_filter(_type="pubsub")  # it subscribes anew
        await eventually(lambda: _publish_until_heard(client, subscription, heard))
    assert client.stats().nodes[0].dedicated == 0


async def _is_heard(client: Redis, channel: str) -> bool:
    return bool(await client.publish(channel, "are you there?"))


async def _hear(subscription: Any, heard: list[Any], count: int) -> bool:
    message = await subscription.get_message(timeout=0.05)
    if message is not None and message["data"] != "are you there?":
        heard.append(message)
    return len(heard) >= count


async def _publish_until_heard(client: Redis, subscription: Any, heard: list[Any]) -> bool:
    await client.publish("news", "again")
    return await _hear(subscription, heard, 2)


async def test_keyspace_notifications_and_monitor(bundled: Server, make_redis: MakeRedis) -> None:
    client = make_redis(bundled.port, decode_responses=True)
    async with client.monitor() as monitor:
        await client.set("watched", 1)
        command = await monitor.next_command()
        assert command["command"] == "SET watched 1"


async def test_a_client_for_what_changes_its_connection(bundled: Server, make_redis: MakeRedis) -> None:
    client = make_redis(bundled.port, decode_responses=True, max_connections=3, lanes=1)
    await client.set("a", "of 0")
    async with client.client() as own:
        assert await own.get("a") == "of 0"
        await own.select(1)
        assert await own.get("a") is None
        assert await own.execute_command("MULTI") == "OK"
        assert not await own.set("a", "of 1")  # queued
        assert await own.execute_command("EXEC") == ["OK"]
        assert client.stats().nodes[0].dedicated == 1
    assert client.stats().nodes[0].dedicated == 0
    assert await client.get("a") == "of 0"


async def test_another_client_from_its_pool(bundled: Server, make_redis: MakeRedis) -> None:
    first = make_redis(bundled.port, db=5)
    async with Redis(connection_pool=first.connection_pool) as second:
        assert (await second.client_info())["db"] == 5
        assert first.stats().nodes == ()
    assert first.connection_pool.connection_kwargs["host"] == "127.0.0.1"


# -- arguments -----------------------------------------------------------------------------------------------


def test_every_argument_of_redis_py_is_known() -> None:
    theirs = set(inspect.signature(redis.asyncio.Redis.__init__).parameters)
    unknown = theirs - standalone.KNOWN - {"self", "maint_notifications_config"}  # the last by its value
    assert not unknown, "honour it, or refuse it with a sentence, and say so in docs/standalone.md"


@pytest.mark.filterwarnings("ignore:.*lib_name:DeprecationWarning")  # redis-py 8 has driver_info as well
async def test_a_connection_is_what_the_arguments_say(bundled: Server, make_redis: MakeRedis) -> None:
    await bundled.ask("CONFIG", "SET", "requirepass", "secret")
    options: dict[str, Any] = {"client_name": "me", "lib_name": "x", "lib_version": "1"}
    info = await make_redis(bundled.port, db=3, password="secret", **options).client_info()
    assert (info["db"], info["name"], info["lib-name"], info["lib-ver"]) == (3, "me", "x", "1")
    provider = UsernamePasswordCredentialProvider("default", "secret")
    info = await make_redis(bundled.port, credential_provider=provider).client_info()
    assert (info["db"], info["lib-name"], info["lib-ver"]) == (0, "tradewind", __version__)
    info = await make_redis(bundled.port, password="secret", lib_name=None, lib_version=None).client_info()
    assert (info["lib-name"], info["lib-ver"]) == ("", "")


async def test_a_driver_on_top_is_named(bundled: Server, make_redis: MakeRedis) -> None:
    driver_info = pytest.importorskip("redis.driver_info", reason="redis-py knows no drivers before 7.2")
    driver = driver_info.DriverInfo().add_upstream_driver("django-redis", "5.4.0")
    info = await make_redis(bundled.port, driver_info=driver).client_info()
    assert (info["lib-name"], info["lib-ver"]) == ("tradewind(django-redis_v5.4.0)", __version__)


@pytest.mark.parametrize("query", ["db=2&decode_responses=yes", "db=2&decode_responses=yes&socket_timeout=3"])
async def test_from_url(bundled: Server, query: str) -> None:
    for url in (f"redis://127.0.0.1:{bundled.port}", f"unix://{bundled.socket_path}"):
        async with Redis.from_url(f"{url}?{query}", lanes=1, retry="always") as client:
            assert isinstance(client, Redis)
            assert await client.set("url", "1") is True
            assert await client.get("url") == "1"
            assert (await client.client_info())["db"] == 2
            assert client._timeout_s == (3 if "socket_timeout" in query else 5)
            assert client._retry_policy.always


async def test_own_options_may_stand_in_a_url(bundled: Server) -> None:
    url = f"redis://127.0.0.1:{bundled.port}?lanes=1&in_flight_max=7&retry=always"
    async with Redis.from_url(url, lanes=2) as client:
        assert await client.ping()
        assert (client._limits.lanes_max, client._limits.in_flight_max) == (1, 7), "the URL has the last word"
        assert client._retry_policy.always


async def test_a_unix_socket(bundled: Server) -> None:
    async with Redis(unix_socket_path=str(bundled.socket_path), socket_connect_timeout=2.0, db="1") as client:
        assert await client.set("a", 1)
        assert client.stats().nodes[0].name == str(bundled.socket_path)
        assert client._timeouts.connect_s == 2.0
    absent = Redis(unix_socket_path="nothing/here.sock", socket_connect_timeout=0.1)
    with pytest.raises(ClusterNotReady, match=r"nothing/here\.sock: .*No such file"):
        await absent


async def test_a_pool_gives_its_settings(bundled: Server) -> None:
    pool = ConnectionPool(port=bundled.port, db=4, decode_responses=True, max_connections=7)
    async with Redis(connection_pool=pool, db=4) as client:
        assert (await client.client_info())["db"] == 4
        assert client.stats().nodes[0].connections_max == 7
    blocking = BlockingConnectionPool(port=bundled.port)
    async with Redis.from_pool(blocking) as client:
        assert isinstance(client, Redis)
        assert await client.ping()
        assert client.stats().nodes[0].connections_max == 50


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [({}, (100, 2)), ({"max_connections": None}, (100, 2)), ({"max_connections": 5, "lanes": 3}, (5, 3)),
     ({"single_connection_client": True}, (100, 1))],
    ids=str,
)  # fmt: skip
def test_limits(arguments: dict[str, Any], limits: tuple[int, int]) -> None:
    client = Redis(**arguments)
    assert (client._limits.connections_max, client._limits.lanes_max) == limits


def test_no_deadline_is_what_none_says() -> None:
    assert Redis()._timeout_s == 5
    assert Redis(socket_timeout=None)._timeout_s == float("inf")


async def test_tls_is_as_redis_py_has_it() -> None:
    client = Redis(ssl=True, ssl_cert_reqs="none", ssl_min_version=ssl.TLSVersion.TLSv1_3)
    assert client._settings.tls is not None
    context = await client._settings.tls.context()
    assert (context.verify_mode, context.minimum_version) == (ssl.CERT_NONE, ssl.TLSVersion.TLSv1_3)
    assert Redis.from_url("rediss://localhost")._settings.tls is not None
    assert Redis(ssl_cert_reqs="none")._settings.tls is None


class _OwnConnection(SSLConnection):
    pass


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Redis(redis_connect_func=print), "redis_connect_func"),
        (lambda: Redis.from_url("redis://localhost?nonsense=1"), "nonsense='1' is not an argument that"),
        (lambda: Redis(connection_pool=ConnectionPool(connection_class=_OwnConnection)), "_OwnConnection"),
        (lambda: Redis(connection_pool=ConnectionPool(), db=1), "db=1 beside a connection_pool"),
        (lambda: Redis(connection_pool=ConnectionPool(parser_class=dict)), "parser_class"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_a_sentence(make: Any, why: str) -> None:
    with pytest.raises(DataError, match=why):
        make()


# -- what goes wrong -----------------------------------------------------------------------------------------


async def test_a_wrong_password_is_said_at_once(bundled: Server, make_redis: MakeRedis) -> None:
    await bundled.ask("CONFIG", "SET", "requirepass", "secret")
    with pytest.raises(AuthenticationError, match=str(bundled.port)):
        await make_redis(bundled.port, password="wrong", socket_connect_timeout=60)
    with pytest.raises(AuthenticationError):
        await make_redis(bundled.port, socket_connect_timeout=60)


async def test_each_caller_of_a_client_that_cannot_be_opened_gets_an_error_of_its_own(
    bundled: Server, make_redis: MakeRedis
) -> None:
    """One error that all raise would grow by a traceback for each."""
    await bundled.ask("CONFIG", "SET", "requirepass", "secret")
    client = make_redis(bundled.port, password="wrong")
    errors = await asyncio.gather(*(client.get("key") for _ in range(20)), return_exceptions=True)
    assert {type(error) for error in errors} == {AuthenticationError}
    assert len({id(error) for error in errors}) == 20
    assert len({str(error) for error in errors}) == 1


async def test_blocking_commands_and_watched_transactions_count_as_commands(
    bundled: Server, make_redis: MakeRedis
) -> None:
    client = make_redis(bundled.port)
    await client.rpush("list", "x")
    assert await client.blpop(["list"], 5)
    async with client.pipeline() as pipe:
        await pipe.watch("key")
        await pipe.get("key")
        pipe.multi()
        await pipe.set("key", 1).set("key", 2).execute()
    assert client.stats().commands == 5, "RPUSH, BLPOP, WATCH, GET, EXEC"


async def test_a_user_may_have_no_other_right_than_its_commands(
    server: Server, make_redis: MakeRedis
) -> None:
    await server.ask("ACL", "SETUSER", "narrow", "on", "nopass", "~*", "+get", "+set", "+blpop")
    client = make_redis(server.port, username="narrow")
    assert await client.set("k", "v", ex=10) is True
    assert await client.get("k") == b"v"
    blocked = asyncio.create_task(client.blpop("list", timeout=0))  # known to block all the same
    assert await client.get("k") == b"v"
    await server.ask("RPUSH", "list", "value")
    assert list(await blocked or ()) == [b"list", b"value"]
    with pytest.raises(NoPermissionError, match="'hset'"):
        await client.hset("k", "f", "v")


async def test_a_database_that_is_not_there_is_said_at_once(bundled: Server, make_redis: MakeRedis) -> None:
    with pytest.raises(ResponseError, match="DB index is out of range"):
        await make_redis(bundled.port, db=99, socket_connect_timeout=60)


async def test_no_server_is_an_error_with_the_reason(make_redis: MakeRedis, bundled: Server) -> None:
    await bundled.stop()
    with pytest.raises(
        ClusterNotReady, match=r"does not serve: 127.0.0.1:\d+: .*onnect.* \(waited 0.\d\d s, \d+ tries\)"
    ):
        await make_redis(bundled.port, socket_connect_timeout=0.2)


async def test_a_node_of_a_cluster_says_which_class_to_use(
    clean_cluster: EmbeddedCluster, make_redis: MakeRedis
) -> None:
    client = make_redis(clean_cluster.nodes[0].port)
    results = await asyncio.gather(*(client.get(f"k{n}") for n in range(50)), return_exceptions=True)
    errors = [result for result in results if result is not None]
    assert errors
    for error in errors:
        assert isinstance(error, ResponseError)
        assert "use tradewind.RedisCluster" in str(error)
    assert len(client.stats().nodes) == 1


async def test_a_server_that_restarts_is_found_again(bundled: Server, make_redis: MakeRedis) -> None:
    client = make_redis(bundled.port, socket_timeout=30)
    await client.set("a", 1)
    await bundled.stop()
    waiting = asyncio.gather(*(client.get("a") for _ in range(100)))
    await eventually(lambda: client.stats().waiting == 100)
    await bundled.start()
    assert await waiting == [None] * 100


async def test_a_busy_server_is_waited_for(bundled: Server, make_redis: MakeRedis) -> None:
    await bundled.ask("CONFIG", "SET", "busy-reply-threshold", 1)
    client = make_redis(bundled.port, socket_timeout=30)
    await client.set("a", 1)
    other = make_redis(bundled.port, socket_timeout=30)
    await other
    endless = asyncio.ensure_future(other.eval("while true do end", 0))
    read = asyncio.ensure_future(client.get("a"))
    await eventually(lambda: client.stats().retries > 0)
    await bundled.ask("SCRIPT", "KILL")
    assert await read == b"1"
    with pytest.raises(ResponseError, match="killed"):
        await endless


async def test_after_a_failover_behind_its_name_it_goes_to_the_new_primary(make_redis: MakeRedis) -> None:
    async with Server() as old, Server("--replicaof", f"127.0.0.1 {old.port}") as new:
        name = FaultProxy(old.port)  # what a DNS name is in production: it leads to whoever is the primary
        await name.start()
        try:
            client = make_redis(name.port, socket_timeout=30, decode_responses=True)
            await client.set("a", "before")
            await client.rpush("list", 1)
            assert await client.blpop(["list"], timeout=5) == ("list", "1")  # a dedicated connection is open
            await eventually(lambda: _is_linked(new))
            await client.durable().set("b", "before")
            await new.ask("REPLICAOF", "NO", "ONE")
            await old.ask("REPLICAOF", "127.0.0.1", new.port)
            name.server_port = new.port
            assert await client.set("a", "after") is True
            await client.rpush("list", 2)
            assert await client.blpop(["list"], timeout=5) == ("list", "2")
            assert await new.ask("GET", "a") == "after"
            await eventually(lambda: _is_linked(old))
            await client.durable().set("b", "after")
            assert client.stats().nodes[0].connections_lost == 0
            await client.aclose()
        finally:
            await name.stop()


async def test_a_replica_that_stays_one_refuses_writes_with_its_own_error(make_redis: MakeRedis) -> None:
    async with Server() as primary, Server("--replicaof", f"127.0.0.1 {primary.port}") as replica:
        client = make_redis(replica.port, socket_timeout=2.5)
        with pytest.raises(ReadOnlyError):
            await client.set("a", 1)
        assert await client.get("a") is None
        assert client.stats().nodes[0].dials <= 4  # at most one in a second


async def test_a_replica_without_its_primary_is_waited_for(make_redis: MakeRedis) -> None:
    options = ("--replicaof", "127.0.0.1 1", "--replica-serve-stale-data", "no")
    async with Server(*options) as replica:
        client = make_redis(replica.port, socket_timeout=30, socket_connect_timeout=30)
        read = asyncio.ensure_future(client.get("a"))
        await asyncio.sleep(0.1)  # it is being opened, and answered MASTERDOWN meanwhile
        assert not read.done()
        await replica.ask("REPLICAOF", "NO", "ONE")
        assert await read is None


async def test_durable_writes(server: Server, make_redis: MakeRedis) -> None:
    client = make_redis(server.port)
    with pytest.raises(OutcomeUnknown, match="0 of 1 replicas"):
        await client.durable().set("a", 1)
    async with Server("--replicaof", f"127.0.0.1 {server.port}", binary=server.binary) as replica:
        await eventually(lambda: _is_linked(replica))
        durable = client.durable()
        assert await asyncio.gather(*(durable.incr("n") for _ in range(100))) == list(range(1, 101))
        assert await replica.ask("GET", "n") == "100"
        assert await durable.flushall() is True  # no key, and one place where it can be meant


async def _is_linked(replica: Server) -> bool:
    info = await replica.ask("INFO", "replication")
    return isinstance(info, dict) and info["master_link_status"] == "up"


async def test_a_lost_reply_of_a_write_is_unknown(bundled: Server, make_redis: MakeRedis) -> None:
    proxy = FaultProxy(bundled.port)
    await proxy.start()
    try:
        client = make_redis(proxy.port, socket_timeout=30)
        await client.set("n", 0)
        proxy.lose_reply = lambda _data: True
        with pytest.raises(OutcomeUnknown):
            await client.incr("n")
        proxy.heal()
        assert await client.get("n") == b"1"
        await client.aclose()
    finally:
        await proxy.stop()


def test_a_callback_that_would_have_to_be_awaited_is_refused() -> None:
    async def later(reply: object) -> object:
        return reply

    class Later:
        async def __call__(self, reply: object) -> object:
            return reply

    for callback in (later, functools.partial(later), Later()):
        with pytest.raises(DataError, match="coroutine function"):
            Redis().set_response_callback("GET", callback)
