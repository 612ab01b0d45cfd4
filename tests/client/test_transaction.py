"""Transactions: all commands with nothing between them, or none; WATCH; and what is left behind: nothing."""

import asyncio
import gc
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import (
    CrossSlotTransactionError,
    DataError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
    WatchError,
)

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import check_idle
from tests.support.fake_server import SILENCE, FakeServer
from tests.support.proxy import ProxiedCluster
from tests.support.waiting import eventually
from tradewind import (
    DeadlineExceeded,
    NodeUnavailable,
    OutcomeUnknown,
    Overloaded,
    RedisCluster,
    SharedConnectionError,
)
from tradewind.client.lane import LaneProtocol
from tradewind.embedded.survey import Admin

# -- without WATCH -------------------------------------------------------------------------------------------


async def test_results_in_order_and_the_pipeline_may_be_used_again(client: RedisCluster) -> None:
    async with client.pipeline(transaction=True) as pipe:
        pipe.set("{t}a", 1).incr("{t}a").hset("{t}h", "f", "v").hgetall("{t}h")
        assert (len(pipe), bool(pipe), repr(pipe)) == (4, True, "<Pipeline transaction of 4 commands>")
        assert await pipe.execute() == [True, 2, 1, {"f": "v"}]
        assert await pipe.execute() == []
        assert await pipe.execute_command("MGET", "{t}a", "{t}none").execute() == [["2", None]]


async def test_a_client_that_is_not_open_yet_is_opened(client: RedisCluster) -> None:
    assert await client.pipeline(transaction=True).set("{t}a", 1).execute() == [True]


async def test_nothing_comes_between_although_all_share_a_connection(client: RedisCluster) -> None:
    async def transact() -> list[Any]:
        pipe = client.pipeline(transaction=True)
        results: list[Any] = await pipe.incr("{t}n").incr("{t}n").get("{t}n").execute()
        return results

    async def disturb() -> None:
        for _ in range(5):
            await client.incr("{t}n")

    await client
    tasks = [asyncio.create_task(transact()) for _ in range(300)]
    await asyncio.gather(*(disturb() for _ in range(100)))
    for first, second, read in await asyncio.gather(*tasks):
        assert (second, read) == (first + 1, str(first + 1))
    assert await client.get("{t}n") == "1100"
    assert sum(node.dedicated for node in client.stats().nodes) == 0
    assert set(client.stats().connections.values()) <= {0, 1}


async def test_a_command_that_fails_when_it_runs_does_not_undo_the_others(client: RedisCluster) -> None:
    await client.set("{t}text", "x")
    pipe = client.pipeline(transaction=True).set("{t}a", 1).lpush("{t}text", 1).set("{t}b", 2)
    with pytest.raises(
        ResponseError, match=r"Command # 2 \(LPUSH {t}text 1\) of pipeline caused error: WRONGTYPE"
    ):
        await pipe.execute()
    assert await client.mget("{t}a", "{t}b") == ["1", "2"]
    first, second = await pipe.set("{t}a", 1).lpush("{t}text", 1).execute(raise_on_error=False)
    assert first is True
    assert isinstance(second, ResponseError)


async def test_a_command_that_is_refused_when_it_is_queued_keeps_all_from_running(
    client: RedisCluster,
) -> None:
    pipe = client.pipeline(transaction=True).set("{t}a", 1).zrem("{t}z").set("{t}b", 2)
    with pytest.raises(
        ResponseError, match=r"Command # 2 \(ZREM {t}z\) of pipeline caused error: wrong number of arg"
    ):
        await pipe.execute(raise_on_error=False)
    assert await client.exists("{t}a", "{t}b") == 0
    assert await pipe.set("{t}z", "zzz").execute() == [True]


async def test_keys_of_several_slots_are_refused_before_anything_is_sent(client: RedisCluster) -> None:
    pipe = client.pipeline(transaction=True).set("a", 1).set("b", 2)
    with pytest.raises(CrossSlotTransactionError, match="must map to the same slot"):
        await pipe.execute()
    assert await client.exists("a", "b") == 0
    with pytest.raises(RedisClusterException, match="At least a command with a key"):
        await client.pipeline(transaction=True).execute_command("PING").execute()
    assert await pipe.execute_command("PUBLISH", "c", "x").set("{t}a", 1).execute() == [0, True]


