"""Blocking code: redis-py's synchronous API, any number of threads over the lanes of one background loop."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
import redis
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.exceptions import DataError, LockError, ResponseError, WatchError

from tests.client.test_drop_in import CALLS
from tests.programs import output_of
from tests.support.children import exit_code_of, start_child
from tests.support.server import Server
from tests.threads.conftest import MakeBlocking
from tradewind import ClusterNotReady, OutcomeUnknown, Overloaded, SharedConnectionError
from tradewind.threads import Redis, RedisCluster
from tradewind.threads.background import background

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """The results of `work(0)`, `work(1)`..., each in a thread of its own, all at once."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s"
        time.sleep(0.002)


# -- the same classes, calls and values ----------------------------------------------------------------------


def test_they_are_redis_pys_classes(port: int, make_blocking: MakeBlocking, server: Server) -> None:
    assert isinstance(make_blocking(RedisCluster, port), redis.RedisCluster)
    assert isinstance(make_blocking(Redis, server.port), redis.Redis)


@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("kind", ["cluster", "server"])
def test_the_same_values_as_redis_py(
    port: int, server: Server, make_blocking: MakeBlocking, kind: str, decode: bool
) -> None:
    calls = [call for call in CALLS if kind == "cluster" or call[0] != "CLUSTER KEYSLOT"]
    of_ours, of_theirs = (RedisCluster, redis.RedisCluster) if kind == "cluster" else (Redis, redis.Redis)
    where = port if kind == "cluster" else server.port
    ours = make_blocking(of_ours, where, decode_responses=decode)
    answers = [ours.execute_command(*call) for call in calls]
    ours.flushall()
    with of_theirs(host="127.0.0.1", port=where, decode_responses=decode) as theirs:
        if kind == "cluster":
            theirs.flushall(target_nodes=redis.RedisCluster.PRIMARIES)
        expected = [theirs.execute_command(*call) for call in calls]
    for call, answer, value in zip(calls, answers, expected, strict=True):
        assert answer == value, call
        assert type(answer) is type(value), call


def test_reads_come_from_replicas_and_from_memory(port: int, make_blocking: MakeBlocking) -> None:
    client = make_blocking(RedisCluster, port, decode_responses=True, read_from="prefer_replica", protocol=3)
    cached = client.cached(ttl_s=60)
    for number in range(200):
        client.set("number", number)
        assert [client.get("number"), cached.get("number"), cached.get("number")] == [str(number)] * 3
    assert client.stats().cache.hits == 200
    deadline_s = time.monotonic() + 10
    while not client.stats().replica_reads:
        assert client.with_options(read_from="replica").get("number") == "199"
        assert time.monotonic() < deadline_s
    client.close()


def test_the_command_methods_of_a_cluster(port: int, make_blocking: MakeBlocking) -> None:
    client = make_blocking(RedisCluster, port, decode_responses=True)
    values = {f"multi:{number}": str(number) for number in range(50)}
    assert all(client.mset_nonatomic(values))
    assert client.mget_nonatomic(list(values)) == list(values.values())
    assert set(client.scan_iter("multi:*", count=7)) == set(values)
    assert client.with_options(idempotent=True).delete(*values) == 50
    assert client.durable().set("a", 1) is True
    assert client.blpop(["{x}list"], timeout=0.01) is None
    assert client.ping(target_nodes=RedisCluster.ALL_NODES) is True
    assert client.dbsize(target_nodes=client.get_primaries()) == 1
    assert (len(client.get_nodes()), len(client.get_replicas())) == (6, 3)
    owner = client.get_node_from_key("a")
    assert owner in client.get_primaries()
    assert client.execute_command("DBSIZE", target_nodes={"owner": owner}) == 1
    assert client.get_redis_connection(owner).get("a") == "1"
    assert client.set_default_node(owner)
    assert client.get_default_node() is owner
    assert client.keyslot("a") == 15495
    pipe = client.pipeline()
    pipe.set("p:a", 1).incr("p:a").mset_nonatomic({"p:b": 1, "p:c": 2})
    assert len(pipe) == 4
    assert pipe.execute() == [True, 2, True, True]


