"""One partition at work: read commands and quotes, decide in memory, commit, tell who asked.

One loop a partition. While a batch is being committed the next commands gather, so batches grow with the
load. After a commit whose outcome is not certain everything in memory is thrown away and loaded again; the
commands of that batch are then looked up like repeats, so that each takes effect once and each caller hears
of it.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec
from redis.exceptions import RedisError

from tradewind import RedisCluster, clock
from tradewind.engine.book import Book, Decision, ReviewFailed
from tradewind.engine.house import House
from tradewind.engine.instruments import Quote, QuoteFrame
from tradewind.engine.lease import Leases
from tradewind.engine.messages import Command, decode_command, duplicate_id_answer, encode, fingerprint
from tradewind.engine.store import (
    AnswerKnown,
    Batch,
    Cursor,
    Lease,
    LeaseLost,
    PartitionStore,
    PoisonFull,
    ViewOutdated,
)

COMMANDS_PER_COMMIT_MAX = 256
EVENTS_PER_COMMIT_MAX = 512
# Reviews of accounts pause for commands after so many events, half a millisecond's worth. In a crash of
# 20,000 positions (2 workers) the p99 of others' orders was 360 to 520 ms without a pause.
EVENTS_PER_LOOK = 24
BLOCK_MS = 5_000
RECENT_ANSWERS_MAX = 2_000
ASIDE_MAX = 2 * COMMANDS_PER_COMMIT_MAX  # a batch commits only once all of its breaking commands are known
DROP_APPLIED_EVERY = 1_000  # commands between two trims of the stream
RETRY_S = 0.1
POISON_FULL_RETRY_S = 1.0

Entry = tuple[str, bytes]  # stream id, payload

FINGERPRINT_DIGITS = 16

logger = logging.getLogger(__name__)


@dataclass
class PartitionCounts:
    """What a partition has done since this worker took it."""

    commands: int = 0
    commits: int = 0
    events: int = 0
    reloads: int = 0


@dataclass
class _Work:
    """A batch in the making: its effects, and the answers to publish once it is committed."""

    last_command: str
    events: list[bytes] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, list[bytes]] = field(default_factory=dict)  # by reply_to, each with its body
    touched: dict[str, None] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    poisoned: list[tuple[bytes, str]] = field(default_factory=list)
    first_sequence: int = 0

    def add(self, decision: Decision) -> None:
        if not self.events:
            self.first_sequence = decision.first_sequence
        self.events.extend(encode(event) for event in decision.events)
        self.touched.update(dict.fromkeys(decision.touched))

    def reply(self, command: Command, body: bytes, answer: bytes) -> None:
        """`body` is the fingerprint of what was asked: it answers no other order under the same id."""
        if command.reply_to:
            self.answers.setdefault(command.reply_to, []).append(b'["%b",%b]' % (body, answer))


class PartitionRunner:
    """Runs one leased partition until it is stopped or the lease is lost.

    `on_lost(lease)` is called when another worker has it. `quotes` are handed in by `take_frame`.
    """

    def __init__(
        self,
        client: RedisCluster,
        leases: Leases,
        lease: Lease,
        quotes: dict[str, Quote],
        on_lost: Callable[[Lease], None],
        pace_s: float = 0.0,
        house: House | None = None,
    ) -> None:
        self.lease = lease
        self.counts = PartitionCounts()
        self.ready = asyncio.Event()
        self._client = client
        self._leases = leases
        self._pace_s = pace_s
        self._store = PartitionStore(client, lease.partition)
        self._on_lost = on_lost
        self._known_quotes = quotes  # the worker's board: what every partition starts from
        self._pending_quotes: dict[str, Quote] = {}
        self._commands: list[Entry] = []  # one read's worth; the reader waits until it is taken
        self._replay: list[Entry] = []  # of a batch whose outcome was unknown
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()
        self._read_after = ""
        self._stopping = False
        self._house = house or House()
        self._book = Book(lease.partition, house=self._house)
        self._cursor = Cursor()
        self._reader: asyncio.Task[None] | None = None
        self._recent: dict[str, bytes] = {}  # committed answers by `account:client order id`
        self._drop_at = DROP_APPLIED_EVERY
        self._suspected: dict[bytes, str] = {}  # commands that broke the rules once, by their payload
        self._aside: dict[bytes, str] = {}  # ... and once more, on what was loaded anew
        self._not_reviewed: set[str] = set()  # accounts whose re-evaluation broke the engine
        self._are_quotes_refused = False
        self._is_look_due = False
        self._frame_sequence = 0

    # -- what comes in -----------------------------------------------------------------------------

    def take_frame(self, frame: QuoteFrame) -> None:
        """New quotes. Frames that arrive while the partition is busy are merged: the last quote of a symbol
        wins.
        """
        for quote in frame.quotes:
            self._pending_quotes[quote.symbol] = quote
        self._frame_sequence = frame.sequence
        self._wake.set()

    def stop(self) -> None:
        """Finish the batch at hand and end."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Load the partition and work until stopped, cancelled, or superseded."""
        keeper = asyncio.create_task(self._keep_lease(), name=f"lease p{self.lease.partition}")
        try:
            await self._load()
            self.ready.set()
            while not self._stopping:
                await self._wake.wait()
                self._wake.clear()
                await self._turn()
        except LeaseLost as error:
            logger.info("partition %d: %s", self.lease.partition, error)
            self._on_lost(self.lease)
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await self._stop_reader()

    async def _keep_lease(self) -> None:
        """Renew the lease; a shard that does not answer costs only its own partitions. And as often look what
        the time asks for, also where no quote comes.
        """
        while True:
            await asyncio.sleep(self._leases.lease_ms / 4000)
            self._is_look_due = True
            self._wake.set()
            try:
                if await self._leases.renew(self.lease):
                    continue
            except (RedisError, OSError) as error:
                logger.info("partition %d: renewing: %s", self.lease.partition, error)
                continue
            self._on_lost(self.lease)
            return

    async def _read(self) -> None:
        """Keep one read's worth of commands at hand, so that reading overlaps with committing.

        Reads follow each other no faster than the pace: what comes meanwhile is committed together.
        """
        loop = asyncio.get_running_loop()
        while True:
            after = self._read_after
            try:
                commands = await self._store.read_commands(after, COMMANDS_PER_COMMIT_MAX, BLOCK_MS)
            except (RedisError, OSError) as error:
                logger.info("partition %d: reading commands: %s", self.lease.partition, error)
                await asyncio.sleep(RETRY_S)
                continue
            if not commands:
                continue
            next_s = loop.time() + self._pace_s
            self._commands = commands
            self._read_after = commands[-1][0]
            self._taken.clear()
            self._wake.set()
            await self._taken.wait()
            await asyncio.sleep(max(0.0, next_s - loop.time()))

    # -- one turn ------------------------------------------------------------------------------------

    async def _turn(self) -> None:
        """Quotes first, then commands; a failed commit loads the partition again."""
        entries: list[Entry] = []
        try:
            is_due = self._is_look_due or self._book.is_day_over(clock.now_ms())
            if self._pending_quotes or is_due:
                await self._take_quotes()
            is_replay = bool(self._replay)
            rest = entries = self._take_commands()
            while rest:
                work, rest = await self._decide(rest, is_replay)
                await self._commit(work)
        except AnswerKnown as error:
            logger.info("partition %d: looking answers up: %s", self.lease.partition, error)
            await self._load()
            self._replay, self._read_after = entries, entries[-1][0]
        except PoisonFull as error:
            logger.error(
                "partition %d takes no more commands until there is room: %s", self.lease.partition, error
            )
            await asyncio.sleep(POISON_FULL_RETRY_S)
            await self._load_again(self._replay + entries)
        except (RedisError, OSError, ViewOutdated) as error:
            logger.info("partition %d: loading again: %s", self.lease.partition, error)
            await self._load_again(self._replay + entries)  # a replay that quotes came before still stands

    def _take_commands(self) -> list[Entry]:
        if self._replay:
            entries, self._replay = self._replay, []
            self._wake.set()
            return entries
        entries, self._commands = self._commands, []
        self._taken.set()
        return entries

    async def _take_quotes(self) -> None:
        """Re-evaluate what the quotes touch; commit in pieces, each before the next is decided."""
        frame = QuoteFrame(self._frame_sequence, list(self._pending_quotes.values()))
        self._pending_quotes = {}
        self._is_look_due = False
        work = _Work(self._cursor.command)
        for decision in self._look(frame):
            work.add(decision)
            if len(work.events) >= EVENTS_PER_COMMIT_MAX:
                await self._commit(work)
                work = _Work(self._cursor.command)
        if work.events:
            await self._commit(work)
        if self._book.has_reviews_due:  # after the commands that wait: a crash must not keep them all
            self._is_look_due = True
            self._wake.set()

    def _look(self, frame: QuoteFrame) -> Iterator[Decision]:
        """A defect of the rules must not stop the partition for ever: without the account that meets it, or
        without these quotes, the others trade on.
        """
        try:
            yield from self._book.look(frame, clock.now_ms(), EVENTS_PER_LOOK)
        except ReviewFailed as error:
            logger.exception("partition %d: %s: no more stop-outs", self.lease.partition, error)
            self._not_reviewed.add(error.account)
            self._pending_quotes = {quote.symbol: quote for quote in frame.quotes} | self._pending_quotes
            raise ViewOutdated(f"{error}, and is left out") from error
        except Exception as error:
            logger.exception("partition %d: %r left out", self.lease.partition, frame)
            self._are_quotes_refused = True
            raise ViewOutdated(f"quotes are left out: {type(error).__name__}: {error}") from error

    async def _decide(self, entries: list[Entry], is_replay: bool) -> tuple[_Work, list[Entry]]:
        """Apply commands to the book; repeats get the answer that was kept. Returns what is to be committed,
        and the entries that are left for the next commit: closing all of many accounts makes many events.

        Most repeats come soon, so only recent answers are looked at; the commit refuses a batch with an older
        repeat as a whole, and then all answers are looked up before the batch is decided again.
        """
        work = _Work(self._cursor.command)
        now_ms = clock.now_ms()
        kept = await self._kept_answers(entries, now_ms) if is_replay else {}
        decided = 0
        for entry in entries:
            if len(work.events) >= EVENTS_PER_COMMIT_MAX:
                break
            decided += 1
            command = self._decoded(work, entry)
            if command is None:
                continue
            self.counts.commands += 1
            name = id_field(command)
            known = kept.get(name) or self._recent.get(name) or work.stored.get(name)
            if known is not None:
                body = fingerprint(command).encode()
                work.reply(command, body, _repeated(command, body, known))
            else:
                self._apply(work, command, entry[1], name, now_ms)
        work.last_command = max(self._cursor.command, entries[decided - 1][0], key=stream_order)
        return work, entries[decided:]

    async def _kept_answers(self, entries: list[Entry], now_ms: int) -> dict[str, bytes]:
        """The answers that the cluster keeps, of the commands that were answered before."""
        scratch = _Work(self._cursor.command)
        commands = (self._decoded(scratch, entry) for entry in entries)
        names = [id_field(command) for command in commands if command is not None]
        found = zip(names, await self._store.known_answers(names, now_ms), strict=True)
        return {name: answer for name, answer in found if answer is not None}

    def _decoded(self, work: _Work, entry: Entry) -> Command | None:
        """What cannot be read, or broke the engine before, goes aside with its reason."""
        entry_id, payload = entry
        try:
            if payload in self._aside:
                raise msgspec.DecodeError(self._aside[payload])
            command: Command = decode_command(payload)
            return command
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if stream_order(entry_id) > stream_order(self._cursor.command):  # else it is there already
                work.poisoned.append((payload, str(error)))
            return None

    def _apply(self, work: _Work, command: Command, payload: bytes, name: str, now_ms: int) -> None:
        is_new = command.account not in self._book.accounts
        try:
            decision = self._book.decide(command, now_ms)
        except Exception as error:  # a defect of the rules: this command must not stop its partition for ever
            logger.exception("partition %d: %r broke the rules", self.lease.partition, command)
            self._suspect(payload, f"{type(error).__name__}: {error}")
            raise ViewOutdated(
                f"command {command.id} of account {command.account} broke the rules"
            ) from error
        work.add(decision)
        if is_new and command.account in self._book.accounts:
            work.opened.append(command.account)
        if decision.answer is not None:
            body, answer = fingerprint(command).encode(), encode(decision.answer)
            work.stored[name] = body + answer
            work.reply(command, body, answer)

    def _suspect(self, payload: bytes, reason: str) -> None:
        """The second time it goes aside; the first time what is in memory may be at fault, and is loaded
        again.
        """
        found = self._aside if payload in self._suspected else self._suspected
        found[payload] = reason
        if len(found) > ASIDE_MAX:
            del found[next(iter(found))]

    async def _commit(self, work: _Work) -> None:
        """Write, wait for the replica, then (and only then) tell the callers."""
        if work.events and work.first_sequence != self._cursor.sequence + 1:
            raise ViewOutdated(
                f"events begin at {work.first_sequence}, the cursor is at {self._cursor.sequence}"
            )
        batch = Batch(
            last_command=work.last_command,
            events=work.events,
            answers=work.stored,
            changes=self._book.changes(work.touched),
            opened=work.opened,
            poisoned=work.poisoned,
            drop_applied=self.counts.commands >= self._drop_at,
        )
        self._cursor = await self._store.commit(self.lease, self._cursor, batch, clock.now_ms())
        self.counts.commits += 1
        self.counts.events += len(work.events)
        if batch.drop_applied:
            self._drop_at = self.counts.commands + DROP_APPLIED_EVERY
        self._remember(work.stored)
        if work.answers:
            self._publish(work.answers)

    def _remember(self, answers: dict[str, bytes]) -> None:
        """Keep the last answers at hand; the oldest leave first."""
        recent = self._recent
        recent.update(answers)
        for _ in range(len(recent) - RECENT_ANSWERS_MAX):
            del recent[next(iter(recent))]

    def _publish(self, answers: dict[str, list[bytes]]) -> None:
        """To each process that asked, one message. Not waited for: who hears nothing asks again."""
        for reply_to, items in answers.items():
            channel = self._store.keys.results_channel(reply_to)
            self._client.send_unanswered("SPUBLISH", channel, b"[" + b",".join(items) + b"]")

    # -- loading -------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Take the partition's state from the cluster; try until it answers."""
        while True:
            try:
                state = await self._store.load()
                break
            except (RedisError, OSError) as error:
                logger.info("partition %d: loading: %s", self.lease.partition, error)
                await asyncio.sleep(RETRY_S)
        self._book = Book(
            self.lease.partition,
            state.accounts,
            state.cursor.sequence,
            house=self._house,
            not_reviewed=self._not_reviewed,
        )
        self._cursor = state.cursor
        self._read_after = state.cursor.command
        self._commands = []
        known = {} if self._are_quotes_refused else self._known_quotes
        self._pending_quotes = {**known, **self._pending_quotes}
        self._are_quotes_refused = False
        self._wake.set()
        await self._stop_reader()
        self._reader = asyncio.create_task(self._read(), name=f"read p{self.lease.partition}")

    async def _load_again(self, entries: list[Entry]) -> None:
        """After a commit that failed or whose outcome is unknown: what was applied after all is looked up."""
        self.counts.reloads += 1
        await asyncio.sleep(RETRY_S)
        await self._load()
        applied = stream_order(self._cursor.command)
        self._replay = [entry for entry in entries if stream_order(entry[0]) <= applied]

    async def _stop_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None


def id_field(command: Command) -> str:
    """Where the answer to a command is kept: client order ids are unique within an account."""
    return f"{command.account}:{command.id}"


def stream_order(entry_id: str) -> tuple[int, int]:
    """Stream ids compare as numbers: "9-0" comes before "10-0"."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def _repeated(command: Command, body: bytes, known: bytes) -> bytes:
    """The answer that was given before; another body under the same id is refused."""
    if known.startswith(body):
        return known[FINGERPRINT_DIGITS:]
    return encode(duplicate_id_answer(command))
