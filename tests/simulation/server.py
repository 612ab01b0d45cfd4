"""A scripted server of a cluster: one thread, a few commands, its own view of who owns which slots.

It answers as Redis and Valkey do (redirects, ASKING for one command, refusals, blocked clients, CLIENT REPLY)
and is subject to faults: each holds until a time of the virtual clock.
"""

import json
import random
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hiredis
from redis.crc import key_slot

from tests.simulation.ledger import Ledger, token_of
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
COUNTER_STEP = 10**12  # between the counters, so that no two of them ever have the same value
Answer = bytes | None


def encode(value: Any) -> bytes:
    if isinstance(value, list):
        return array(*map(encode, value))
    return integer(value) if isinstance(value, int) else bulk(value)


# Recorded from a Valkey 9.1 server, with the one subcommand that the client looks at.
COMMANDS = encode(json.loads(Path(__file__).with_name("commands.json").read_text(encoding="utf-8")))


class Session:
    """One client connection, as the server has it."""

    def __init__(self, server: "ScriptedServer", link: Link) -> None:
        self.server, self.link = server, link
        self.open = True
        self.protocol = 2
        self.asking = self.skip_next = False
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


class ServerCommands:
    """What the commands do. `run` gives the reply, or None when it comes later or never."""

    def __init__(self, ledger: Ledger, dice: random.Random, now: Callable[[], float]) -> None:
        self._ledger, self._dice, self._now = ledger, dice, now
        self._keyed: dict[bytes, Callable[[ScriptedServer, Session, list[bytes], int], Answer]] = {
            b"GET": self._get, b"MGET": self._mget, b"XREAD": self._xread,
            b"SET": self._set, b"INCRBY": self._incrby, b"GETSET": self._getset,
            b"SPUBLISH": self._spublish, b"BLPOP": self._blpop,
        }  # fmt: skip

    def run(self, server: ScriptedServer, session: Session, request: list[bytes]) -> Answer:
        name = request[0].upper()
        token = token_of(request) if name in self._keyed or name == b"ECHO" else 0
        if token:
            self._ledger.note("%s got %s of t%d", server, name.decode(), token)
        asking, session.asking = session.asking, False
        if asking and token not in self._ledger.sent_to_importer:
            self._ledger.breaches.append(f"t{token} {name.decode()} used an ASKING meant for another command")
        if name not in self._keyed:
            return self._refusal(server, name) or self._unkeyed(server, session, name, request)
        keys = _keys(name, request)
        output = self._refusal(server, name) or self._redirect(server, keys, asking, token)
        if output is not None:
            self._ledger.note("%s refused t%d: %s", server, token, output[:60].decode().strip())
            return output
        return self._keyed[name](server, session, request, token)

    def _refusal(self, server: ScriptedServer, name: bytes) -> Answer:
        now_s = self._now()
        if now_s < server.busy_until_s and name not in (b"HELLO", b"CLIENT", b"AUTH"):
            return (
                b"-BUSY Valkey is busy running a script. You can only call FUNCTION KILL or SCRIPT KILL.\r\n"
            )
        if now_s < server.loading_until_s and name not in (
            b"HELLO",
            b"CLIENT",
            b"COMMAND",
            b"ECHO",
            b"SPUBLISH",
        ):
            return b"-LOADING Valkey is loading the dataset in memory\r\n"
        if name in self._keyed and now_s < server.cluster_down_until_s:
            return b"-CLUSTERDOWN The cluster is down\r\n"
        if name in (b"SET", b"INCRBY", b"GETSET", b"BLPOP"):
            if now_s < server.readonly_until_s:
                return b"-READONLY You can't write against a read only replica.\r\n"
            if now_s < server.no_memory_until_s:
                return b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
        return None

    def _redirect(self, server: ScriptedServer, keys: list[bytes], asking: bool, token: int) -> Answer:
        """Source: the cluster specification, "MOVED" and "ASK redirection"."""
        slot, index = key_slot(keys[0]), server.range_of(keys[0])
        owner = server.view[index][1]
        moved = [server.has_moved(index, key) for key in keys]
        if owner is server:
            target = server.migrating.get(index)
            if target is None or not any(moved):
                return None
            if not all(moved):
                return b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"
            self._ledger.sent_to_importer.add(token)
            return b"-ASK %d %s:%d\r\n" % (slot, target.host.encode(), target.port)
        if asking and index in server.importing:
            if len(keys) > 1 and not all(moved):
                return b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"
            return None
        if owner is None:
            return b"-CLUSTERDOWN Hash slot not served\r\n"
        return b"-MOVED %d %s:%d\r\n" % (slot, owner.host.encode(), owner.port)

    def _unkeyed(self, server: ScriptedServer, session: Session, name: bytes, request: list[bytes]) -> Answer:
        if name == b"HELLO":
            session.protocol = int(request[1])
            return array(bulk("server"), bulk("scripted"))
        if name == b"CLIENT":
            return self._client(server, session, request)
        if name == b"ASKING":
            session.asking = True
        elif name == b"CLUSTER":
            return server.slots_reply()
        elif name == b"COMMAND":
            return COMMANDS
        elif name == b"ECHO":
            self._ledger.answered(token_of(request), request[1])
            return bulk(request[1])
        elif name == b"WAIT":
            return self._wait(server, session, int(request[1]), int(request[2]) / 1000)
        return b"+OK\r\n"

    def _client(self, server: ScriptedServer, session: Session, request: list[bytes]) -> Answer:
        if request[1] == b"SETINFO" and not server.setinfo_known:
            return b"-ERR unknown subcommand 'SETINFO'. Try CLIENT HELP.\r\n"
        if request[1:] == [b"REPLY", b"SKIP"]:
            session.skip_next = True
            return None
        return b"+OK\r\n"

    # -- reads -----------------------------------------------------------------------------------------------

    def _get(self, _server: ScriptedServer, _session: Session, request: list[bytes], token: int) -> Answer:
        value = b"value of " + request[1]
        self._ledger.answered(token, value)
        return bulk(value)

    def _mget(self, _server: ScriptedServer, _session: Session, request: list[bytes], token: int) -> Answer:
        values = [b"value of " + key for key in request[1:]]
        self._ledger.answered(token, values)
        return array(*map(bulk, values))

    def _xread(self, server: ScriptedServer, session: Session, request: list[bytes], token: int) -> Answer:
        def answer() -> Answer:
            self._ledger.answered(token, None)
            return _nil(session)

        seconds = int(request[2]) / 1000
        server.block(session, self._dice.uniform(0, seconds) if seconds else self._dice.uniform(0, 3), answer)
        return None

    # -- writes ----------------------------------------------------------------------------------------------

    def _executed(self, session: Session, token: int, reply: object) -> None:
        session.unconfirmed.append(token)
        self._ledger.executed(token, reply)
        self._ledger.note("%s executed t%d", session.server, token)

    def _set(self, _server: ScriptedServer, session: Session, _request: list[bytes], token: int) -> Answer:
        self._executed(session, token, True)
        return b"+OK\r\n"

    def _incrby(self, _server: ScriptedServer, session: Session, request: list[bytes], token: int) -> Answer:
        counters = self._ledger.counters
        key = request[1]
        if key not in counters:
            counters[key] = len(counters) * COUNTER_STEP
        counters[key] += token
        self._executed(session, token, counters[key])
        return integer(counters[key])

    def _getset(self, _server: ScriptedServer, session: Session, request: list[bytes], token: int) -> Answer:
        before = self._ledger.values.get(request[1], b"the first of " + request[1])
        self._ledger.values[request[1]] = request[2]
        self._executed(session, token, before)
        return bulk(before)

    def _spublish(
        self, _server: ScriptedServer, session: Session, _request: list[bytes], token: int
    ) -> Answer:
        self._executed(session, token, 0)
        return integer(0)

    def _blpop(self, server: ScriptedServer, session: Session, request: list[bytes], token: int) -> Answer:
        seconds = float(request[2]) or 3.0
        after_s = self._dice.uniform(0, seconds * 1.5)

        def answer() -> Answer:
            if after_s >= seconds:
                self._ledger.answered(token, None)
                return _nil(session)
            self._executed(session, token, [request[1], b"popped"])
            return array(bulk(request[1]), bulk("popped"))

        server.block(session, min(after_s, seconds), answer)
        return None

    def _wait(self, server: ScriptedServer, session: Session, replicas: int, seconds: float) -> Answer:
        covered, session.unconfirmed = session.unconfirmed, []

        def answer() -> Answer:
            if count >= 1:
                self._ledger.replicated.update(covered)
            return integer(count)

        count = min(server.replicas_answer, int(self._dice.random() < 0.9))
        server.block(session, self._dice.uniform(0, 0.02) if count >= replicas else seconds, answer)
        return None


def _keys(name: bytes, request: list[bytes]) -> list[bytes]:
    if name == b"MGET":
        return request[1:]
    return [request[4]] if name == b"XREAD" else [request[1]]


def _nil(session: Session) -> bytes:
    return b"_\r\n" if session.protocol == 3 else b"*-1\r\n"
