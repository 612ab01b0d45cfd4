"""Which node answers a read: the decisions, without any I/O.

A read may go to a replica if the replica is known to have all that this client has written to the slot:

1. Every write of this client counts the `sequence` up when it ends, and stamps its slot with it. A slot with
   a write under way, or one that is moving to another shard, is read from its primary.
2. A comparison begins by noting the sequence; then the primary is asked for its replication id and offset:
   a `Checkpoint`. A replica that says, then or later, the same id and an offset that is no smaller has
   everything that the primary had executed when it was asked, so every write that had ended before. That is
   a `Proof`.
3. A replica is fresh for a slot if its proof is about the slot's primary of now, is as new as the slot's
   stamp, and has been given over the connections that are open now: a server that was restarted may have
   forgotten. After a failover the ids differ, so only comparisons with the new primary count. Without any
   proof it serves nothing, so one that has lost its primary long ago is not asked when a client starts.
4. A slot that comes to another owner is stamped anew: what was moved may not be on the new owner's replicas.

So a read shows at least what the slot's primary, as this client knows it, had executed at some moment after
this client's last write to the slot ended. One stamp for each of 16,384 slots, one proof for each replica and
a few checkpoints for each primary are all that is kept.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar, get_args

from redis.cluster import LoadBalancingStrategy
from redis.exceptions import DataError

from tradewind.client.slot_news import NO_KEY
from tradewind.client.topology import SLOT_COUNT

ReadFrom = Literal["primary", "replica", "prefer_replica", "lowest_latency", "any"]
READ_FROM = get_args(ReadFrom)

OVERDUE_S = 0.25  # who owes a reply for so long is passed by as long as another node can answer
BENCH_S = 1.0  # ... and so is a replica that refused a read (LOADING, MASTERDOWN...), for so long
LATENCY_WEIGHT = 0.3  # of the newest measurement
NEARER_BY = 0.8  # another node becomes the nearest when its latency is below this part of the old one's
CHECKPOINTS_MAX = 64  # for each primary


class Source(Protocol):
    """A node, as far as reads are concerned."""

    @property
    def generation(self) -> int:
        """Changes whenever a shared connection of the node is opened or lost."""

    def is_ready(self, now_s: float, patience_s: float) -> bool:
        """It is connected, and owes no reply for longer than `patience_s`."""


N = TypeVar("N", bound=Source)


class Proof(NamedTuple, Generic[N]):
    """The replica had all that `primary` had executed when `sequence` was noted."""

    primary: N
    sequence: int
    generation: int


class History(NamedTuple):
    """What `INFO REPLICATION` says of a node's data: whose history it is, and how far it has been applied."""

    is_primary: bool
    replication_id: str
    offset: int

    def includes(self, primary: "History") -> bool:
        """This replica has everything that the primary had."""
        return (
            primary.is_primary
            and not self.is_primary
            and self.replication_id == primary.replication_id
            and self.offset >= primary.offset
        )


def parse_history(info: Any) -> History | None:
    """From the reply of `INFO REPLICATION`; None if it does not say, or the replica is without its primary.

    Of a replica's two offsets it is `slave_repl_offset` that counts what has been executed.
    """
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else str(info)
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    is_primary = fields.get("role") == "master"
    if not is_primary and fields.get("master_link_status") != "up":
        return None
    offset = fields.get("master_repl_offset" if is_primary else "slave_repl_offset", "")
    replication_id = fields.get("master_replid", "")
    return History(is_primary, replication_id, int(offset)) if replication_id and offset.isdigit() else None


class Checkpoint(NamedTuple):
    """What the primary had after `sequence` was noted."""

    sequence: int
    history: History