@pytest.mark.parametrize("kind", ["cluster", "server"])
def test_scripts_locks_and_subscriptions(
    port: int, server: Server, make_blocking: MakeBlocking, kind: str
) -> None:
    client = (
        make_blocking(RedisCluster, port, decode_responses=True)
        if kind == "cluster"
        else make_blocking(Redis, server.port, decode_responses=True)
    )
    for one in (client, client.with_options(timeout_s=2.0)):
        assert one.register_script("return redis.call('INCR', KEYS[1])")(keys=["n"]) in (1, 2)
        with one.lock("lock", timeout=5) as lock:
            assert lock.owned()
            assert not client.lock("lock", blocking=False).acquire()
        with pytest.raises(LockError):
            one.lock("lock").release()
    with client.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.subscribe("news")
        wait_until(lambda: client.publish("news", "?") > 0)
        client.publish("news", "!")
        heard: list[str] = []
        wait_until(lambda: heard.extend(_texts(subscription)) or "!" in heard)
    wait_until(lambda: sum(node.dedicated for node in client.stats().nodes) == 0)


def _texts(subscription: Any) -> Iterator[str]:
    message = subscription.get_message(timeout=0.05)
    if message is not None:
        yield message["data"]


@pytest.mark.parametrize("kind", ["cluster", "server"])
def test_transactions(port: int, server: Server, make_blocking: MakeBlocking, kind: str) -> None:
    of_cluster = kind == "cluster"
    client = make_blocking(RedisCluster if of_cluster else Redis, port if of_cluster else server.port)
    with client.pipeline(transaction=True) as pipe:
        assert pipe.set("{t}a", 1).incr("{t}a").execute() == [True, 2]
        pipe.watch("{t}a")
        assert pipe.get("{t}a") == b"2"
        client.incr("{t}a")
        pipe.multi()
        pipe.set("{t}a", 0)
        with pytest.raises(WatchError):
            pipe.execute()

    def add_one(pipe: Any) -> None:
        value = int(pipe.get("{t}a"))
        pipe.multi()
        pipe.set("{t}a", value + 1)

    in_threads(5, lambda _number: client.transaction(add_one, "{t}a"))
    assert client.get("{t}a") == b"8"


def test_a_script_in_a_pipeline_is_loaded(server: Server, make_blocking: MakeBlocking) -> None:
    client = make_blocking(Redis, server.port)
    pipe = client.pipeline()
    script = client.register_script("return redis.call('INCRBY', KEYS[1], 5)")
    script(keys=["n"], client=pipe)
    assert pipe.execute() == [5]


def test_sharded_subscriptions(port: int, make_blocking: MakeBlocking) -> None:
    client = make_blocking(RedisCluster, port, decode_responses=True)
    with client.pubsub() as subscription:
        subscription.ssubscribe("{a}news", "{b}news")
        wait_until(lambda: client.spublish("{a}news", "?") > 0 and client.spublish("{b}news", "!") > 0)
        heard: set[str] = set()

        def is_heard() -> bool:
            message = subscription.get_sharded_message(timeout=0.05)
            if message is not None and message["type"] == "smessage":
                heard.add(message["channel"])
            return heard == {"{a}news", "{b}news"}

        wait_until(is_heard)


def test_what_changes_a_connection_has_one_of_its_own(server: Server, make_blocking: MakeBlocking) -> None:
    client = make_blocking(Redis, server.port, decode_responses=True)
    with pytest.raises(SharedConnectionError, match=r"client\.client\(\)"):
        client.execute_command("SELECT", 1)
    client.set("a", "of 0")
    with client.client() as own:
        own.select(1)
        assert own.get("a") is None
    assert client.get("a") == "of 0"
    with client.monitor() as monitor:
        client.set("watched", 1)
        assert monitor.next_command()["command"] == "SET watched 1"


