"""A scripted server of a cluster: one thread, a few commands, its own view of who owns which slots.

It answers as Redis and Valkey do (redirects, ASKING for one command, refusals, blocked clients, CLIENT REPLY)
and is subject to faults: each holds until a time of the virtual clock.
"""

import random
import zlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import hiredis
from redis.crc import key_slot

from tests.simulation.ledger import Ledger
from tests.simulation.wire import Link, Weather
from tests.support.fake_server import array, bulk, integer

if TYPE_CHECKING:
    from tests.simulation.scripted_cluster import ScriptedCluster

SLOT_COUNT = 16384
PUSH_MESSAGE = b">2\r\n" + bulk("invalidate") + b"*0\r\n"
GARBAGE = b"\x00?no reply\r\n"
UNBLOCKED = (
    b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n"
)
Answer = bytes | None


class Session:
    """One client connection, as the server has it."""

    def __init__(self, server: "ScriptedServer", link: Link) -> None:
        self.server, self.link = server, link
        self.open = True
        self.protocol = 2
        self.asking = self.skip_next = self.watches = False
        self.block: list[list[bytes]] | None = None  # between MULTI and EXEC
        self.block_is_refused = False
        self.blocked: Callable[[], Answer] | None = None  # what it says when the instance is demoted
        self.held: deque[list[bytes]] = deque()  # behind what blocks
        self.output: list[bytes] = []
        self.unconfirmed: list[int] = []  # writes that no WAIT has covered yet
        self.waits = 0
        self._reader = hiredis.Reader()

    def receive(self, data: bytes) -> None:
        self.server.arrived(self, data)

    def read(self, data: bytes) -> list[list[bytes]]:
        self.link.consumed(len(data))
        self._reader.feed(data)
        requests = []
        while (request := self._reader.gets()) is not False:
            requests.append(request)
        return requests

    def closed(self) -> None:
        self.open, self.blocked = False, None
        self.held.clear()
        self.server.sessions.pop(self, None)

    def hang_up(self) -> None:
        if self.open:
            self.closed()
            self.link.server_closed()


