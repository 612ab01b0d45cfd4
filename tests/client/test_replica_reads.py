"""Which node answers a read: the choice alone, against a model of shards that lag, fail over, move slots."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from redis.cluster import LoadBalancingStrategy
from redis.exceptions import DataError

from tradewind.client.replica_reads import (
    BENCH_S,
    CHECKPOINTS_MAX,
    NO_KEY,
    History,
    ReadFrom,
    ReplicaReads,
    checked_read_from,
    parse_history,
    read_from_of,
)

SLOTS = (0, 1, 2)
NODES = ("a", "a1", "a2", "b", "b1")


class ModelNode:
    """A server: the writes that it has executed, and whose history they are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.generation = 0
        self.ready = True
        self.log: list[tuple[int, int]] = []  # (slot, number of the write)
        self.history = ""

    def is_ready(self, _now_s: float, _patience_s: float) -> bool:
        return self.ready

    def newest(self, slot: int) -> int:
        return max((number for each, number in self.log if each == slot), default=0)

    def __repr__(self) -> str:
        return self.name


def make_choice(*, read_your_writes: bool = True, now: Any = lambda: 0.0) -> ReplicaReads[ModelNode]:
    return ReplicaReads(read_your_writes=read_your_writes, now=now, compare=lambda _primary: None)