async def test_what_cannot_be_in_a_transaction_is_refused_before_anything_is_sent(
    client: RedisCluster,
) -> None:
    pipe = client.pipeline(transaction=True)
    for call in (("SUBSCRIBE", "c"), ("MULTI",), ("EXEC",), ("WATCH", "{t}a")):
        pipe.set("{t}a", 1)
        pipe._execution_strategy._command_queue.append((call, {}))
        with pytest.raises(SharedConnectionError):
            await pipe.execute()
    with pytest.raises(DataError):
        await pipe.set("{t}a", 1).set("{t}b", object()).execute()
    with pytest.raises(NotImplementedError):
        pipe.mset_nonatomic({"{t}a": 1})
    assert await client.exists("{t}a") == 0


@pytest.fixture
async def limited_users(clean_cluster: EmbeddedCluster) -> AsyncIterator[None]:
    """`no-multi` and `no-exec`, who may not use that command."""
    for node in clean_cluster.nodes:
        async with Admin(node.port) as admin:
            for name in ("multi", "exec"):
                rules = ("on", "nopass", "~*", "&*", "+@all", f"-{name}")
                await admin.ask("ACL", "SETUSER", f"no-{name}", *rules)
    yield
    for node in clean_cluster.nodes:
        async with Admin(node.port) as admin:
            await admin.ask("ACL", "DELUSER", "no-multi", "no-exec")


async def test_a_user_who_may_not_transact_is_told_what_happened(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, limited_users: None
) -> None:
    """Without the right to MULTI, nothing keeps the commands behind it from running; the error says so."""
    port = clean_cluster.nodes[0].port
    client = make_client(port, username="no-multi", password="x", decode_responses=True)
    with pytest.raises(NoPermissionError, match="ran one by one"):
        await client.pipeline(transaction=True).set("{t}a", 1).execute()
    client = make_client(port, username="no-exec", password="x", decode_responses=True)
    with pytest.raises(NoPermissionError, match="'exec'"):
        await client.pipeline(transaction=True).set("{t}b", 1).execute()
    assert await client.mget("{t}a", "{t}b") == ["1", None], "the connection is as it was"


async def test_a_cancelled_transaction_runs_whole_or_not_at_all(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    """Transfers between two accounts, some of whose callers leave: the sum stays."""
    dice = random.Random(7)
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True, in_flight_max=64)
    await client.mset({"{t}from": 10_000, "{t}to": 0})

    async def transfer() -> bool:
        await client.pipeline(transaction=True).decr("{t}from").incr("{t}to").execute()
        return True

    tasks = []
    for _ in range(60):
        wave = [asyncio.create_task(transfer()) for _ in range(30)]
        tasks += wave
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        for task in dice.sample(wave, 10):
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await check_idle(client)
    source, target = map(int, await client.mget("{t}from", "{t}to"))
    assert source + target == 10_000
    assert results.count(True) <= target < len(tasks)
    assert sum(node.connections_lost for node in client.stats().nodes) == 0