def test_from_url_and_pools(server: Server) -> None:
    with Redis.from_url(f"redis://127.0.0.1:{server.port}/3?decode_responses=1", lanes=1) as client:
        assert client.client_info()["db"] == 3
        with Redis(connection_pool=client.connection_pool) as second:
            assert second.client_info()["db"] == 3
    pool = redis.ConnectionPool(port=server.port, db=4)
    with Redis(connection_pool=pool) as client:
        assert client.client_info()["db"] == 4
    with Redis(unix_socket_path=str(server.socket_path), db=5) as client:
        assert client.client_info()["db"] == 5


def test_a_subscription_may_be_the_first_use(port: int, make_blocking: MakeBlocking) -> None:
    client = make_blocking(RedisCluster, port)
    with client.pubsub() as subscription:
        subscription.subscribe("first")
        assert subscription.get_message(timeout=5)["type"] == "subscribe"
    assert client.nodes_manager.connection_kwargs["decode_responses"] is False


def test_a_cluster_from_url_or_nodes(port: int) -> None:
    with RedisCluster.from_url(f"redis://127.0.0.1:{port}", decode_responses=True) as client:
        assert client.set("a", 1)
        assert client.get("a") == "1"
    node = redis.cluster.ClusterNode("127.0.0.1", port)
    with RedisCluster(startup_nodes=[node]) as client:
        assert client.get("a") == b"1"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Redis(cache_config=object()),
        lambda: Redis(redis_connect_func=print),
        lambda: Redis(ssl=True, ssl_validate_ocsp=True),
        lambda: RedisCluster(host="localhost", cache=object()),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_a_sentence(make: Callable[[], Any]) -> None:
    with pytest.raises(DataError, match="leave it out"):
        make()


# -- views ---------------------------------------------------------------------------------------------------


def _write_it(pipe: Any) -> None:
    pipe.get("d:w")
    pipe.multi()
    pipe.set("d:w", 1)


WAYS_TO_WRITE: dict[str, Callable[[Any], object]] = {
    "other options": lambda view: view.with_options(timeout_s=5).set("d:w", 1),
    "durable again": lambda view: view.durable().set("d:w", 1),
    "lock": lambda view: view.lock("d:w", timeout=5).acquire(),
    "pipeline": lambda view: view.pipeline().set("d:w", 1).execute(),
    "transaction in a pipeline": lambda view: view.pipeline(transaction=True).set("d:w", 1).execute(),
    "transaction": lambda view: view.transaction(_write_it, "d:w"),
    "of a view of it": lambda view: view.with_options(timeout_s=5).pipeline().set("d:w", 1).execute(),
}


@pytest.mark.parametrize("way", WAYS_TO_WRITE)
@pytest.mark.parametrize("kind", ["cluster", "server"])
def test_what_is_made_from_a_durable_view_is_durable(
    port: int, server: Server, make_blocking: MakeBlocking, kind: str, way: str
) -> None:
    of_cluster = kind == "cluster"
    client = make_blocking(RedisCluster if of_cluster else Redis, port if of_cluster else server.port)
    with pytest.raises(OutcomeUnknown, match="of 5 replicas confirmed it"):
        WAYS_TO_WRITE[way](client.durable(replicas=5))


def test_a_view_has_nothing_that_would_lose_its_options(port: int, make_blocking: MakeBlocking) -> None:
    client = make_blocking(RedisCluster, port)
    view = client.with_options(idempotent=True, read_from="prefer_replica").durable()
    assert (view.call.idempotent, view.call.read_from, view.call.replicas) == (True, "prefer_replica", 1)
    for name in ("get_redis_connection", "call_each_slot", "post"):
        with pytest.raises(AttributeError, match="use the client itself"):
            getattr(view, name)
    assert view.get_nodes() == client.get_nodes()