class ShardsThatLag(RuleBasedStateMachine):
    """Two shards; the client hears of failovers and moved slots late, or when it writes there.

    Invariant, checked at each read: a replica that is chosen has every write of the client to the slot that
    had ended before and was not lost by a failover.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes = {name: ModelNode(name) for name in NODES}
        self.shards = {"a": ["a", "a1", "a2"], "b": ["b", "b1"]}  # the primary first
        self.owner_shard = {0: "a", 1: "a", 2: "b"}
        self.histories = 0
        self.writes = 0
        self.ended = dict.fromkeys(SLOTS, 0)
        self.begun: list[tuple[int, int]] = []
        self.answers: list[tuple[ModelNode, History, int]] = []
        self.choice = make_choice()
        self.known_owner: dict[int, ModelNode] = {}
        for shard in self.shards.values():
            self.new_history(shard)
        self.learn_map()

    def primary(self, slot: int) -> ModelNode:
        return self.nodes[self.shards[self.owner_shard[slot]][0]]

    def new_history(self, shard: list[str]) -> None:
        """What its primary has not is lost, for good."""
        self.histories += 1
        self.nodes[shard[0]].history = f"history {self.histories}"
        for slot, number in self.ended.items():
            self.ended[slot] = min(number, self.primary(slot).newest(slot))

    def learn_owner(self, slot: int) -> None:
        owner = self.primary(slot)
        if self.known_owner.get(slot) is not owner:
            self.known_owner[slot] = owner
            self.choice.owner_changed([slot])

    # -- what the servers do --

    @rule(name=st.sampled_from(NODES), count=st.integers(1, 3))
    def replicate(self, name: str, count: int) -> None:
        """A replica that follows another history is brought onto its primary's first."""
        node = self.nodes[name]
        primary = self.nodes[next(shard[0] for shard in self.shards.values() if name in shard)]
        if node is primary:
            return
        common = 0
        while common < min(len(node.log), len(primary.log)) and node.log[common] == primary.log[common]:
            common += 1
        node.history = primary.history
        node.log = primary.log[: max(common, min(common + count, len(primary.log)))]

    @rule(name=st.sampled_from(NODES), kept=st.integers(0, 5))
    def restart(self, name: str, kept: int) -> None:
        """From whatever was on its disk. A primary begins another history then."""
        node = self.nodes[name]
        node.log = node.log[:kept]
        node.generation += 1
        for shard in self.shards.values():
            if shard[0] == name:
                self.new_history(shard)

    @rule(shard=st.sampled_from(["a", "b"]), which=st.integers(1, 2))
    def fail_over(self, shard: str, which: int) -> None:
        members = self.shards[shard]
        which = min(which, len(members) - 1)
        members[0], members[which] = members[which], members[0]
        self.new_history(members)

    @rule(slot=st.sampled_from(SLOTS))
    def move(self, slot: int) -> None:
        """Of a slot that moves away and back unnoticed nothing is promised."""
        self.learn_owner(slot)
        source = self.primary(slot)
        self.owner_shard[slot] = "b" if self.owner_shard[slot] == "a" else "a"
        newest = source.newest(slot)
        if newest:
            self.primary(slot).log.append((slot, newest))

    # -- what the client does --

    @rule()
    def learn_map(self) -> None:
        self.choice.set_shards(
            {
                self.nodes[first]: tuple(self.nodes[name] for name in rest)
                for first, *rest in self.shards.values()
            }
        )
        for slot in SLOTS:
            self.learn_owner(slot)

    @rule(slot=st.sampled_from(SLOTS))
    def begin_write(self, slot: int) -> None:
        self.choice.write_begun(slot)
        self.writes += 1
        self.begun.append((slot, self.writes))

    @rule(which=st.integers(0, 3))
    def end_write(self, which: int) -> None:
        """Executed by the owner, to which a redirect leads."""
        if self.begun:
            slot, number = self.begun.pop(which % len(self.begun))
            self.learn_owner(slot)
            self.primary(slot).log.append((slot, number))
            self.choice.write_ended(slot)
            self.ended[slot] = max(self.ended[slot], number)

    @rule(slot=st.sampled_from(SLOTS))
    def write(self, slot: int) -> None:
        self.begin_write(slot)
        self.end_write(len(self.begun) - 1)

    @rule(name=st.sampled_from(NODES), count=st.sampled_from((0, 1, 100)))
    def compare(self, name: str, count: int) -> None:
        """Ask the primaries, then the replica, and let it get on between."""
        for slot in SLOTS:
            self.ask_primary(slot)
            self.hear_primary(len(self.answers) - 1)
        if count:
            self.replicate(name, count)
        self.ask_replica(name)

    @rule(slot=st.sampled_from(SLOTS))
    def ask_primary(self, slot: int) -> None:
        """The answer takes its time."""
        primary = self.known_owner[slot]
        self.answers.append((primary, self.history(primary), self.choice.sequence))

    @rule(which=st.integers(0, 3))
    def hear_primary(self, which: int) -> None:
        if self.answers:
            self.choice.primary_has(*self.answers.pop(which % len(self.answers)))

    @rule(name=st.sampled_from(NODES))
    def ask_replica(self, name: str) -> None:
        node = self.nodes[name]
        self.choice.replica_has(node, self.history(node), node.generation)

    def history(self, node: ModelNode) -> History:
        is_primary = any(shard[0] == node.name for shard in self.shards.values())
        return History(is_primary, node.history, len(node.log))

    @invariant()
    def no_read_misses_a_write(self) -> None:
        for slot in SLOTS:
            for read_from in ("replica", "replica", "any"):
                self.read(slot, read_from)

    def read(self, slot: int, read_from: ReadFrom) -> None:
        node = self.choice.choose(slot, self.known_owner[slot], read_from)
        if node in (None, self.known_owner[slot]) or node.name not in self.shards[self.owner_shard[slot]][1:]:
            return  # a primary, or one that redirects: no replica of the slot, or without read-only lanes
        number = self.ended[slot]
        assert node.newest(slot) >= number, f"{node} has not the write {number} to slot {slot}"


TestShardsThatLag = ShardsThatLag.TestCase
TestShardsThatLag.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


# -- one by one ------------------------------------------------------------------------------------------