async def test_a_transaction_counts_with_its_commands(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(clean_cluster.nodes[0].port, in_flight_max=10)
    await client
    running = [
        asyncio.create_task(client.pipeline(transaction=True).incr("{t}a").incr("{t}a").execute())
        for _ in range(50)
    ]
    highest = 0
    while not all(task.done() for task in running):
        highest = max(highest, client.stats().in_flight)
        await asyncio.sleep(0)
    assert 10 <= highest < 10 + 4, "one is sent as long as there is any room"


# -- replies that never come ---------------------------------------------------------------------------------


class LostReply:
    """The next reply that contains the text is lost, and its connection is reset. Counts how often."""

    def __init__(self, network: ProxiedCluster, text: bytes) -> None:
        self.times = 0
        self._text = text
        for proxy in network.proxies.values():
            proxy.lose_reply = self._is_it

    def _is_it(self, data: bytes) -> bool:
        if self.times or self._text not in data:
            return False
        self.times += 1
        return True


async def _value(cluster: EmbeddedCluster, key: str) -> int:
    async with Admin((await cluster.primary_of(key)).port) as admin:
        return int(await admin.ask("GET", key) or 0)


async def test_a_transaction_whose_reply_is_lost_runs_once(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap, decode_responses=True)
        await client.get("{t}a")
        lost = LostReply(network, b"QUEUED")
        with pytest.raises(OutcomeUnknown, match="EXEC was sent and its connection ended"):
            await client.pipeline(transaction=True).incr("{t}a").execute()
        assert lost.times == 1
        assert await _value(clean_cluster, "{t}a") == 1


@pytest.mark.parametrize("how", ["idempotent", "always", "reads"])
async def test_a_transaction_that_may_run_twice_is_sent_again(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, how: str
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        options = {"retry": "always"} if how == "always" else {}
        client = make_client(network.port, address_remap=network.address_remap, **options)
        await client.get("{t}a")
        lost = LostReply(network, b"QUEUED")
        view = client.with_options(idempotent=True) if how == "idempotent" else client
        pipe = view.pipeline(transaction=True)
        results = await (pipe.get("{t}a").strlen("{t}a") if how == "reads" else pipe.incr("{t}a")).execute()
        assert lost.times == 1
        assert results == ([None, 0] if how == "reads" else [2])


async def test_a_transaction_without_an_answer_is_unknown_at_its_deadline(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap, socket_timeout=0.5)
        await client.get("{t}a")
        for proxy in network.proxies.values():
            proxy.silent_down = True
        with pytest.raises(OutcomeUnknown, match="EXEC was sent and not answered"):
            await client.pipeline(transaction=True).incr("{t}a").execute()
        with pytest.raises(DeadlineExceeded):
            await client.pipeline(transaction=True).get("{t}a").execute()
        network.heal()
        for proxy in network.proxies.values():
            proxy.reset_all()


# -- WATCH ---------------------------------------------------------------------------------------------------


def dedicated(client: RedisCluster) -> tuple[int, int]:
    """Dedicated connections, and how many of them are in use."""
    router = client._router
    assert router is not None
    sets = [node.dedicated for node in router.nodes]
    return sum(each.count for each in sets), sum(each.count - each.idle for each in sets)


async def test_what_is_watched_and_not_changed(client: RedisCluster) -> None:
    await client.set("{t}a", 1)
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch("{t}a", "{t}b")
        value = int(await pipe.get("{t}a"))
        assert await pipe.hset("{t}h", mapping={"f": "v"}) == 1
        assert await pipe.hgetall("{t}h") == {"f": "v"}
        pipe.multi()
        assert await pipe.set("{t}a", value + 1).get("{t}a").execute() == [True, "2"]
        assert dedicated(client) == (1, 0)
        assert await pipe.get("{t}a").execute() == ["2"], "a plain transaction again"


@pytest.mark.parametrize("empty", [False, True])
async def test_what_is_watched_and_changed(client: RedisCluster, empty: bool) -> None:
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch("{t}a")
        await client.set("{t}a", 5)
        pipe.multi()
        if not empty:
            pipe.set("{t}a", 1)
        with pytest.raises(WatchError, match="Watched variable changed"):
            await pipe.execute()
        assert dedicated(client) == (1, 0)
    assert await client.get("{t}a") == "5"


async def test_an_ended_watch_leaves_no_watch_behind(client: RedisCluster) -> None:
    """The next user of the same connection is not bothered by it."""
    for end in ("reset", "unwatch", "discard", "UNWATCH"):
        async with client.pipeline(transaction=True) as pipe:
            await pipe.watch("{t}a")
            assert dedicated(client) == (1, 1)
            await (pipe.execute_command(end) if end == "UNWATCH" else getattr(pipe, end)())
            assert dedicated(client) == (1, 0)
        await client.incr("{t}a")
        async with client.pipeline(transaction=True) as pipe:
            await pipe.watch("{t}b")
            await client.incr("{t}a")
            pipe.multi()
            assert await pipe.set("{t}b", 1).execute() == [True]
    await pipe.unwatch()
    assert sum(node.dials for node in client.stats().nodes if node.dedicated) == 2, "one of each kind"


async def test_redis_pys_words_for_misuse(client: RedisCluster) -> None:
    async with client.pipeline(transaction=True) as pipe:
        with pytest.raises(RedisClusterException, match="WATCH - all keys must map to the same key slot"):
            await pipe.watch("a", "b")
        await pipe.watch("{t}a")
        for call in (pipe.watch("other"), pipe.get("other")):
            with pytest.raises(CrossSlotTransactionError, match="Cannot watch or send commands on different"):
                await call
        with pytest.raises(SharedConnectionError):
            await pipe.execute_command("SELECT", 1)
        pipe.multi()
        with pytest.raises(RedisError, match="Cannot issue nested calls to MULTI"):
            pipe.multi()
        with pytest.raises(RedisError, match="Cannot issue a WATCH after a MULTI"):
            await pipe.watch("{t}a")
        with pytest.raises(CrossSlotTransactionError):
            await pipe.set("other", 1).execute()
        assert dedicated(client) == (1, 0)
        pipe.set("{t}a", 1)
        with pytest.raises(RedisError, match="Commands without an initial WATCH"):
            pipe.multi()


async def test_target_nodes_cannot_be_had_in_a_transaction(client: RedisCluster) -> None:
    async with client.pipeline(transaction=True) as pipe:
        with pytest.raises(RedisClusterException, match="in a transaction: all of it goes to the owner"):
            pipe.execute_command("GET", "key", target_nodes=RedisCluster.ALL_NODES)


async def test_after_a_watch_that_failed_nothing_runs_unguarded(client: RedisCluster) -> None:
    """Whoever swallows its error would else have a transaction that others' writes do not stop."""
    await client.initialize()
    node = client._need_router().nodes.owners[client.keyslot("{t}a")]
    assert node is not None
    async with client.pipeline(transaction=True) as pipe:
        node.dedicated._count_max, kept = 0, node.dedicated._count_max
        with pytest.raises(SharedConnectionError):
            await pipe.watch("{t}a")
        node.dedicated._count_max = kept
        with pytest.raises(WatchError, match=r"watch\(\) failed \(SharedConnectionError"):
            await pipe.get("{t}a")
        pipe.multi()
        with pytest.raises(WatchError, match=r"watch\(\) failed"):
            await pipe.set("{t}a", "unguarded").execute()
        await pipe.reset()
        await pipe.watch("{t}a")
        pipe.multi()
        assert await pipe.set("{t}b", "guarded").execute() == [True]
    assert await client.mget("{t}a", "{t}b") == [None, "guarded"]


async def test_an_error_of_the_server_does_not_end_the_watch(client: RedisCluster) -> None:
    await client.set("{t}text", "x")
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch("{t}a")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await pipe.lpush("{t}text", 1)
        pipe.multi()
        assert await pipe.set("{t}a", 1).execute() == [True]


async def test_more_watchers_than_connections_wait_in_line(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    client = make_client(clean_cluster.nodes[0].port, decode_responses=True, max_connections=3, lanes=1)
    await client.set("{t}n", 0)

    async def count_up(pipe: Any) -> None:
        value = int(await pipe.get("{t}n"))
        pipe.multi()
        pipe.set("{t}n", value + 1)

    await asyncio.gather(*(client.transaction(count_up, "{t}n") for _ in range(40)))
    assert await client.get("{t}n") == "40"
    assert max(client.stats().connections.values()) <= 3
    held = [client.pipeline(transaction=True) for _ in range(2)]
    for pipe in held:
        await pipe.watch("{t}n")
    with pytest.raises(Overloaded, match="dedicated connections are taken"):
        await client.with_options(timeout_s=0.1).pipeline(transaction=True).watch("{t}n")
    for pipe in held:
        await pipe.reset()
    only_one = make_client(clean_cluster.nodes[0].port, max_connections=1)
    with pytest.raises(SharedConnectionError, match="max_connections=1"):
        await only_one.pipeline(transaction=True).watch("{t}n")


async def test_transaction_runs_its_function_until_nothing_changes(client: RedisCluster) -> None:
    await client.mset({"{t}a": 1, "{t}b": 2})
    runs = 0

    async def add(pipe: Any) -> str:
        nonlocal runs
        runs += 1
        first, second = int(await pipe.get("{t}a")), int(await pipe.get("{t}b"))
        if runs == 1:
            await client.incr("{t}a")
        pipe.multi()
        pipe.set("{t}c", first + second)
        return "value"

    assert await client.transaction(add, "{t}a", "{t}b") == [True]
    assert (runs, await client.get("{t}c")) == (2, "4")
    assert await client.transaction(add, "{t}a", value_from_callable=True, watch_delay=0.01) == "value"
    assert await client.transaction(lambda pipe: pipe.incr("{t}a")) == [3]

    async def fail(_pipe: Any) -> None:
        raise ValueError("of the function")

    with pytest.raises(ValueError, match="of the function"):
        await client.transaction(fail, "{t}a")
    assert dedicated(client)[1] == 0


Stage = Callable[[Any], Awaitable[Any]]
STAGES: dict[str, Stage] = {
    "watch": lambda pipe: pipe.watch("{t}a"),
    "read": lambda pipe: pipe.get("{t}a"),
    "blocked": lambda pipe: pipe.blpop(["{t}none"], 10),
    "execute": lambda pipe: pipe.execute(),
    "reset": lambda pipe: pipe.reset(),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("turns", [0, 1, 2, 5])
async def test_a_cancelled_watcher_leaves_nothing_behind(
    client: RedisCluster, stage: str, turns: int
) -> None:
    await client.set("{t}a", 1)
    pipe = client.pipeline(transaction=True)
    if stage != "watch":
        await pipe.watch("{t}a")
    if stage == "execute":
        pipe.multi()
        pipe.incr("{t}a")
    task = asyncio.ensure_future(STAGES[stage](pipe))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await pipe.reset()
    assert dedicated(client)[1] == 0
    async with client.pipeline(transaction=True) as other:
        await other.watch("{t}b")
        await client.set("{t}a", 1)
        other.multi()
        assert await other.set("{t}b", 1).execute() == [True], "a watch was left on the connection"


async def test_a_watcher_cancelled_as_the_reply_comes_leaves_no_watch_behind(
    client: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.set("{t}a", 1)
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch("{t}b")  # so that there is a connection, and the next that comes is the reply
    task = asyncio.ensure_future(client.pipeline(transaction=True).watch("{t}a"))
    receive = LaneProtocol.data_received

    def receive_and_cancel(protocol: LaneProtocol, data: bytes) -> None:
        receive(protocol, data)
        task.cancel()

    with monkeypatch.context() as patch:
        patch.setattr(LaneProtocol, "data_received", receive_and_cancel)
        await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    async with client.pipeline(transaction=True) as other:
        await other.watch("{t}b")
        await client.set("{t}a", 2)
        other.multi()
        assert await other.set("{t}b", 1).execute() == [True], "a watch was left on the connection"


async def test_a_watcher_that_is_forgotten_leaves_nothing_behind(client: RedisCluster) -> None:
    pipe = client.pipeline(transaction=True)
    await pipe.watch("{t}a")
    assert dedicated(client) == (1, 1)
    forgotten = [pipe]
    del pipe
    collector = threading.Thread(target=lambda: (forgotten.clear(), gc.collect()))
    collector.start()
    collector.join()  # while the loop stands still
    assert dedicated(client) == (1, 1), "another thread leaves it to the loop"
    await eventually(lambda: dedicated(client) == (0, 0))


LOST = "watch was lost .DeadlineExceeded: .*nothing was executed"


async def test_a_watch_that_was_lost_is_not_forgotten(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    """A read that met its deadline: what follows it does not run unwatched over another client's write."""
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(
            network.port, address_remap=network.address_remap, decode_responses=True, socket_timeout=0.5
        )
        other = make_client(clean_cluster.nodes[0].port, decode_responses=True)
        await client.set("{t}a", "before")

        async def lose(pipe: Any) -> None:
            await pipe.watch("{t}a")
            for proxy in network.proxies.values():
                proxy.silent_down = True
            with pytest.raises(DeadlineExceeded):
                await pipe.get("{t}a")
            network.heal()
            for proxy in network.proxies.values():
                proxy.reset_all()
            await other.set("{t}a", "of another")

        pipe = client.pipeline(transaction=True)
        await lose(pipe)
        for _ in range(2):
            for call in (pipe.get("{t}a"), pipe.set("{u}a", 1), pipe.execute_command("GET", "{t}a")):
                with pytest.raises(WatchError, match=LOST):
                    await call
        pipe.multi()
        with pytest.raises(WatchError, match=LOST):
            await pipe.set("{t}a", "overwritten").execute()
        assert await other.get("{t}a") == "of another"
        assert await pipe.set("{t}b", 1).execute() == [True], "execute is the end of it"

        for end in (pipe.reset, pipe.unwatch, pipe.discard):
            await lose(pipe)
            await end()
            assert await pipe.set("{t}b", 1).execute() == [True]
        await lose(pipe)
        with pytest.raises(WatchError, match=LOST):
            await pipe.execute()
        await lose(pipe)
        await eventually(lambda: _begins_anew(pipe))
        pipe.multi()
        assert await pipe.set("{u}a", 1).execute() == [True], "a new watch, of any slot, begins anew"
        assert dedicated(client)[1] == 0


async def _begins_anew(pipe: Any) -> bool:
    """Half a second, the deadline, may be too short for a connection that has just been reset."""
    try:
        await pipe.watch("{u}a")
    except NodeUnavailable:
        return False
    return True


async def test_a_watch_whose_connection_ends_is_begun_anew(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap, decode_responses=True)
        await client.set("{t}a", 1)
        runs = 0

        async def add(pipe: Any) -> None:
            nonlocal runs
            runs += 1
            if runs == 1:
                for proxy in network.proxies.values():
                    proxy.reset_all()
                await eventually(lambda: sum(proxy.connections for proxy in network.proxies.values()) == 0)
            value = int(await pipe.get("{t}a"))
            pipe.multi()
            pipe.set("{t}a", value + 1)

        assert await client.transaction(add, "{t}a") == [True]
        assert (runs, await client.get("{t}a")) == (2, "2")


async def test_an_exec_whose_reply_is_lost_is_unknown_and_runs_once(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap, decode_responses=True)

        def add(pipe: Any) -> None:
            pipe.multi()
            pipe.incr("{t}a")

        await client.get("{t}a")
        lost = LostReply(network, b"QUEUED")
        with pytest.raises(OutcomeUnknown, match="EXEC was sent and its connection ended"):
            await client.transaction(add, "{t}a")
        assert lost.times == 1
        assert await _value(clean_cluster, "{t}a") == 1
        assert dedicated(client)[1] == 0


async def test_with_redis_pys_retries_an_exec_whose_reply_is_lost_is_begun_anew_and_runs_twice(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap, retry="always")

        def add(pipe: Any) -> None:
            pipe.multi()
            pipe.incr("{t}a")

        await client.get("{t}a")
        lost = LostReply(network, b"QUEUED")
        assert await client.transaction(add, "{t}a") == [2]
        assert lost.times == 1


async def test_closing_the_client_ends_a_watch(client: RedisCluster) -> None:
    pipe = client.pipeline(transaction=True)
    await pipe.watch("{t}a")
    await client.aclose()
    pipe.multi()
    with pytest.raises(RedisError):
        await pipe.set("{t}a", 1).execute()
    await pipe.reset()


async def test_closing_the_client_after_exec_was_sent_leaves_its_outcome_unknown(
    make_client: MakeClient,
) -> None:
    async with FakeServer(lambda request: SILENCE if request[0] == b"EXEC" else None) as server:
        client = make_client(server.port)
        pipe = client.pipeline(transaction=True)
        await pipe.watch("{t}a")
        pipe.multi()
        told = asyncio.ensure_future(pipe.incr("{t}a").execute())
        await eventually(lambda: server.count(b"EXEC") == 1)
        await client.aclose()
        with pytest.raises(OutcomeUnknown, match="EXEC was sent"):
            await told


# -- views ---------------------------------------------------------------------------------------------------


async def test_durable_transactions(client: RedisCluster) -> None:
    durable = client.durable()
    results = await asyncio.gather(
        *(durable.pipeline(transaction=True).incr("{t}a").incr("{t}a").execute() for _ in range(50))
    )
    assert sorted(results) == [[2 * n + 1, 2 * n + 2] for n in range(50)]
    assert await durable.pipeline(transaction=True).get("{t}a").execute() == ["100"]
    with pytest.raises(ResponseError, match=r"Command # 2 \(ZREM"):
        await durable.pipeline(transaction=True).incr("{t}a").zrem("{t}z").execute()

    def add(pipe: Any) -> None:
        pipe.multi()
        pipe.incr("{t}a")

    assert await durable.transaction(add, "{t}a") == [101]
    assert await client.durable(replicas=1).transaction(add, "{t}a", value_from_callable=True) is None


async def test_a_transaction_that_too_few_replicas_have_is_unknown(client: RedisCluster) -> None:
    durable = client.durable(replicas=2)
    with pytest.raises(OutcomeUnknown, match="1 of 2 replicas"):
        await durable.pipeline(transaction=True).incr("{t}a").execute()

    def add(pipe: Any) -> None:
        pipe.multi()
        pipe.incr("{t}a")

    with pytest.raises(OutcomeUnknown, match="1 of 2 replicas"):
        await durable.transaction(add, "{t}a")
    assert await client.get("{t}a") == "2"
