"""The engine's functions as the servers run them, called without the engine's own code."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from redis.exceptions import ResponseError

from tests.engine.shards import content
from tests.support.waiting import eventually
from tradewind import RedisCluster
from tradewind.engine.keys import WORKERS_KEY, PartitionKeys

KEYS = PartitionKeys(3)
TODAY, YESTERDAY, TOMORROW = KEYS.ids(20_000), KEYS.ids(19_999), KEYS.ids(20_001)
WORKER = "worker-1"
LONG_MS, SHORT_MS = 60_000, 30
KEEP_S = 1_000


@dataclass
class Commit:
    """One call of the commit function; as it is, it is one that is accepted after `held`."""

    worker: str = WORKER
    epoch: int = 1
    cursor: tuple[str, int] = ("0-0", 0)
    command: str = "7-0"
    drop: int = 0
    keep_s: int = KEEP_S
    events: list[str] = field(default_factory=lambda: ["event one", "event two"])
    answers: dict[str, str] = field(default_factory=lambda: {"A1:id-1": "answer", "A2:id-2": "other"})
    poisoned: dict[str, str] = field(default_factory=lambda: {"{": "no JSON"})
    opened: list[str] = field(default_factory=lambda: ["A1"])
    changes: dict[str, tuple[dict[str, str], list[str]]] = field(
        default_factory=lambda: {"A1": ({"balance": "5", "id": "A1"}, []), "A2": ({}, ["position:3-1"])}
    )

    @property
    def keys(self) -> list[str]:
        fixed = [KEYS.owner, KEYS.cursor, KEYS.events, TODAY, YESTERDAY, TOMORROW]
        return [*fixed, KEYS.commands, KEYS.poison, KEYS.accounts, *map(KEYS.account, self.changes)]

    @property
    def arguments(self) -> list[str | int]:
        words: list[str | int] = [self.worker, self.epoch, *self.cursor, self.command, self.keep_s, self.drop]
        words += [len(self.events), *self.events]
        words += [len(self.answers), *_flat(self.answers), len(self.poisoned), *_flat(self.poisoned)]
        words += [len(self.opened), *self.opened]
        for to_set, to_delete in self.changes.values():
            words += [len(to_set), *_flat(to_set), len(to_delete), *to_delete]
        return words

    async def send(self, client: RedisCluster) -> int:
        return int(await call(client, "commit", self.keys, self.arguments))


def _flat(pairs: dict[str, str]) -> list[str]:
    return [word for pair in pairs.items() for word in pair]


async def call(
    client: RedisCluster, function: str, keys: list[str], arguments: list[str | int] | list[str]
) -> Any:
    return await client.execute_command("FCALL", f"tradewind_{function}", len(keys), *keys, *arguments)


async def acquire(client: RedisCluster, worker: str = WORKER, lease_ms: int = LONG_MS) -> list[Any]:
    return list(await call(client, "acquire", [KEYS.owner], [worker, lease_ms]))


@pytest.fixture
async def held(client: RedisCluster) -> RedisCluster:
    """The lease is held, and every key of the partition has something in it."""
    assert await acquire(client) == [1, 1]
    await client.hset(KEYS.account("A2"), mapping={"id": "A2", "position:3-1": "{}"})
    await client.sadd(KEYS.accounts, "A2")
    await client.hset(TODAY, "A9:today", "kept")
    await client.hset(YESTERDAY, "A9:yesterday", "kept")
    await client.hset(TOMORROW, "A9:tomorrow", "kept")
    await client.xadd(KEYS.commands, {"command": "{}"}, id="7-0")
    await client.xadd(KEYS.poison, {"command": "?", "reason": "?"})
    return client


# -- commit: what is accepted ------------------------------------------------------------------------


async def test_a_commit_applies_everything(held):
    assert await Commit().send(held) == 2
    assert await held.xrange(KEYS.events) == [
        (b"1-0", {b"event": b"event one"}),
        (b"2-0", {b"event": b"event two"}),
    ]
    assert await held.hgetall(TODAY) == {b"A9:today": b"kept", b"A1:id-1": b"answer", b"A2:id-2": b"other"}
    assert KEEP_S - 60 < await held.ttl(TODAY) <= KEEP_S
    assert (await held.xrevrange(KEYS.poison))[0][1] == {b"command": b"{", b"reason": b"no JSON"}
    assert await held.smembers(KEYS.accounts) == {b"A1", b"A2"}
    assert await held.hgetall(KEYS.account("A1")) == {b"balance": b"5", b"id": b"A1"}
    assert await held.hgetall(KEYS.account("A2")) == {b"id": b"A2"}
    assert await held.hgetall(KEYS.cursor) == {b"command": b"7-0", b"sequence": b"2"}
    assert await held.xlen(KEYS.commands) == 1


async def test_commits_follow_one_another(held):
    await Commit().send(held)
    second = Commit(cursor=("7-0", 2), command="9-0", events=["three"], answers={"A1:id-3": "x"})
    assert await second.send(held) == 3
    assert [id for id, _ in await held.xrange(KEYS.events)] == [b"1-0", b"2-0", b"3-0"]
    assert await held.hgetall(KEYS.cursor) == {b"command": b"9-0", b"sequence": b"3"}


async def test_an_empty_commit_moves_the_cursor_alone(held):
    before = await content(held, KEYS)
    nothing = Commit(events=[], answers={}, poisoned={}, opened=[], changes={})
    assert await nothing.send(held) == 0
    after = await content(held, KEYS)
    assert after.pop(KEYS.cursor.encode())
    assert after == before


async def test_the_days_answers_expire_by_their_first_commit(held):
    await held.delete(TODAY)
    await Commit().send(held)
    await held.expire(TODAY, 500)
    await Commit(cursor=("7-0", 2), answers={"A1:id-3": "x"}).send(held)
    assert await held.ttl(TODAY) <= 500


async def test_applied_commands_are_dropped_when_asked(held):
    for number in range(8, 1_008):
        await held.xadd(KEYS.commands, {"command": "{}"}, id=f"{number}-0")
    await Commit(command="1000-0", drop=1).send(held)
    assert await held.xlen(KEYS.commands) < 200
    assert len(await held.xrange(KEYS.commands, min="(1000-0")) == 7


async def test_the_event_sequence_goes_on_past_what_a_float_prints_well(held):
    await held.hset(KEYS.cursor, mapping={"command": "0-0", "sequence": 10**15})
    await Commit(cursor=("0-0", 10**15)).send(held)
    assert await held.hget(KEYS.cursor, "sequence") == b"1000000000000002"
    assert [id for id, _ in await held.xrange(KEYS.events)] == [b"1000000000000001-0", b"1000000000000002-0"]


async def test_a_batch_of_the_largest_size_is_applied(held):
    """The commands of a commit, and the events of a frame that stops out one account more than fits."""
    fields = {f"position:3-{number}": "{}" for number in range(250)}
    large = Commit(
        events=["e"] * 1_000,
        answers={f"A{number}:id": "x" * 200 for number in range(256)},
        opened=[f"A{number}" for number in range(256)],
        changes={f"A{number}": (fields, list(fields)) for number in range(20)},
    )
    assert await large.send(held) == 1_000
    assert await held.xlen(KEYS.events) == 1_000
    assert await held.hlen(TODAY) == 257


# -- commit: what is refused -------------------------------------------------------------------------

Prepare = Callable[[RedisCluster], Awaitable[Any]]


async def refused(client: RedisCluster, commit: Commit, arguments: list[str | int] | None = None) -> str:
    """The server's refusal; nothing on the server has changed by it."""
    before = await content(client, KEYS)
    with pytest.raises(ResponseError) as caught:
        await call(client, "commit", commit.keys, commit.arguments if arguments is None else arguments)
    assert await content(client, KEYS) == before
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"worker": "worker-2"}, "FENCED .*owner is not held by worker-2 in epoch 1"),
        ({"epoch": 2}, "FENCED .*owner is not held by worker-1 in epoch 2"),
        ({"epoch": 0}, "FENCED"),
        ({"cursor": ("1-0", 0)}, "CURSOR is at 0-0 and event 0"),
        ({"cursor": ("0-0", 1)}, "CURSOR is at 0-0 and event 0"),
        ({"answers": {"A1:new": "x", "A9:today": "y"}}, "KNOWN A9:today"),
        ({"answers": {"A1:new": "x", "A9:yesterday": "y"}}, "KNOWN A9:yesterday"),
        ({"answers": {"A1:new": "x", "A9:tomorrow": "y"}}, "KNOWN A9:tomorrow"),
        ({"command": "7", "drop": 1}, "commit: the new command id"),
        ({"command": "7-0-0"}, "commit: the new command id"),
        ({"command": ""}, "commit: the new command id"),
        ({"command": "18446744073709551616-0", "drop": 1}, "commit: the new command id"),
        ({"keep_s": 0}, "commit: the ids cannot be kept"),
        ({"keep_s": -1}, "commit: the ids cannot be kept"),
        ({"keep_s": 10**18}, "commit: the ids cannot be kept"),
    ],
)
async def test_a_refused_commit_leaves_every_key_untouched(held, change: dict[str, Any], message: str):
    assert re.match(message, await refused(held, replace(Commit(), **change)))
    assert await Commit().send(held) == 2