class ScriptedServer:
    """One node. `view[i]` is (epoch, owner) of the i-th range of slots, as this node knows it."""

    def __init__(self, cluster: "ScriptedCluster", number: int, shard: int, dice: random.Random) -> None:
        self.host, self.port, self.shard = f"10.0.0.{number}", 6379, shard
        self.name = f"{self.host}:{self.port}"
        self.weather = Weather()
        self.view: list[tuple[int, ScriptedServer | None]] = []
        self.sessions: dict[Session, None] = {}
        self.migrating: dict[int, ScriptedServer] = {}  # range -> target
        self.importing: dict[int, ScriptedServer] = {}
        self.down = False
        self.frozen_until_s = self.loading_until_s = self.busy_until_s = 0.0
        self.cluster_down_until_s = self.readonly_until_s = self.full_until_s = self.no_memory_until_s = 0.0
        self.slow_share = self.garbage_share = self.push_share = self.lost_share = 0.0
        self.replicas_answer = 1
        self.setinfo_known = True
        self._cluster, self._dice, self._outside = cluster, dice, cluster.outside
        self._inbox: deque[tuple[Session, bytes]] = deque()  # in the kernel's buffer
        self._queue: deque[tuple[Session, list[bytes]]] = deque()
        self._thaw_arranged_s = 0.0

    @property
    def ledger(self) -> Ledger:
        return self._cluster.ledger

    @property
    def reachable_s(self) -> float:
        """When news can reach it."""
        return max(self._outside.now_s, self.frozen_until_s, self.weather.silent_until_s)

    # -- connections -----------------------------------------------------------------------------------------

    def accept(self, link: Link) -> Session | None:
        if self.down:
            return None
        session = Session(self, link)
        self.sessions[session] = None
        if self._outside.now_s < self.full_until_s:
            link.to_client(b"-ERR max number of clients reached\r\n")
            session.closed()
            link.server_closed()
        return session

    def stop(self) -> None:
        """The process ends."""
        self.down = True
        self.reset_all()
        self._inbox.clear()
        self._queue.clear()
        self.migrating.clear()
        self.importing.clear()

    def reset_all(self, share: float = 1.0) -> None:
        for session in list(self.sessions):
            if self._dice.random() < share:
                session.closed()
                session.link.reset()

    def freeze(self, until_s: float) -> None:
        """The process stands still; its kernel still takes connections and bytes."""
        self.frozen_until_s = max(self.frozen_until_s, until_s)
        self._arrange_thaw()

    def _arrange_thaw(self) -> None:
        if self._thaw_arranged_s < self.frozen_until_s:
            self._thaw_arranged_s = self.frozen_until_s
            self._outside.at(self.frozen_until_s, self.work)

    # -- the one thread --------------------------------------------------------------------------------------

    @property
    def frozen(self) -> bool:
        return self._outside.now_s < self.frozen_until_s

    def arrived(self, session: Session, data: bytes) -> None:
        self._inbox.append((session, data))
        self.work()

    def work(self) -> None:
        """Read and answer everything that is there, until something takes long."""
        touched: dict[Session, None] = {}
        while not self.frozen and (self._queue or self._inbox):
            if not self._queue:
                session, data = self._inbox.popleft()
                self._queue.extend(
                    (session, request) for request in (session.read(data) if session.open else ())
                )
                continue
            session, request = self._queue.popleft()
            if session.blocked is not None:
                session.held.append(request)
            elif session.open:
                self._answer(session, request)
                touched[session] = None
        for session in touched:
            self.flush(session)

    def flush(self, session: Session) -> None:
        """What has been answered goes out, at the earliest when the thread is free again."""
        if self.frozen:
            self._outside.at(self.frozen_until_s, self.flush, session)
            return
        data, session.output = b"".join(session.output), []
        if not session.open or not data:
            return
        if self._dice.random() < self.push_share and session.protocol == 3:
            data = PUSH_MESSAGE + data
        if self._dice.random() < self.garbage_share:
            self.ledger.note("fault garbage instead of a reply from %s", self.name)
            data = GARBAGE
        if self._dice.random() < self.lost_share:
            self.ledger.note("fault a connection to %s is reset before its reply", self.name)
            session.closed()
            session.link.reset()
            return
        session.link.to_client(data)

    def _answer(self, session: Session, request: list[bytes]) -> None:
        skip, session.skip_next = session.skip_next, False
        output = self._cluster.commands.run(self, session, request)
        if output is not None and not skip:
            session.output.append(output)
        if self._dice.random() < self.slow_share:
            self.freeze(self._outside.now_s + self._dice.uniform(0.05, 0.8))

    # -- blocked clients -------------------------------------------------------------------------------------

    def block(self, session: Session, delay_s: float, answer: Callable[[], Answer]) -> None:
        """Hold the connection; `answer` says what, in the end. A demotion ends it with UNBLOCKED."""
        session.blocked = answer
        self._outside.after(delay_s, self._release, session, answer)

    def _release(self, session: Session, answer: Callable[[], Answer]) -> None:
        if session.blocked is not answer:
            return
        if self.frozen:
            self._outside.at(self.frozen_until_s, self._release, session, answer)
            return
        self._unblock(session, answer())

    def _unblock(self, session: Session, output: Answer) -> None:
        session.blocked = None
        if output is not None:
            session.output.append(output)
        self._queue.extend((session, request) for request in session.held)
        session.held.clear()
        self.flush(session)
        self.work()

    # -- the cluster's news ----------------------------------------------------------------------------------

    def learn(self, index: int, epoch: int, owner: "ScriptedServer | None") -> None:
        """Somebody owns this range since that epoch."""
        if self.down:
            return
        if self.reachable_s > self._outside.now_s:
            if self.reachable_s < float("inf"):
                self._outside.at(self.reachable_s + 0.01, self.learn, index, epoch, owner)
            return
        if epoch <= self.view[index][0]:
            return
        was_primary = self.owns_something
        self.view[index] = (epoch, owner)
        self.migrating.pop(index, None)
        self.importing.pop(index, None)
        if was_primary and not self.owns_something:
            for session in [session for session in self.sessions if session.blocked is not None]:
                self._unblock(session, UNBLOCKED)

    @property
    def owns_something(self) -> bool:
        return any(owner is self for _, owner in self.view)

    def slots_reply(self) -> bytes:
        rows = []
        for index, (_, owner) in enumerate(self.view):
            if owner is not None:
                first, last = self._cluster.bounds(index)
                others = [node for node in self._cluster.shard(owner) if node is not owner]
                rows.append(
                    array(integer(first), integer(last), *(self._entry(node) for node in (owner, *others)))
                )
        return array(*rows)

    def _entry(self, node: "ScriptedServer") -> bytes:
        host = b"$-1\r\n" if node is self and self._cluster.hides_own_host else bulk(node.host)
        return array(host, integer(node.port), bulk(node.name), array())

    def has_moved(self, index: int, key: bytes) -> bool:
        """Whether a key of a range on its way is at its new place already."""
        return zlib.crc32(key) % 1000 < self._cluster.moved_permille.get(index, 0)

    def range_of(self, key: bytes) -> int:
        return self._cluster.index_of(key_slot(key))

    def __repr__(self) -> str:
        return self.name