class Shard:
    """A primary and two replicas, all caught up."""

    def __init__(self, *, read_your_writes: bool = True) -> None:
        self.now_s = 0.0
        self.primary, self.first, self.second = (ModelNode(name) for name in ("p", "r1", "r2"))
        self.offset = 0
        self.compared: list[ModelNode] = []
        self.choice: ReplicaReads[ModelNode] = ReplicaReads(
            read_your_writes=read_your_writes, now=lambda: self.now_s, compare=self.compared.append
        )
        self.choice.set_shards({self.primary: (self.first, self.second)})
        self.catch_up(self.first, self.second)

    def catch_up(self, *replicas: ModelNode) -> None:
        self.offset += 10
        self.choice.primary_has(self.primary, History(True, "h", self.offset), self.choice.sequence)
        for node in replicas:
            self.choice.replica_has(node, History(False, "h", self.offset), node.generation)

    def write(self, slot: int) -> None:
        self.choice.write_begun(slot)
        self.choice.write_ended(slot)

    def chosen(self, read_from: ReadFrom, slot: int = 7, reads: int = 60) -> dict[str, int]:
        """How often each node is chosen."""
        names = [str(self.choice.choose(slot, self.primary, read_from)) for _ in range(reads)]
        return {name: names.count(name) for name in sorted(set(names))}


@pytest.mark.parametrize(
    ("read_from", "counts"),
    [
        ("replica", {"r1": 30, "r2": 30}),
        ("prefer_replica", {"r1": 30, "r2": 30}),
        ("any", {"p": 20, "r1": 20, "r2": 20}),
        ("lowest_latency", {"p": 60}),  # nothing has been measured yet
    ],
)
def test_reads_are_spread_evenly(read_from: ReadFrom, counts: dict[str, int]) -> None:
    assert Shard().chosen(read_from) == counts


def test_a_written_slot_is_read_from_its_primary_until_a_replica_has_caught_up() -> None:
    shard = Shard()
    shard.write(7)
    assert shard.chosen("prefer_replica") == shard.chosen("replica") == {"p": 60}
    assert shard.compared
    assert shard.choice.held_back == 120
    assert shard.chosen("replica", slot=8) == {"r1": 30, "r2": 30}, "the other slots are not concerned"
    shard.catch_up(shard.second)
    assert shard.chosen("replica") == {"r2": 60}
    shard.catch_up(shard.first)
    assert shard.chosen("replica") == {"r1": 30, "r2": 30}


def test_a_replica_that_is_always_a_little_behind_still_serves_what_it_has() -> None:
    """Under steady writes it never has all that the primary has at the moment."""
    shard = Shard()
    for _ in range(10 * CHECKPOINTS_MAX):
        shard.write(7)
        shard.offset += 10
        shard.choice.primary_has(shard.primary, History(True, "h", shard.offset), shard.choice.sequence)
    assert shard.chosen("replica") == {"p": 60}
    assert len(shard.choice._checkpoints[shard.primary]) <= CHECKPOINTS_MAX
    shard.write(8)
    assert shard.choice.replica_has(shard.first, History(False, "h", shard.offset + 5), 0)
    assert shard.chosen("replica", slot=7) == {"r1": 60}
    assert shard.chosen("replica", slot=8) == {"p": 60}


def test_a_write_to_every_key_holds_back_all_slots() -> None:
    shard = Shard()
    shard.choice.write_begun(NO_KEY)
    assert shard.chosen("prefer_replica", slot=1) == {"p": 60}
    shard.choice.write_ended(NO_KEY)
    assert shard.chosen("prefer_replica", slot=2) == {"p": 60}
    shard.catch_up(shard.first, shard.second)
    assert shard.chosen("prefer_replica", slot=1) == {"r1": 30, "r2": 30}


def test_without_read_your_writes_nothing_is_held_back() -> None:
    shard = Shard(read_your_writes=False)
    shard.write(7)
    assert shard.chosen("prefer_replica") == {"r1": 30, "r2": 30}
    assert not shard.compared


def test_replicas_that_are_not_ready_are_passed_by() -> None:
    shard = Shard()
    shard.first.ready = False
    assert shard.chosen("replica") == {"r2": 60}
    shard.choice.refused(shard.second)
    assert shard.chosen("prefer_replica") == {"p": 60}
    assert shard.chosen("replica") == {"None": 60}
    shard.now_s += BENCH_S
    assert shard.chosen("replica") == {"r2": 60}
    shard.primary.ready = False
    assert shard.chosen("any") == {"r2": 60}