async def test_a_lease_that_was_lost_refuses_and_one_that_only_ended_does_not(held):
    await call(held, "release", [KEYS.owner], [WORKER, 1])
    assert await Commit().send(held) == 2  # nobody else has it: what was decided still holds
    assert await acquire(held, "worker-2") == [1, 2]
    assert (await refused(held, Commit(cursor=("7-0", 2)))).startswith("FENCED")


async def test_a_commit_that_is_sent_again_is_refused(held):
    await Commit().send(held)
    assert await refused(held, Commit()) == "CURSOR is at 7-0 and event 2"


@pytest.mark.parametrize(
    "key", [*Commit().keys[:9], KEYS.account("A1"), KEYS.account("A2")], ids=lambda key: key.split(":", 2)[2]
)
async def test_a_key_of_another_type_refuses_the_commit(held, key: str):
    await held.delete(key)
    await held.set(key, "not ours")
    message = await refused(held, Commit())
    assert message.startswith(("WRONGTYPE", "commit: changes of"))
    assert key in message


def _counts() -> list[int]:
    """Where in the arguments the counts stand."""
    commit, places = Commit(), [7]
    for list_length in (2, 4, 2, 1, 4, 0, 0):
        places.append(places[-1] + 1 + list_length)
    arguments = commit.arguments
    assert [arguments[place] for place in places] == [2, 2, 1, 1, 2, 0, 0, 1]
    return places


