"""The audit of one partition, as plain code: events in, then what was stored and told, findings out.

From the events alone it derives the accounts, and for each client order id the one answer that its caller
must have got. Accounts in the cluster, stored answers and the callers' journal are then held against that,
byte for byte.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from tradewind.engine.account import Account, apply, to_fields
from tradewind.engine.cash import cash_flows
from tradewind.engine.errors import InconsistentEvent
from tradewind.engine.keys import DAY_MS
from tradewind.engine.messages import (
    Answer,
    Command,
    Event,
    PositionClosed,
    RejectReason,
    decode_answer,
    decode_event,
    encode,
)
from tradewind.engine.partition import FINGERPRINT_DIGITS, id_field
from tradewind.ops.attribution import Attribution, Effect, asked_words
from tradewind.ops.journal import JournalEntry

FINDINGS_MAX = 20
"""Sentences kept for people; the counts go on."""


@dataclass
class Findings:
    """What is wrong. All zero: nothing."""

    lost: int = 0
    """Commands whose caller (or whose stored answer) has an answer, and no event."""
    duplicated: int = 0
    """Effects beyond the first one of a client order id."""
    balance_errors: int = 0
    """Accounts that do not follow from their events."""
    gaps: int = 0
    """Events missing or unreadable."""
    mismatched: int = 0
    """Commands whose caller was told something else than what happened."""
    answer_errors: int = 0
    """Commands whose stored answer is missing, or is not what happened."""
    journal_errors: int = 0
    """Outcomes that callers were told and the journal has not, or the other way round."""
    sentences: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        counts = (self.lost, self.duplicated, self.balance_errors, self.gaps)
        return not any((*counts, self.mismatched, self.answer_errors, self.journal_errors))

    def say(self, sentence: str) -> None:
        if len(self.sentences) < FINDINGS_MAX:
            self.sentences.append(sentence)

    def add(self, other: "Findings") -> None:
        for name in ("lost", "duplicated", "balance_errors", "gaps", "mismatched", "answer_errors"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for sentence in other.sentences:
            self.say(sentence)


class PartitionAudit:
    """Feed it every event in order, then call the checks.

    Memory is that of the accounts, and of what the commands of `effects_kept_ms` did: longer than their
    answers are kept, after which an id may be used again. None: of all commands, as a journal needs them.
    """

    def __init__(self, partition: int, effects_kept_ms: int | None = None) -> None:
        self.partition = partition
        self._effects_kept_ms = effects_kept_ms
        self.findings = Findings()
        self.accounts: dict[str, Account] = {}
        self.sequence = 0
        self.events = 0
        self.begins_after = 0
        """Events up to this one are not looked at: a checkpoint stands for them."""
        self.stop_outs: list[PositionClosed] = []
        self._effects: dict[str, Effect] = {}
        self._duplicated: Counter[str] = Counter()
        self._money: Counter[str] = Counter()
        self._balances: Counter[str] = Counter()  # as the last event of the account states it
        self._lost: set[str] = set()
        self._wrong: set[str] = set()
        self._attribution = Attribution()

    def begin(self, sequence: int, accounts: Mapping[str, Account]) -> None:
        """Begin behind event `sequence`, with the accounts as they were there, instead of with none."""
        self.begins_after = self.sequence = sequence
        self.accounts = dict(accounts)
        self._money.update({name: account.balance for name, account in accounts.items()})
        self._balances.update(self._money)

    # -- events ----------------------------------------------------------------------------------------

    def take(self, stream_id: str, payload: bytes | None) -> None:
        """The next event of the stream."""
        number, _, rest = stream_id.partition("-")
        sequence = int(number)
        missing = sequence - self.sequence - 1
        if missing > 0:
            self.findings.gaps += missing
            self._say(f"{missing} events missing before event {sequence}")
        self.sequence = sequence
        self.events += 1
        try:
            event = decode_event(payload or b"")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.findings.gaps += 1
            self._say(f"event {stream_id} cannot be read: {error}")
            return
        if rest != "0":
            self.findings.gaps += 1
            self._say(f"event {stream_id} is not one of the engine's")
        self._apply(event, sequence)
        for effect in self._attribution.take(event, sequence, self._balances[event.account]):
            self._take_effect(effect)

    def end(self, cursor_sequence: int) -> None:
        """No more events; the cursor names the last one."""
        for effect in self._attribution.end():
            self._take_effect(effect)
        missing = cursor_sequence - self.sequence
        if missing:
            self.findings.gaps += abs(missing)
            self._say(f"the cursor is at event {cursor_sequence}, the last event is {self.sequence}")

    def _apply(self, event: Event, sequence: int) -> None:
        self._money[event.account] += sum(cents for _, cents in cash_flows(event))
        balance: int | None = getattr(event, "balance", None)
        if balance is not None:
            self._balances[event.account] = balance
        if type(event) is PositionClosed and event.reason == "stop_out":
            self.stop_outs.append(event)
        try:
            apply(self.accounts, event)
        except InconsistentEvent as error:
            self._account_wrong(event.account, f"event {sequence}: {error}")

    def _take_effect(self, effect: Effect) -> None:
        self._forget_before(effect.at_ms)
        known = self._effects.get(effect.key)
        if known is None:
            self._effects[effect.key] = effect
        elif effect.completes:  # the order rests since a moment, and now a part of it is filled
            self._effects[effect.key] = effect._replace(asked=known.asked)
        else:
            self._duplicated[effect.key] += 1
            self.findings.duplicated += 1
            self._say(f"{effect.key} took effect again at event {effect.sequence}")

    def _forget_before(self, now_ms: int) -> None:
        """Effects stand in the order of their events, so the oldest are the first."""
        while self._effects and self._effects_kept_ms is not None:
            oldest = next(iter(self._effects))
            if self._effects[oldest].at_ms >= now_ms - self._effects_kept_ms:
                return
            del self._effects[oldest]

    # -- what is held against the events ---------------------------------------------------------------

    def check_accounts(self, stored: Mapping[str, Mapping[str, str]]) -> None:
        """Accounts as the cluster has them, by id; each must be the rebuilt one, field for field."""
        for name, fields in stored.items():
            account = self.accounts.get(name)
            expected = to_fields(account) if account is not None else {}
            if dict(fields) != expected:
                self._account_wrong(name, _difference(expected, fields))

    def check_money(self) -> None:
        """Balance is all that was paid, earned and taken; used margin is the open positions' margins."""
        for name, account in self.accounts.items():
            margin = sum(position.margin for position in account.positions.values())
            if account.balance != self._money[name]:
                self._account_wrong(name, f"balance {account.balance} is not its sum {self._money[name]}")
            if account.used_margin != margin:
                self._account_wrong(name, f"used margin {account.used_margin} is not its sum {margin}")

    def check_stored_answers(self, stored: Iterable[tuple[str, bytes]], today: int) -> None:
        """Answers kept for repeats. Each needs its event; each event since yesterday needs its answer."""
        found: set[str] = set()
        for key, value in stored:
            found.add(key)
            effect = self._effects.get(key)
            if effect is None:
                if not self._is_before(decode_answer(value[FINGERPRINT_DIGITS:])):
                    self._command_lost(key, "has a stored answer and no event")
            elif value[FINGERPRINT_DIGITS:] != effect.answer:
                self.findings.answer_errors += 1
                self._say(f"{key}: stored {_text(value)}, the events say {_text(effect.answer)}")
        for key, effect in self._effects.items():
            if key not in found and effect.at_ms >= (today - 1) * DAY_MS:
                self.findings.answer_errors += 1
                self._say(f"{key} has an event and no stored answer: a repeat would run again")

    def check_told(self, entries: Iterable[JournalEntry]) -> None:
        """What callers were told. An unknown outcome may have happened or not; an answer must have."""
        for asked, told in ((entry.asked, entry.told) for entry in entries):
            if told is None or told.reason is RejectReason.DUPLICATE_ID:
                continue
            key = id_field(asked)
            effect = self._effects.get(key)
            if effect is None:
                if self._is_before(told):
                    continue
                self._command_lost(key, f"has no event; its caller was told {_text(encode(told))}")
            elif encode(told) != effect.answer or not _fits(asked, told, effect):
                self.findings.mismatched += 1
                happened = f"{effect.asked}: {_text(effect.answer)}"
                self._say(f"{key}: its caller was told {_text(encode(told))}, the events say {happened}")

    def _is_before(self, answer: Answer) -> bool:
        """Whether the event that decided it is one of those that are not looked at."""
        return 0 < answer.sequence <= self.begins_after

    def _command_lost(self, key: str, what: str) -> None:
        if key not in self._lost:
            self._lost.add(key)
            self.findings.lost += 1
        self._say(f"{key} {what}")

    def _account_wrong(self, account: str, what: str) -> None:
        if account not in self._wrong:
            self._wrong.add(account)
            self.findings.balance_errors += 1
        self._say(f"account {account}: {what}")

    def _say(self, sentence: str) -> None:
        self.findings.say(f"partition {self.partition}: {sentence}")


def _fits(asked: Command, told: Answer, effect: Effect) -> bool:
    """Whether the effect is one of what was asked. A refusal's event only names the kind."""
    words = asked_words(asked)
    if told.status == "rejected":
        return effect.asked == words.partition(" ")[0]
    return effect.asked.startswith(words) if words.endswith(" ") else effect.asked == words


def _difference(expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    if not found:
        return "is in the events and not in the cluster"
    if not expected:
        return "is in the cluster and not in the events"
    names = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    shown = [f"{name} is {found.get(name)}, the events say {expected.get(name)}" for name in names[:2]]
    return "; ".join(shown) + (f" and {len(names) - 2} fields more" if len(names) > 2 else "")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
