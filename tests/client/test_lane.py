"""A lane against a scripted server, without I/O: thousands of seeded runs.

Every caller must get its own reply or an honest error, whatever happens: cancelled callers, split and merged
replies, pushes, error replies, texts that do not decode, transactions, resets, garbage. A failing run prints
its seed; `run(seed)` repeats it.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Any, cast
from unittest.mock import Mock, patch

import hiredis
import pytest
from redis.exceptions import ClusterDownError, MovedError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.support.tickets import Ticket
from tradewind.client import lane as lane_module
from tradewind.client.command import Command, pack
from tradewind.client.lane import Lane, LaneState, server_error
from tradewind.client.policy import Verdict, judge
from tradewind.client.transaction import Transaction

SEEDS = 5000
SOAK_SEEDS = 300_000
UNDECODABLE = b"\xff\xfe"


class Server:
    """Answers ECHO with its argument, in the form that it asks for. Notes what ran, and in which order."""

    def __init__(self) -> None:
        self.ran: list[bytes] = []
        self.asking_before: dict[bytes, bool] = {}
        self._reader = hiredis.Reader()
        self._asking = False
        self._queued: list[list[bytes]] | None = None  # since MULTI
        self._refused = False

    def replies_to(self, data: bytes) -> bytes:
        self._reader.feed(data)
        out = b""
        while (request := self._reader.gets()) is not False:
            out += self._reply(request)
        return out

    def _reply(self, request: list[bytes]) -> bytes:
        if request[0] == b"MUTE":
            assert self._queued is None, "a message in a transaction"
            assert not self._asking, "a message between ASKING and its command"
            self.ran.append(request[1])
            return b""
        if request[0] == b"ASKING":
            self._asking = True
            return b"+OK\r\n"
        if request[0] == b"MULTI":
            assert self._queued is None, "a transaction in a transaction"
            self._queued, self._refused = [], False
            return b"+OK\r\n"
        if request[0] == b"EXEC":
            return self._execute()
        if self._queued is not None:
            return self._queue(request)
        return self._run(request)

    def _queue(self, request: list[bytes]) -> bytes:
        assert self._queued is not None
        if request[1].startswith(b"refused"):
            self._refused = True
            return b"-ERR " + request[1] + b"\r\n"
        self._queued.append(request)
        return b"+QUEUED\r\n"

    def _execute(self) -> bytes:
        assert self._queued is not None, "EXEC without MULTI"
        queued, self._queued = self._queued, None
        if self._refused:
            self._asking = False
            return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        asking = self._asking
        replies = b""
        for request in queued:
            self._asking = asking  # for the whole transaction
            replies += self._run(request)
        self._asking = False
        return b"*%d\r\n%s" % (len(queued), replies)

    def _run(self, request: list[bytes]) -> bytes:
        name = request[1]
        self.ran.append(name)
        self.asking_before[name], self._asking = self._asking, False
        kind = name.split(b":")[0]
        if kind == b"error":
            return b"-ERR " + name + b"\r\n"
        if kind == b"array":
            return b"*2\r\n$%d\r\n%s\r\n*1\r\n:7\r\n" % (len(name), name)
        if kind == b"undecodable":
            return b"*2\r\n$2\r\n%s\r\n$%d\r\n%s\r\n" % (UNDECODABLE, len(name), name)
        return b"$%d\r\n%s\r\n" % (len(name), name)


class World:
    """One lane, its owner, its server, and everything in between, driven by one random generator."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.server = Server()
        self.soon: deque[Callable[[], None]] = deque()
        self.to_server = b""
        self.to_client = b""
        self.in_flight = self.in_flight_bytes = 0
        self.commands: list[Command] = []
        self.transactions: dict[bytes, list[bytes]] = {}  # the commands in each
        self.submitted: list[bytes] = []  # the names of all of them, and of what has no reply
        self.unsent: list[Command] = []
        self.sent_and_lost: list[Command] = []
        self.pushes = 0
        self.pushed = 0
        self.decodes = self.rng.random() < 0.5
        self.lane = Lane(
            self,
            name="node:1",
            call_soon=self.soon.append,
            now=lambda: self.now_s,
            encoding="utf-8" if self.decodes else None,
        )

    # -- as the lane's owner ---------------------------------------------------------------------------------

    def on_answered(self, _lane: Lane, count: int, size_bytes: int) -> None:
        self._left(count, size_bytes)

    def on_error_reply(self, _lane: Lane, command: Command, error: Exception) -> None:
        command.fail(error)

    def on_lost(self, _lane: Lane, sent: list[Command], unsent: list[Command], error: Exception) -> None:
        everybody = [*sent, *unsent]
        self._left(len(everybody), sum(len(command.packed) for command in everybody))
        self.sent_and_lost += [command for command in sent if command.part_of is None]
        self.unsent += [command for command in unsent if command.part_of is None]
        for command in everybody:
            if command.part_of is None:
                command.fail(error)

    def on_push(self, _lane: Lane, message: list[Any] | Exception) -> None:
        assert isinstance(message, list)  # decoded or not, as the parser stood when its parts came
        assert [item if isinstance(item, bytes) else item.encode() for item in message] == [b"news", b"1"]
        self.pushed += 1

    def _left(self, count: int, size_bytes: int) -> None:
        self.in_flight -= count
        self.in_flight_bytes -= size_bytes
        assert self.in_flight >= 0
        assert self.in_flight_bytes >= 0

    # -- what can happen -------------------------------------------------------------------------------------

    def submit(self) -> None:
        kind = self.rng.choice(["text", "text", "array", "error", "undecodable", "raw"])
        name = f"{kind}:{len(self.commands)}"
        packed = pack(("ECHO", name, "x" * self.rng.randrange(40)))
        command = Command("ECHO", packed, cast(Any, Ticket(name)), 0, False, 0.0, 1e9)
        command.raw = kind == "raw"
        self._submit(command)

    def transact(self) -> None:
        count = self.rng.randrange(5)
        kinds = self.rng.choices(["text", "array", "error", "refused"], [10, 3, 3, 1], k=count)
        name = f"transaction:{len(self.commands)}"
        names = [f"{kind}:{len(self.commands)}:{number}" for number, kind in enumerate(kinds)]
        packed = [pack(("ECHO", name)) for name in names]
        self.transactions[name.encode()] = [name.encode() for name in names]
        self._submit(Transaction(packed, cast(Any, Ticket(name)), 0, False, 0.0, 1e9))

    def _submit(self, command: Command) -> None:
        command.asking = self.rng.random() < 0.1
        self.commands.append(command)
        self.submitted += self.transactions.get(_name(command), [_name(command)])
        row = command.row()
        self.in_flight += len(row)
        self.in_flight_bytes += sum(len(item.packed) for item in row)
        self.lane.submit_row(row)

    def say(self) -> None:
        name = f"unanswered:{len(self.submitted)}"
        self.submitted.append(name.encode())
        self.lane.write_unanswered(pack(("MUTE", name)))

    def open(self) -> None:
        if self.lane.state is LaneState.NEW:
            self.lane.opened(self._written, lambda: None)

    def _written(self, data: bytes) -> None:
        self.to_server += data

    def turn(self) -> None:
        for _ in range(len(self.soon)):
            self.soon.popleft()()

    def cancel(self) -> None:
        waiting = [command for command in self.commands if not command.future.done()]
        if waiting:
            self.rng.choice(waiting).future.cancel()

    def server_reads(self) -> None:
        cut = self.rng.randrange(len(self.to_server) + 1)
        self.to_client += self.server.replies_to(self.to_server[:cut])
        self.to_server = self.to_server[cut:]

    def deliver(self) -> None:
        size = self.rng.choice([1, 2, 7, 64, 1 << 20])
        data, self.to_client = self.to_client[:size], self.to_client[size:]
        if data:
            self.lane.feed(data)

    def push(self) -> None:
        """Between two replies, as servers send it: what it has written always ends with a whole one."""
        self.pushes += 1
        self.to_client += b">2\r\n$4\r\nnews\r\n$1\r\n1\r\n"

    def reset(self) -> None:
        if self.rng.random() < 0.1:
            self.lane.close(RedisConnectionError("reset"))
            self.to_client = b""

    def garbage(self) -> None:
        if self.rng.random() < 0.03:
            self.to_client += self.rng.choice([b"hello\r\n", b"*-7\r\n", b"*1\r\n" * 5000])

    def run(self) -> None:
        steps = [
            self.submit, self.submit, self.submit, self.transact, self.say, self.turn, self.turn, self.cancel,
            self.server_reads, self.server_reads, self.deliver, self.deliver, self.deliver, self.push,
            self.reset, self.garbage,
        ]  # fmt: skip
        if self.rng.random() < 0.7:
            self.open()
        for _ in range(self.rng.randrange(10, 120)):
            self.now_s += self.rng.random()
            self.rng.choice(steps)()
        self.open()
        self.finish()

    def finish(self) -> None:
        """Let everything that is under way arrive."""
        self.turn()
        self.to_client += self.server.replies_to(self.to_server)
        while self.to_client and self.lane.state is LaneState.OPEN:
            self.deliver()
        while self.soon:
            self.turn()

    # -- what must hold --------------------------------------------------------------------------------------

    def check(self) -> None:
        assert self.in_flight == 0, f"{self.in_flight} leaked"
        assert self.in_flight_bytes == 0, f"{self.in_flight_bytes} bytes leaked"
        assert self.lane.load == 0
        assert self.pushed <= self.pushes
        for command in self.commands:
            if isinstance(command, Transaction):
                self._check_transaction(command)
            else:
                self._check_command(command)
        order = {name: index for index, name in enumerate(self.server.ran)}
        sent_order = [order[name] for name in self.submitted if name in order]
        assert sent_order == sorted(sent_order), "they ran in another order than they were submitted"

    def _check_command(self, command: Command) -> None:
        ticket, name = cast(Any, command.future), _name(command)
        times = self.server.ran.count(name)
        assert ticket.done(), f"{ticket} was told nothing"
        assert times <= 1, f"{ticket} ran {times} times"
        if times:
            assert self.server.asking_before[name] == command.asking, f"{ticket}: ASKING is not at its place"
        if command in self.unsent:
            assert not times, f"{ticket} is said to be unsent, and ran"
        elif command in self.sent_and_lost:
            assert isinstance(ticket.value, RedisConnectionError | None)
        elif ticket.state == "answered":
            assert times
            assert ticket.value == self._expected(name), f"{ticket} got a stranger's reply"
        elif ticket.state == "failed":
            assert times
            if name.startswith(b"undecodable"):
                assert isinstance(ticket.value, UnicodeDecodeError)
            else:
                assert str(ticket.value) == name.decode(), f"{ticket} got a stranger's error"

    def _check_transaction(self, command: Transaction) -> None:
        ticket, names = cast(Any, command.future), self.transactions[_name(command)]
        ran = self.server.ran
        first = ran.index(names[0]) if names and names[0] in ran else None
        assert ticket.done(), f"{ticket} was told nothing"
        if first is None:
            assert not set(names) & set(ran), f"{ticket} ran in part"
        else:
            assert ran[first : first + len(names)] == names, f"{ticket}: something came between"
            assert {self.server.asking_before[name] for name in names} == {command.asking}
        refused = [name for name in names if name.startswith(b"refused")]
        if command in self.unsent:
            assert first is None, f"{ticket} is said to be unsent, and ran"
        elif command in self.sent_and_lost:
            assert isinstance(ticket.value, RedisConnectionError | None)
        elif ticket.state == "answered":
            assert not refused
            for name, value in zip(names, ticket.value, strict=True):
                expected = name.decode() if name.startswith(b"error") else self._expected(name)
                assert (str(value) if isinstance(value, ResponseError) else value) == expected
        elif ticket.state == "failed":
            assert first is None
            assert str(ticket.value) == refused[0].decode(), f"{ticket} got a stranger's error"
            assert names[(command.refused_number(ticket.value) or 0) - 1] == refused[0]

    def _expected(self, name: bytes) -> Any:
        kind = name.split(b":")[0]
        if kind == b"raw" or not self.decodes:
            text: Any = name
        else:
            text = name.decode()
        return {b"array": [text, [7]], b"undecodable": [UNDECODABLE, name]}.get(kind, text)


