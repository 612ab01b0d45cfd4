"""What the commands of a scripted server do: refusals, redirects, reads, writes, transactions, WAIT."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis.crc import key_slot

from tests.simulation.ledger import Ledger, token_of
from tests.simulation.server import Answer, ScriptedServer, Session
from tests.support.fake_server import array, bulk, integer

COUNTER_STEP = 10**12  # between the counters, so that no two of them ever have the same value
WATCHED_CHANGES = 0.15  # how often EXEC finds that what was watched has changed
QUEUED = b"+QUEUED\r\n"
BUSY = b"-BUSY Valkey is busy running a script. You can only call FUNCTION KILL or SCRIPT KILL.\r\n"
ALLOWED_WHEN_BUSY = (b"HELLO", b"CLIENT", b"MULTI", b"WATCH", b"UNWATCH")
ALLOWED_WHEN_LOADING = (b"HELLO", b"CLIENT", b"COMMAND", b"ECHO", b"SPUBLISH", b"MULTI", b"WATCH", b"UNWATCH")
WRITES = (b"SET", b"INCRBY", b"GETSET", b"BLPOP")


def encode(value: Any) -> bytes:
    """RESP of lists, numbers and texts."""
    if isinstance(value, list):
        return array(*map(encode, value))
    return integer(value) if isinstance(value, int) else bulk(value)


# Recorded from a Valkey 9.1 server, with the one subcommand that the client looks at.
COMMANDS = encode(json.loads(Path(__file__).with_name("commands.json").read_text(encoding="utf-8")))


class ServerCommands:
    """What the commands do. `run` gives the reply, or None when it comes later or never."""

    def __init__(self, ledger: Ledger, dice: random.Random, now: Callable[[], float]) -> None:
        self._ledger, self._dice, self._now = ledger, dice, now
        self._keyed: dict[bytes, Callable[[ScriptedServer, Session, list[bytes], int], Answer]] = {
            b"GET": self._get, b"MGET": self._mget, b"XREAD": self._xread,
            b"SET": self._set, b"INCRBY": self._incrby, b"GETSET": self._getset,
            b"SPUBLISH": self._spublish, b"BLPOP": self._blpop, b"WATCH": self._watch,
        }  # fmt: skip

    def run(self, server: ScriptedServer, session: Session, request: list[bytes]) -> Answer:
        name = request[0].upper()
        token = token_of(request) if name in self._keyed or name == b"ECHO" else 0
        if token:
            self._ledger.note("%s got %s of t%d", server, name.decode(), token)
        asking = session.asking
        if session.block is None and name != b"MULTI":
            session.asking = False  # it holds for one command, or for all up to EXEC
            self._check_asking(asking, token, name)
        if name not in self._keyed:
            if name == b"EXEC":
                return self._execute(server, session)
            return self._refusal(server, name) or self._unkeyed(server, session, name, request)
        output = self._refusal(server, name) or self._redirect(server, _keys(request), asking, token)
        if output is not None:
            self._ledger.note("%s refused t%d: %s", server, token, output[:60].decode().strip())
            session.block_is_refused = True
            return output
        if session.block is not None:
            session.block.append(request)
            return QUEUED
        return self._keyed[name](server, session, request, token)

    def _check_asking(self, asking: bool, token: int, name: bytes) -> None:
        if asking and token not in self._ledger.sent_to_importer:
            self._ledger.breaches.append(f"t{token} {name.decode()} used an ASKING meant for another command")

    def _execute(self, server: ScriptedServer, session: Session) -> Answer:
        """EXEC: all of the block, or nothing. Source: processCommand and execCommand of the servers."""
        block, session.block = session.block, None
        asking, session.asking = session.asking, False
        watched, session.watches = session.watches, False
        if block is None:
            return b"-ERR EXEC without MULTI\r\n"
        tokens = [token_of(request) for request in block]
        for token in tokens:
            self._check_asking(asking, token, b"EXEC")
        if session.block_is_refused:
            return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        for request in (*block, [b"EXEC"]):
            refusal = self._refusal(server, request[0])
            if refusal is not None and not refusal.startswith(b"-CLUSTERDOWN"):
                return b"-EXECABORT Transaction discarded because of: " + refusal[1:]
            if refusal is not None:
                return refusal
        keys = [key for request in block for key in _keys(request)]
        redirect = self._redirect(server, keys, asking, max(tokens))
        if redirect is not None:
            return redirect
        if watched and self._dice.random() < WATCHED_CHANGES:
            return _nil(session)
        return array(
            *(
                self._keyed[request[0]](server, session, request, token) or b""
                for request, token in zip(block, tokens, strict=True)
            )
        )

    def _refusal(self, server: ScriptedServer, name: bytes) -> Answer:
        now_s = self._now()
        if now_s < server.busy_until_s and name not in ALLOWED_WHEN_BUSY:
            return BUSY
        if now_s < server.loading_until_s and name not in ALLOWED_WHEN_LOADING:
            return b"-LOADING Valkey is loading the dataset in memory\r\n"
        if name in self._keyed and now_s < server.cluster_down_until_s:
            return b"-CLUSTERDOWN The cluster is down\r\n"
        if name in WRITES:
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
        elif name == b"MULTI":
            session.block, session.block_is_refused = [], False
        elif name == b"UNWATCH":
            session.watches = False
        elif name == b"CLUSTER":
            return server.slots_reply()
        elif name == b"COMMAND":
            return COMMANDS
        elif name == b"ROLE":
            owns_slots = any(owner is server for _, owner in server.view)
            return array(bulk("master" if owns_slots else "slave"))
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

    def _watch(self, _server: ScriptedServer, session: Session, _request: list[bytes], _token: int) -> Answer:
        session.watches = True
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


def _keys(request: list[bytes]) -> list[bytes]:
    if request[0] in (b"MGET", b"WATCH"):
        return request[1:]
    return [request[4]] if request[0] == b"XREAD" else [request[1]]


def _nil(session: Session) -> bytes:
    return b"_\r\n" if session.protocol == 3 else b"*-1\r\n"