@pytest.mark.parametrize("count", ["-1", "", "many", "3", "1000000000", "inf", "nan"])
async def test_counts_that_do_not_add_up_refuse_the_commit(held, count: str):
    for place in _counts():
        arguments = Commit().arguments
        arguments[place] = count
        assert (await refused(held, Commit(), arguments)).startswith("commit: "), place


@pytest.mark.parametrize("change", [lambda words: words[:-1], lambda words: [*words, "more"]])
async def test_arguments_too_few_or_too_many_refuse_the_commit(held, change: Callable[[Any], Any]):
    assert (await refused(held, Commit(), change(Commit().arguments))).startswith("commit: ")


@pytest.mark.parametrize(
    "change",
    [
        {"answers": {f"A1:{number}": "x" for number in range(4_500)}},
        {"opened": [f"A{number}" for number in range(9_000)]},
        {"changes": {"A1": ({f"f{number}": "x" for number in range(4_500)}, [])}},
        {"changes": {"A1": ({}, [f"f{number}" for number in range(9_000)])}},
    ],
    ids=["answers", "accounts", "fields to set", "fields to delete"],
)
async def test_a_list_too_long_to_be_applied_is_refused_before_the_first_write(held, change: dict[str, Any]):
    assert (await refused(held, replace(Commit(), **change))).startswith("commit: ")


async def test_events_ahead_of_the_cursor_refuse_the_commit(held):
    await held.xadd(KEYS.events, {"event": "not by a commit"}, id="1-0")
    assert "equal or smaller" in await refused(held, Commit())


# -- leases ------------------------------------------------------------------------------------------


async def test_a_lease_has_one_holder(client):
    assert await acquire(client) == [1, 1]
    granted, epoch, holder, left_ms = await acquire(client, "worker-2")
    assert (granted, epoch, holder) == (0, 1, WORKER.encode())
    assert 0 < left_ms <= LONG_MS


async def test_of_many_who_want_a_lease_one_gets_it(client):
    replies = await asyncio.gather(*(acquire(client, f"worker-{number}") for number in range(20)))
    assert sum(reply[0] for reply in replies) == 1