def _name(command: Command) -> bytes:
    return cast(Any, command.future).name.encode()


def run(seed: int) -> World:
    world = World(seed)
    replies_per_turn_max = world.rng.choice([1, 2, 3, lane_module.REPLIES_PER_TURN_MAX])
    try:
        with patch.object(lane_module, "REPLIES_PER_TURN_MAX", replies_per_turn_max):
            world.run()
            world.check()
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error!r}") from error
    return world


def test_every_caller_gets_its_own_reply_whatever_happens() -> None:
    worlds = [run(seed) for seed in range(SEEDS)]
    states = {cast(Any, command.future).state for world in worlds for command in world.commands}
    assert states == {"answered", "failed", "cancelled"}, "the runs do not reach every end"
    assert any(world.unsent for world in worlds)
    assert any(world.sent_and_lost for world in worlds)
    assert any(world.pushed for world in worlds)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_every_caller_gets_its_own_reply_for_long() -> None:
    for seed in range(SEEDS, SOAK_SEEDS):
        run(seed)


# -- single rules --------------------------------------------------------------------------------------------


class Quiet(World):
    """A world in which nothing happens by itself."""

    def __init__(self) -> None:
        super().__init__(0)
        self.decodes = False
        self.lane = Lane(self, name="node:1", call_soon=self.soon.append, now=lambda: self.now_s)
        self.written: list[bytes] = []
        self.closed = 0
        self.lane.opened(self.written.append, self._closed)

    def _closed(self) -> None:
        self.closed += 1

    def ask(self, name: str, *, asking: bool = False) -> Command:
        command = Command("ECHO", pack(("ECHO", name)), cast(Any, Ticket(name)), 0, False, 0.0, 1e9)
        return self.put(command, asking=asking)

    def put(self, command: Command, *, asking: bool = False) -> Command:
        command.asking = asking
        self.commands.append(command)
        row = command.row()
        self.in_flight += len(row)
        self.in_flight_bytes += sum(len(item.packed) for item in row)
        self.lane.submit_row(row)
        return command

    def transaction(self, *names: str, asking: bool = False) -> Transaction:
        command = Transaction(
            [pack(("ECHO", name)) for name in names], cast(Any, Ticket("/".join(names))), 0, False, 0.0, 1e9
        )
        self.put(command, asking=asking)
        return command