# -- threads -------------------------------------------------------------------------------------------------


def test_two_hundred_threads_share_the_lanes(port: int, make_blocking: MakeBlocking) -> None:
    client = make_blocking(RedisCluster, port, socket_timeout=50)

    def work(number: int) -> None:
        for step in range(50):
            client.set(f"{number}:{step}", f"value {number}:{step}")
            client.incr(f"counter:{step}")
            assert client.get(f"{number}:{step}") == b"value %d:%d" % (number, step)

    in_threads(200, work)
    assert sum(int(client.get(f"counter:{step}")) for step in range(50)) == 10_000
    assert max(client.stats().connections.values()) <= 2


def test_at_a_limit_threads_wait_in_line(server: Server, make_blocking: MakeBlocking) -> None:
    client = make_blocking(Redis, server.port, in_flight_max=2, max_connections=3, socket_timeout=50)
    in_threads(100, lambda number: [client.incr("n") for _ in range(20)])
    assert client.get("n") == b"2000"
    in_threads(20, lambda number: client.blpop(["nothing"], timeout=0.02))


def test_when_all_dedicated_connections_are_taken_the_next_thread_is_told(
    server: Server, make_blocking: MakeBlocking
) -> None:
    client = make_blocking(Redis, server.port, max_connections=3, socket_timeout=0.3)
    with client.client() as first:
        first.ping()
        with pytest.raises(Overloaded, match="all 1 dedicated connections are taken"):
            client.client()
        assert client.ping()


def test_errors_are_those_of_the_async_client(server: Server, make_blocking: MakeBlocking) -> None:
    client = make_blocking(Redis, server.port)
    client.set("text", "x")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        client.lpush("text", 1)
    with pytest.raises(DataError):
        client.set("text", object())
    nobody = Redis(port=1, socket_connect_timeout=0.1)
    with pytest.raises(ClusterNotReady):
        nobody.get("a")


def test_it_is_closed_and_used_again(server: Server, make_blocking: MakeBlocking) -> None:
    client = make_blocking(Redis, server.port)
    with client:
        client.set("a", 1)
        assert repr(client) == "<threads.Redis nodes=1 connections=1 in_flight=0 waiting=0>"
    assert client.stats().nodes == ()
    assert client.get("a") == b"1"


def test_a_client_that_nobody_has_any_more_is_closed(server: Server, make_blocking: MakeBlocking) -> None:
    watcher = make_blocking(Redis, server.port)
    Redis(port=server.port, client_name="dropped").get("a")
    wait_until(lambda: "dropped" not in [item["name"] for item in watcher.client_list()])


async def test_it_may_be_called_in_another_event_loop(port: int) -> None:
    with RedisCluster(host="127.0.0.1", port=port) as client:
        assert client.set("a", 1)


def test_in_the_background_loop_it_is_refused(server: Server, make_blocking: MakeBlocking) -> None:
    client = make_blocking(Redis, server.port)
    client.get("a")
    errors: list[str] = []
    told = threading.Event()

    def call(_nothing: None) -> None:
        for attempt in (lambda: client.get("a"), lambda: client.keys()):
            try:
                attempt()
            except RuntimeError as error:
                errors.append(str(error))
        told.set()

    background().hand_over(call, None)
    assert told.wait(10)
    assert len(errors) == 2
    assert all("would wait for itself" in error for error in errors)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