async def test_the_holder_may_take_its_lease_anew(client):
    await acquire(client)
    assert await acquire(client) == [1, 2]
    assert await call(client, "renew", [KEYS.owner], [WORKER, 1, LONG_MS]) == 0


async def test_an_expired_lease_goes_to_who_asks(client):
    await acquire(client, lease_ms=SHORT_MS)

    async def granted() -> bool:
        return (await acquire(client, "worker-2"))[:2] == [1, 2]

    await eventually(granted)
    assert await call(client, "renew", [KEYS.owner], [WORKER, 1, LONG_MS]) == 0
    assert await call(client, "release", [KEYS.owner], [WORKER, 1]) == 0
    assert await client.hget(KEYS.owner, "worker") == b"worker-2"


async def test_a_renewed_lease_lasts_from_now(client):
    await acquire(client, lease_ms=SHORT_MS)
    before_ms = int(await client.hget(KEYS.owner, "expires_ms"))
    assert await call(client, "renew", [KEYS.owner], [WORKER, 1, LONG_MS]) == 1
    assert int(await client.hget(KEYS.owner, "expires_ms")) >= before_ms + LONG_MS - SHORT_MS
    assert (await acquire(client, "worker-2"))[0] == 0


async def test_a_lease_that_expired_and_nobody_took_can_be_renewed(client):
    await acquire(client, lease_ms=0)
    assert await call(client, "renew", [KEYS.owner], [WORKER, 1, LONG_MS]) == 1


async def test_a_released_lease_is_free_at_once_and_its_epoch_goes_on(client):
    await acquire(client)
    assert await call(client, "release", [KEYS.owner], [WORKER, 1]) == 1
    assert await acquire(client, "worker-2") == [1, 2]


@pytest.mark.parametrize(("worker", "epoch"), [("worker-2", 1), (WORKER, 2), (WORKER, 0)])
async def test_only_the_holder_in_its_epoch_renews_and_releases(client, worker: str, epoch: int):
    await acquire(client)
    before = await content(client, KEYS)
    assert await call(client, "renew", [KEYS.owner], [worker, epoch, LONG_MS]) == 0
    assert await call(client, "release", [KEYS.owner], [worker, epoch]) == 0
    assert await content(client, KEYS) == before


async def test_an_epoch_never_repeats(client):
    """Whatever workers do with the lease, each grant has a larger epoch than all before."""
    chance = random.Random(7)
    granted: list[int] = []
    for _ in range(300):
        worker = f"worker-{chance.randrange(3)}"
        epoch = granted[-1] if granted else 0
        match chance.randrange(4):
            case 0 | 1:
                reply = await acquire(client, worker, chance.choice((0, LONG_MS)))
                granted += [reply[1]] if reply[0] else []
            case 2:
                await call(client, "release", [KEYS.owner], [worker, epoch])
            case 3:
                await call(client, "renew", [KEYS.owner], [worker, epoch, chance.choice((0, LONG_MS))])
    assert len(granted) > 50
    assert granted == list(range(1, len(granted) + 1))


async def test_a_key_that_is_no_lease_is_refused(client):
    await client.set(KEYS.owner, "not ours")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await acquire(client)


# -- the list of workers -----------------------------------------------------------------------------


async def beat(client: RedisCluster, worker: str, lease_ms: int) -> list[bytes]:
    return list(await call(client, "heartbeat", [WORKERS_KEY], [worker, lease_ms]))


async def test_workers_that_beat_are_on_the_list(client):
    assert await beat(client, "b", LONG_MS) == [b"b"]
    assert set(await beat(client, "a", LONG_MS)) == {b"a", b"b"}
    assert set(await beat(client, "a", LONG_MS)) == {b"a", b"b"}


async def test_a_worker_that_leaves_is_off_the_list_at_once(client):
    await beat(client, "a", LONG_MS)
    await beat(client, "b", LONG_MS)
    assert await beat(client, "a", 0) == [b"b"]


async def test_a_worker_that_stops_beating_is_off_the_list(client):
    await beat(client, "a", SHORT_MS)

    async def alone() -> bool:
        return await beat(client, "b", LONG_MS) == [b"b"]

    await eventually(alone)