def test_commands_of_one_loop_turn_are_one_write() -> None:
    world = Quiet()
    for number in range(100):
        world.ask(str(number))
    world.turn()
    assert len(world.written) == 1


def test_what_has_no_reply_goes_in_the_same_write_at_its_place() -> None:
    world = Quiet()
    world.ask("a")
    world.lane.write_unanswered(b"first ")
    world.ask("gone").future.cancel()
    world.lane.write_unanswered(b"second ")
    world.ask("b")
    world.turn()
    assert world.written == [pack(("ECHO", "a")) + b"first second " + pack(("ECHO", "b"))]
    assert world.lane.load == 2
    world.lane.write_unanswered(b"third")
    world.turn()
    assert world.written[1:] == [b"third"]


def test_much_without_a_reply_is_written_before_the_turn_ends() -> None:
    world = Quiet()
    world.ask("a")
    for _ in range(5):
        world.lane.write_unanswered(b"x" * (lane_module.UNANSWERED_BYTES_MAX // 2))
    assert len(world.written) == 2
    world.turn()
    assert len(world.written) == 3
    assert world.written[0].startswith(pack(("ECHO", "a")) + b"x")


def test_what_has_no_reply_is_dropped_where_no_connection_is_open() -> None:
    world = Quiet()
    lane = Lane(world, name="new", call_soon=world.soon.append, now=lambda: 0.0)
    lane.write_unanswered(b"too early")
    lane.opened(world.written.append, lambda: None)
    world.lane.write_unanswered(b"lost with the connection")
    world.lane.close(RedisConnectionError("reset"))
    world.lane.write_unanswered(b"too late")
    world.turn()
    assert world.written == []


def test_a_caller_that_leaves_before_the_write_costs_nothing() -> None:
    world = Quiet()
    world.ask("a").future.cancel()
    world.turn()
    assert world.written == []
    assert world.in_flight == world.in_flight_bytes == 0


def test_a_cancelled_caller_takes_its_asking_with_it() -> None:
    world = Quiet()
    moving = world.ask("moving", asking=True)
    world.ask("stranger")
    moving.future.cancel()
    world.turn()
    assert b"ASKING" not in world.written[0]
    assert b"stranger" in world.written[0]


def test_a_transaction_is_written_whole_between_two_strangers() -> None:
    world = Quiet()
    world.ask("before")
    transaction = world.transaction("a", "b", asking=True)
    world.ask("after")
    world.turn()
    words = [b"ECHO", b"ASKING", b"MULTI", b"ECHO", b"ECHO", b"EXEC", b"ECHO"]
    assert [request[0] for request in requests(world.written[0])] == words
    world.lane.feed(world.server.replies_to(world.written[0]))
    assert cast(Any, transaction.future).value == [b"a", b"b"]
    assert world.in_flight == world.in_flight_bytes == 0


def test_a_transaction_whose_caller_has_gone_is_not_written_at_all() -> None:
    world = Quiet()
    world.transaction("a", "b").future.cancel()
    world.ask("after")
    world.turn()
    assert [request[0] for request in requests(world.written[0])] == [b"ECHO"]
    assert world.in_flight == 1


def test_the_first_refusal_is_why_a_transaction_was_aborted() -> None:
    world = Quiet()
    transaction = world.transaction("a", "refused:b", "refused:c")
    world.turn()
    world.lane.feed(world.server.replies_to(world.written[0]))
    error = cast(Any, transaction.future).value
    assert str(error) == "refused:b"
    assert transaction.refused_number(error) == 2
    assert not world.server.ran


def test_a_transaction_without_a_refusal_is_aborted_for_the_reason_that_the_server_quotes() -> None:
    world = Quiet()
    transaction = world.transaction("a")
    world.turn()
    world.lane.feed(
        b"+OK\r\n+QUEUED\r\n-EXECABORT Transaction discarded because of: CLUSTERDOWN Hash slot not served\r\n"
    )
    assert isinstance(cast(Any, transaction.future).value, ClusterDownError)


def test_a_refused_multi_is_told_as_what_it_is() -> None:
    """Nothing keeps the commands behind it from running; so the transaction is never tried again."""
    world = Quiet()
    transaction = world.transaction("a")
    world.turn()
    world.lane.feed(b"-LOADING please wait\r\n$1\r\na\r\n-ERR EXEC without MULTI\r\n")
    error = cast(Any, transaction.future).value
    assert "ran one by one" in str(error)
    assert judge(error) is Verdict.FAIL


def requests(data: bytes) -> list[list[bytes]]:
    reader = hiredis.Reader()
    reader.feed(data)
    return list(iter(reader.gets, False))


def test_a_reply_that_nobody_asked_for_ends_the_connection() -> None:
    world = Quiet()
    first = world.ask("a")
    world.turn()
    world.lane.feed(b"$1\r\na\r\n+surprise\r\n")
    assert cast(Any, first.future).value == b"a"
    assert world.lane.state is LaneState.CLOSED
    assert world.closed == 1


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*1\r\n" * 100_000, b"*4294967295\r\n", b"$-7\r\n",
     b"%1\r\n*1\r\n:1\r\n:2\r\n", b"*-2\r\n"],
    ids=["http", "nested", "huge", "negative", "unhashable", "count"],
)  # fmt: skip
def test_garbage_ends_the_connection_and_only_what_waits_on_it(garbage: bytes) -> None:
    world = Quiet()
    answered, waiting = world.ask("a"), world.ask("b")
    world.turn()
    world.lane.feed(b"$1\r\na\r\n" + garbage)
    assert cast(Any, answered.future).value == b"a"
    assert "unreadable" in str(cast(Any, waiting.future).value)
    assert world.sent_and_lost == [waiting]
    assert world.in_flight == 0
    world.lane.feed(b"$1\r\nb\r\n")  # what still comes is not looked at


