"""What a run must leave behind: computed from the histories of the clients and from what the cluster holds.

Two parts. The audit of `tradewind audit` proves the cluster by itself and against each answer: events without
a gap, no effect twice, every account and every sum as its events say, every stored answer as it happened.
Here each question is held against the answer that the cluster keeps under its id:

1. The same body got that answer, byte for byte, however often and through whomever it was asked.
2. Another body was refused as a duplicate.
3. No answer was given that the cluster does not know: an acknowledged order would be missing.
4. Every question that was handed in was answered, those of the faults within 10 s of their end.
5. What was asked after another answer had come also happened after it.
"""

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from tests.ledger.history import Asking, askings
from tradewind import RedisCluster, clock
from tradewind.engine.keys import DAY_MS, PartitionKeys, partition_of
from tradewind.engine.messages import (
    Answer,
    RejectReason,
    decode_answer,
    duplicate_id_answer,
    encode,
    fingerprint,
)
from tradewind.engine.partition import FINGERPRINT_DIGITS, id_field
from tradewind.ops.audit import AuditResult, audit, stored_answers
from tradewind.ops.journal import JournalEntry

RESOLVED_S_MAX = 10.0
PASSES = 4
"""The histories are read so many times, each time for another part of the partitions: they may be long."""

SENTENCES_MAX = 20


@dataclass
class Verdict:
    """`found` counts what is wrong by its name. `slowest_s`: how long after the faults' end the last answer
    came; `longest_s`: how long any caller waited for an answer that came, and for which.
    """

    audit: AuditResult
    askings: int = 0
    told: int = 0
    orders: int = 0
    repeats: int = 0
    refused_bodies: int = 0
    unanswered: int = 0
    """Askings whose caller waited as long as callers do and heard nothing: it asked again, and was told."""
    slowest_s: float = 0.0
    longest_s: float = 0.0
    longest: str = ""
    found: Counter[str] = field(default_factory=Counter)
    sentences: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return self.audit.clean and not self.found and not self.audit.put_aside

    def say(self, name: str, sentence: str) -> None:
        self.found[name] += 1
        if len(self.sentences) < SENTENCES_MAX:
            self.sentences.append(f"{name}: {sentence}")


async def check(
    client: RedisCluster, partitions: int, histories: Sequence[Path], faults_ended_ns: int
) -> Verdict:
    """Nothing may be asked meanwhile. Reads only."""
    entries = (JournalEntry(asking.command, asking.answer) for path in histories for asking in askings(path))
    verdict = Verdict(await audit(client, partitions, entries))
    today = clock.now_ms() // DAY_MS
    for part in range(PASSES):
        asked: dict[int, list[Asking]] = {
            partition: [] for partition in range(partitions) if partition % PASSES == part
        }
        for asking in (asking for path in histories for asking in askings(path)):
            partition = partition_of(asking.command.account, partitions)
            if partition in asked:
                asked[partition].append(asking)
        for partition, some in asked.items():
            kept = [pair async for pair in stored_answers(client, PartitionKeys(partition), today)]
            check_partition(verdict, some, dict(kept), faults_ended_ns)
    return verdict


def check_partition(
    verdict: Verdict, asked: Iterable[Asking], stored: Mapping[str, bytes], faults_ended_ns: int
) -> None:
    """Hold the questions of one partition against the answers that it keeps, by id."""
    groups: defaultdict[str, list[Asking]] = defaultdict(list)
    for asking in asked:
        groups[id_field(asking.command)].append(asking)
    verdict.orders += len(groups)
    for name, group in groups.items():
        _check_answers(verdict, name, group, stored.get(name))
        _check_resolved(verdict, name, group, faults_ended_ns)
    _check_order(verdict, groups, stored)