class ReplicaReads(Generic[N]):
    """Chooses the node for each read. Not thread safe.

    `compare` is called with a primary whose replicas are not known to be fresh enough for a read that was
    just asked for: primary and replicas should be asked for their histories.
    """

    def __init__(
        self, *, read_your_writes: bool, now: Callable[[], float], compare: Callable[[N], None]
    ) -> None:
        self.sequence = 0  # writes of this client that have ended, and slots that changed hands
        self.held_back = 0  # reads that went to the primary because no replica was fresh
        self._read_your_writes = read_your_writes
        self._now = now
        self._compare = compare
        self._stamps = array("Q", bytes(8 * SLOT_COUNT))
        self._stamp_of_all = 0
        self._under_way: Counter[int] = Counter()  # writes, by slot
        self._moving: set[int] = set()
        self._replicas: dict[N, tuple[N, ...]] = {}
        self._checkpoints: dict[N, list[Checkpoint]] = {}
        self._proofs: dict[N, Proof[N]] = {}
        self._benched: dict[N, float] = {}  # until when
        self._latency_s: dict[N, float] = {}
        self._nearest: dict[N, N] = {}  # by primary
        self._turn = 0

    # -- own writes ------------------------------------------------------------------------------------------

    def write_begun(self, slot: int) -> None:
        """To be called before the write is sent; `slot` may be NO_KEY."""
        self._under_way[slot] += 1

    def write_ended(self, slot: int) -> None:
        """To be called when it is over, answered or not, and before its caller hears of it."""
        self._under_way[slot] -= 1
        if not self._under_way[slot]:
            del self._under_way[slot]
        self.sequence += 1
        if slot == NO_KEY:
            self._stamp_of_all = self.sequence
        else:
            self._stamps[slot] = self.sequence

    # -- topology --------------------------------------------------------------------------------------------

    def set_shards(self, replicas: Mapping[N, tuple[N, ...]]) -> None:
        """The replicas of each primary. What is known of nodes that are gone is forgotten."""
        self._replicas = dict(replicas)
        nodes = {node for primary, others in replicas.items() for node in (primary, *others)}
        for known in (self._checkpoints, self._proofs, self._benched, self._latency_s, self._nearest):
            for node in [node for node in known if node not in nodes]:
                del known[node]

    def owner_changed(self, slots: Iterable[int]) -> None:
        """These slots have another primary than before."""
        self.sequence += 1
        for slot in slots:
            self._stamps[slot] = self.sequence
            self._moving.discard(slot)

    def is_moving(self, slot: int) -> None:
        """A key of the slot has gone to another shard, of which replicas of the old one may not know.

        Until the slot has changed its owner it is read from its primary, which sends the read on.
        """
        self._moving.add(slot)

    # -- what replicas have ----------------------------------------------------------------------------------

    def primary_has(self, primary: N, history: History, sequence: int) -> None:
        """`sequence` was noted before the primary was asked. Kept until its replicas have come as far."""
        if not history.is_primary:
            return
        kept = self._checkpoints.setdefault(primary, [])
        if kept and kept[-1].history.replication_id != history.replication_id:
            kept.clear()
        if len(kept) >= CHECKPOINTS_MAX:  # a replica is far behind: coarser steps will do
            del kept[1::2]
        kept.append(Checkpoint(sequence, history))

    def replica_has(self, replica: N, history: History, generation: int) -> bool:
        """Compare what the replica says with what its primary said before. Whether that is news.

        `generation` is the replica's, the same when it was asked and when it answered.
        """
        primary = next((first for first, others in self._replicas.items() if replica in others), None)
        kept = self._checkpoints.get(primary, []) if primary is not None else []
        reached = [each.sequence for each in kept if history.includes(each.history)]
        known = self._proofs.get(replica)
        if not reached or primary is None:
            return False
        proof = Proof(primary, max(reached), generation)
        if known is not None and known._replace(sequence=0) == proof._replace(sequence=0):
            proof = max(known, proof, key=lambda each: each.sequence)
        self._proofs[replica] = proof
        self._forget_checkpoints(primary)
        return proof != known

    def _forget_checkpoints(self, primary: N) -> None:
        """Those that all its replicas have passed."""
        proofs = [self._proofs.get(replica) for replica in self._replicas[primary]]
        passed = min(proof.sequence if proof is not None else 0 for proof in proofs)
        kept = self._checkpoints[primary]
        kept[:] = [each for each in kept if each.sequence >= passed]

    def _fresh(self, slot: int, primary: N, replicas: tuple[N, ...]) -> tuple[N, ...]:
        """Of these replicas those that have all that this client has written to the slot."""
        if not self._read_your_writes:
            return replicas
        if slot in self._under_way or NO_KEY in self._under_way:
            return ()
        stamp = max(self._stamps[slot], self._stamp_of_all)
        return tuple(replica for replica in replicas if self._is_fresh(replica, primary, stamp))

    def _is_fresh(self, replica: N, primary: N, stamp: int) -> bool:
        proof = self._proofs.get(replica)
        return (
            proof is not None
            and proof.sequence >= stamp
            and proof.primary is primary
            and proof.generation == replica.generation
        )

    # -- the choice ------------------------------------------------------------------------------------------

    def choose(self, slot: int, primary: N, read_from: ReadFrom) -> N | None:
        """The node for a read. None: it must come from a replica, and none can answer now.

        1. The slot is moving: its primary.
        2. No replica that can answer is fresh: the primary, and the replicas are compared with it.
        3. One of the fresh ones, and for "any" and "lowest_latency" of the primary too.
        """
        if slot in self._moving:
            return primary
        now_s = self._now()
        ready = tuple(node for node in self._replicas.get(primary, ()) if self._is_ready(node, now_s))
        if not ready:
            if read_from == "replica":
                return None
            self.held_back += 1
            return primary
        fresh = self._fresh(slot, primary, ready)
        if len(fresh) < len(ready):
            self._compare(primary)
        if not fresh:
            self.held_back += 1
            return primary
        if read_from in ("any", "lowest_latency") and primary.is_ready(now_s, OVERDUE_S):
            fresh = (primary, *fresh)
        return self._near(primary, fresh) if read_from == "lowest_latency" else self._in_turn(fresh)

    def _is_ready(self, node: N, now_s: float) -> bool:
        return node.is_ready(now_s, OVERDUE_S) and self._benched.get(node, 0.0) <= now_s

    def _in_turn(self, nodes: tuple[N, ...]) -> N:
        self._turn += 1
        return nodes[self._turn % len(nodes)]

    def refused(self, node: N) -> None:
        """The node cannot serve reads at the moment: another one is asked for a while."""
        self._benched[node] = self._now() + BENCH_S

    # -- latency ---------------------------------------------------------------------------------------------

    def measured(self, node: N, latency_s: float) -> None:
        """How long the node took for a PING."""
        known_s = self._latency_s.get(node, latency_s)
        self._latency_s[node] = known_s + LATENCY_WEIGHT * (latency_s - known_s)

    def settle_nearest(self) -> None:
        """After a round of measurements: another node of a shard is the nearest if it is clearly nearer."""
        for primary, replicas in self._replicas.items():
            best = min((primary, *replicas), key=self._known_latency_s)
            nearest = self._nearest.get(primary)
            if nearest is None or self._known_latency_s(best) < NEARER_BY * self._known_latency_s(nearest):
                self._nearest[primary] = best

    def _known_latency_s(self, node: N) -> float:
        return self._latency_s.get(node, float("inf"))

    def _near(self, primary: N, nodes: tuple[N, ...]) -> N:
        nearest = self._nearest.get(primary)
        if nearest is not None and nearest in nodes:
            return nearest
        return min(nodes, key=self._known_latency_s)


def read_from_of(
    read_from: str | None, read_from_replicas: bool, strategy: LoadBalancingStrategy | None
) -> ReadFrom:
    """The constructor's `read_from`, or what redis-py's two options mean in its words.

    redis-py's strategies without "replica" in their name spread reads over the primary and its replicas;
    those with it fall back to the primary where there is no replica. Raises DataError for an unknown word.
    """
    if read_from is not None:
        return checked_read_from(read_from)
    if strategy is not None:
        only_replicas = strategy in (
            LoadBalancingStrategy.ROUND_ROBIN_REPLICAS,
            LoadBalancingStrategy.RANDOM_REPLICA,
        )
        return "prefer_replica" if only_replicas else "any"
    return "any" if read_from_replicas else "primary"


def checked_read_from(read_from: str) -> ReadFrom:
    """The same word. Raises DataError for one that is none of ours (the caller's mistake)."""
    for known in READ_FROM:
        if read_from == known:
            return known  # type: ignore[no-any-return]  # get_args knows no types
    raise DataError(f"read_from={read_from!r}: it must be one of {', '.join(READ_FROM)}")