def test_a_right_that_is_taken_away_ends_the_connection_before_anybody_gets_a_wrong_reply() -> None:
    """CLIENT REPLY SKIP is then answered by an error, in the place of another command's reply."""
    world = Quiet()
    world.lane.skips_replies = True
    first, second = world.ask("a"), world.ask("b")
    world.turn()
    world.lane.feed(
        b"$1\r\na\r\n-NOPERM User x has no permissions to run the 'client|reply' command\r\n:0\r\n$1\r\nb\r\n"
    )
    assert cast(Any, first.future).value == b"a"
    assert "may not be left out any more" in str(cast(Any, second.future).value)
    assert world.sent_and_lost == [second]


def test_a_connection_that_comes_too_late_is_closed_at_once() -> None:
    world = Quiet()
    lane = Lane(world, name="late", call_soon=world.soon.append, now=lambda: 0.0)
    lane.close(RedisConnectionError("given up"))
    closed: list[str] = []
    lane.opened(world.written.append, lambda: closed.append("closed"))
    assert closed == ["closed"]
    assert lane.state is LaneState.CLOSED


def test_silence_is_measured_only_while_a_reply_is_owed() -> None:
    world = Quiet()
    world.now_s = 100.0
    assert world.lane.silent_for_s(world.now_s) == 0.0
    world.ask("a")
    world.turn()
    world.now_s = 103.0
    assert world.lane.silent_for_s(world.now_s) == pytest.approx(3.0)
    world.lane.excuse_silence(2.0)
    assert world.lane.silent_for_s(world.now_s) == pytest.approx(1.0)
    world.lane.feed(b"$1\r\na\r\n")
    assert world.lane.silent_for_s(world.now_s + 50) == 0.0