def test_reads_that_come_from_the_primary_because_no_replica_is_ready_yet_are_counted() -> None:
    shard = Shard()
    shard.first.ready = shard.second.ready = False
    assert shard.chosen("prefer_replica") == {"p": 60}
    assert shard.choice.held_back == 60
    assert shard.chosen("replica") == {"None": 60}
    assert shard.choice.held_back == 60


def test_a_slot_on_its_way_to_another_shard_is_read_from_its_primary_until_it_is_there() -> None:
    shard = Shard()
    shard.choice.is_moving(7)
    assert shard.chosen("replica") == {"p": 60}
    shard.choice.owner_changed([7])
    shard.catch_up(shard.first, shard.second)
    assert shard.chosen("replica") == {"r1": 30, "r2": 30}


def test_the_nearest_node_changes_only_when_another_is_clearly_nearer() -> None:
    shard = Shard()

    def measure(*latencies_ms: float) -> None:
        for _ in range(20):
            for node, latency_ms in zip(
                (shard.primary, shard.first, shard.second), latencies_ms, strict=True
            ):
                shard.choice.measured(node, latency_ms / 1000)
        shard.choice.settle_nearest()

    measure(2.0, 1.0, 3.0)
    assert shard.chosen("lowest_latency") == {"r1": 60}
    measure(0.9, 1.0, 3.0)
    assert shard.chosen("lowest_latency") == {"r1": 60}, "10% are no reason to change"
    measure(0.7, 1.0, 3.0)
    assert shard.chosen("lowest_latency") == {"p": 60}
    shard.primary.ready = False
    assert shard.chosen("lowest_latency") == {"r1": 60}


def test_what_is_known_of_nodes_that_are_gone_is_forgotten() -> None:
    shard = Shard()
    shard.choice.refused(shard.first)
    shard.choice.measured(shard.second, 1.0)
    shard.choice.set_shards({})
    assert not any((shard.choice._proofs, shard.choice._benched, shard.choice._latency_s))
    assert shard.chosen("prefer_replica") == {"p": 60}


# -- words and replies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read_from", "read_from_replicas", "strategy", "meaning"),
    [
        (None, False, None, "primary"),
        (None, True, None, "any"),
        (None, True, LoadBalancingStrategy.ROUND_ROBIN, "any"),
        (None, False, LoadBalancingStrategy.RANDOM, "any"),
        (None, False, LoadBalancingStrategy.ROUND_ROBIN_REPLICAS, "prefer_replica"),
        (None, True, LoadBalancingStrategy.RANDOM_REPLICA, "prefer_replica"),
        ("replica", True, LoadBalancingStrategy.RANDOM, "replica"),
    ],
)
def test_the_options_of_redis_py_in_our_words(
    read_from: str | None, read_from_replicas: bool, strategy: LoadBalancingStrategy | None, meaning: str
) -> None:
    assert read_from_of(read_from, read_from_replicas, strategy) == meaning


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(DataError, match=r"read_from='slave': it must be one of primary, replica"):
        checked_read_from("slave")


@pytest.mark.parametrize(
    ("info", "history"),
    [
        (b"role:master\r\nmaster_replid:abc\r\nmaster_repl_offset:14\r\n", History(True, "abc", 14)),
        (
            "role:slave\r\nmaster_link_status:up\r\nslave_read_repl_offset:20\r\nslave_repl_offset:17\r\n"
            "master_replid:abc\r\nmaster_repl_offset:99\r\n",
            History(False, "abc", 17),
        ),
        ("role:slave\r\nmaster_link_status:down\r\nslave_repl_offset:17\r\nmaster_replid:abc\r\n", None),
        ("role:slave\r\nmaster_link_status:up\r\nslave_repl_offset:-1\r\nmaster_replid:abc\r\n", None),
        ("role:master\r\n", None),
        (None, None),
    ],
)
def test_the_history_of_a_node_is_read_from_info_replication(info: Any, history: History | None) -> None:
    assert parse_history(info) == history