def _check_answers(verdict: Verdict, name: str, group: list[Asking], kept: bytes | None) -> None:
    verdict.askings += len(group)
    verdict.unanswered += sum(
        asking.how == "unknown" and _waited_s(asking) > RESOLVED_S_MAX for asking in group
    )
    for asking, told in _answered(group):
        verdict.told += 1
        if _waited_s(asking) > verdict.longest_s:
            verdict.longest_s, verdict.longest = _waited_s(asking), name
        if kept is None:
            verdict.say("missing", f"{name} was told {_text(told)}, and no answer is kept")
        elif _is_body_of(asking, kept):
            _check_same(verdict, name, told, kept)
        else:
            verdict.refused_bodies += 1
            if told != duplicate_id_answer(asking.command):
                verdict.say("not refused", f"{name}: {asking.command!r} was told {_text(told)}")
    verdict.repeats += max(0, sum(1 for _ in _answered(group)) - 1)


def _check_same(verdict: Verdict, name: str, told: Answer, kept: bytes) -> None:
    answer = kept[FINGERPRINT_DIGITS:]
    if told.reason is RejectReason.DUPLICATE_ID:
        verdict.say("refused", f"{name}: its own body was refused as another's")
    elif encode(told) != answer:
        verdict.say("changed", f"{name} was told {_text(told)}, kept is {answer.decode()}")


def _check_resolved(verdict: Verdict, name: str, group: list[Asking], faults_ended_ns: int) -> None:
    """Every body that was handed in has an answer in the end."""
    bodies: defaultdict[str, list[Asking]] = defaultdict(list)
    for asking in group:
        if asking.how != "not_sent":
            bodies[fingerprint(asking.command)].append(asking)
    for body in bodies.values():
        told_ns = min((asking.ended_ns for asking, _ in _answered(body)), default=None)
        if told_ns is None:
            verdict.say("unresolved", f"{name}: {body[0].command!r} never had an answer")
        elif body[0].asked_ns < faults_ended_ns:
            late_s = (told_ns - faults_ended_ns) / 1e9
            verdict.slowest_s = max(verdict.slowest_s, late_s)
            if late_s > RESOLVED_S_MAX:
                verdict.say("late", f"{name} had its answer {late_s:.1f} s after the last fault")


def _check_order(verdict: Verdict, groups: Mapping[str, list[Asking]], stored: Mapping[str, bytes]) -> None:
    """By the events' sequence: what was first asked after an answer was told, happened after that answer's
    event. An answer that was told too early, or an order that took effect again, breaks it.
    """
    spans = sorted(_spans(groups, stored))
    told_ns = [ended_ns for ended_ns, *_ in spans]
    latest = list(accumulate((sequence for *_, sequence, _ in spans), max))
    for _, asked_ns, sequence, name in spans:
        before = bisect.bisect_left(told_ns, asked_ns)
        if before and latest[before - 1] >= sequence:
            verdict.say("order", f"{name} is event {sequence}, after {latest[before - 1]} had been told")


def _spans(
    groups: Mapping[str, list[Asking]], stored: Mapping[str, bytes]
) -> Iterator[tuple[int, int, int, str]]:
    """Of each order that took effect and was told: first told, first asked, its event's sequence."""
    for name, group in groups.items():
        kept = stored.get(name)
        own = [asking for asking in group if kept is not None and _is_body_of(asking, kept)]
        told_ns = [asking.ended_ns for asking, _ in _answered(own)]
        if kept is not None and told_ns:
            sequence = decode_answer(kept[FINGERPRINT_DIGITS:]).sequence
            yield min(told_ns), min(asking.asked_ns for asking in own), sequence, name


def _answered(group: Iterable[Asking]) -> Iterator[tuple[Asking, Answer]]:
    return ((asking, asking.answer) for asking in group if asking.answer is not None)


def _waited_s(asking: Asking) -> float:
    return (asking.ended_ns - asking.asked_ns) / 1e9


def _is_body_of(asking: Asking, kept: bytes) -> bool:
    return kept.startswith(fingerprint(asking.command).encode())


def _text(answer: Answer) -> str:
    return encode(answer).decode()