def test_a_reply_that_comes_in_piece_by_piece_is_no_silence_and_still_holds_up_who_is_behind_it() -> None:
    world = Quiet()
    world.now_s = 100.0
    world.ask("a")
    world.turn()
    world.lane.feed(b"$3\r\na")
    world.now_s = 103.0
    world.lane.feed(b"b")
    assert world.lane.silent_for_s(world.now_s) == 0.0
    assert world.lane.behind_for_s(world.now_s) == pytest.approx(3.0)
    world.lane.excuse_silence(1.0)
    assert world.lane.behind_for_s(world.now_s) == pytest.approx(2.0)
    world.ask("b")
    world.turn()
    world.lane.feed(b"c\r\n")
    assert world.lane.behind_for_s(world.now_s) == 0.0


def test_a_listening_lane_takes_arrays_and_errors_for_messages_undecoded() -> None:
    world = Quiet()
    heard: list[Any] = []
    world.on_push = lambda _lane, message: heard.append(message)  # type: ignore[method-assign]
    lane = Lane(world, name="x", call_soon=world.soon.append, now=lambda: 0.0, encoding="utf-8")
    lane.opened(world.written.append, world._closed)
    lane.listening = True
    lane.feed(b"*3\r\n$8\r\nsmessage\r\n$1\r\nc\r\n$2\r\n\xff\xfe\r\n-MOVED 7 h:1\r\n>1\r\n+x\r\n")
    assert heard[0] == [b"smessage", b"c", b"\xff\xfe"]
    assert isinstance(heard[1], MovedError)
    assert heard[2] == [b"x"]
    assert lane.state is LaneState.OPEN