@pytest.mark.parametrize(
    "call", [lambda c: c.set("a", 2), lambda c: c.blpop(["none"], timeout=0)], ids=["plain", "blocking"]
)
def test_an_interrupted_call_leaves_no_damage(
    server: Server, make_blocking: MakeBlocking, call: Callable[[Redis], Any]
) -> None:
    client, other = make_blocking(Redis, server.port, socket_timeout=50), make_blocking(Redis, server.port)
    client.set("a", 1)
    other.client_pause(50_000, all=False)  # writes are not answered
    with _interrupt_after(0.2), pytest.raises(KeyboardInterrupt):
        call(client)
    assert other.get("a") == b"1"
    other.client_unpause()
    wait_until(lambda: client.stats().in_flight == 0)
    assert client.incr("n") == 1
    assert client.stats().nodes[0].dedicated <= 1


def test_an_interrupt_as_a_right_is_given_takes_no_connection_away(
    server: Server, make_blocking: MakeBlocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_blocking(Redis, server.port, max_connections=2, lanes=1, socket_timeout=2)
    client.ping()
    run = background().run

    def run_and_be_interrupted(begin: Callable[[], Any]) -> None:
        run(begin)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(background(), "run", run_and_be_interrupted)
        client.connection_pool.get_connection()
    assert client.stats().nodes[0].dedicated == 0
    with client.client() as alone:
        assert alone.ping()


def test_nodes_that_have_left_the_cluster_are_forgotten(port: int, make_blocking: MakeBlocking) -> None:
    client = make_blocking(RedisCluster, port)
    nodes = client.get_nodes()
    client._nodes.show(AsyncClusterNode("127.0.0.1", 1))
    assert client._core._router is not None
    background().hand_over(lambda router: router.refresh_soon(), client._core._router)
    wait_until(lambda: "127.0.0.1:1" not in client._nodes._nodes)
    assert client.get_nodes() == nodes
    assert all(mine is before for mine, before in zip(client.get_nodes(), nodes, strict=True))


@contextlib.contextmanager
def _interrupt_after(seconds: float) -> Iterator[None]:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- processes -----------------------------------------------------------------------------------------------


@FORKS
def test_forked_workers_have_connections_of_their_own(port: int, make_blocking: MakeBlocking) -> None:
    """As Celery's prefork pool, or a server that loads its application before it forks."""
    client = make_blocking(RedisCluster, port, client_name="prefork", socket_timeout=50)
    client.set("before", 1)

    def work() -> None:
        def count(_number: int) -> None:
            for _ in range(25):
                client.incr("n")

        in_threads(8, count)
        assert client.get("before") == b"1"

    busy = threading.Thread(target=work)
    busy.start()
    children = [start_child(work) for _ in range(4)]
    assert [exit_code_of(pid) for pid in children] == [0] * 4
    busy.join()
    assert client.get("n") == b"1000"
    assert sum(node.connections_lost for node in client.stats().nodes) == 0


@FORKS
def test_a_child_of_a_child_works_as_well(server: Server, make_blocking: MakeBlocking) -> None:
    client = make_blocking(Redis, server.port)
    client.incr("n")

    def work() -> None:
        client.incr("n")
        assert exit_code_of(start_child(lambda: client.incr("n"))) == 0
        client.incr("n")

    assert exit_code_of(start_child(work)) == 0
    assert client.incr("n") == 5


PROGRAM = """
import sys, threading
if {without_uvloop}:
    sys.modules["uvloop"] = None
from tradewind.threads import Redis
client = Redis(port={port}, decode_responses=True)
client.set("exit", "fine")
threading.Thread(target=client.blpop, args=(["nothing"], 0), daemon=True).start()
subscription = client.pubsub()
subscription.subscribe("x")
print(client.get("exit"))
"""


@pytest.mark.parametrize("without_uvloop", [False, True], ids=["uvloop", "asyncio"])
def test_a_program_ends_without_closing_anything(server: Server, without_uvloop: bool) -> None:
    program = PROGRAM.format(port=server.port, without_uvloop=without_uvloop)
    assert output_of("-c", program) == "fine\n"


def test_the_async_client_needs_no_thread() -> None:
    assert output_of("-c", "import tradewind, sys; print('tradewind.threads' in sys.modules)") == "False\n"