@pytest.mark.parametrize(
    "text", ["MOVED", "MOVED x y", "MOVED 1", "MOVED 1 host:port", "ASK 5 nohost", "ASK"]
)
def test_a_malformed_redirect_is_an_error_and_no_crash(text: str) -> None:
    assert type(server_error(text)) is ResponseError


def test_repr_is_one_readable_line() -> None:
    world = Quiet()
    world.ask("a")
    assert repr(world.lane) == "<Lane node:1 open in_flight=0 queued=1>"
    world.turn()
    assert repr(world.lane) == "<Lane node:1 open in_flight=1 queued=0>"


def many_in_flight(world: Quiet, count: int) -> bytes:
    """Send them, and return the replies to all."""
    for number in range(count):
        world.ask(str(number))
    world.turn()
    return world.server.replies_to(b"".join(world.written))


def test_callers_run_between_a_burst_of_replies() -> None:
    world = Quiet()
    count = 2 * lane_module.REPLIES_PER_TURN_MAX + 1
    world.lane.feed(many_in_flight(world, count))
    assert (world.lane.load, world.lane.has_more) == (count - lane_module.REPLIES_PER_TURN_MAX, True)
    world.turn()
    world.turn()
    assert (world.lane.load, world.lane.has_more, world.in_flight) == (0, False, 0)


def test_replies_that_are_here_are_handed_out_before_the_lane_closes() -> None:
    world = Quiet()
    world.lane.feed(many_in_flight(world, 3 * lane_module.REPLIES_PER_TURN_MAX))
    world.lane.close(RedisConnectionError("reset"))
    assert {cast(Any, command.future).state for command in world.commands} == {"answered"}
    assert not world.sent_and_lost
    world.turn()
    assert world.in_flight == 0


def test_a_defect_while_replies_are_handed_out_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Quiet()
    replies = many_in_flight(world, 3)
    monkeypatch.setattr(world, "on_answered", Mock(side_effect=TypeError("a defect")))
    with pytest.raises(TypeError, match="a defect"):
        world.lane.feed(replies[:-1])
    assert world.lane.state is LaneState.CLOSED
    assert all(command.future.done() for command in world.commands)
