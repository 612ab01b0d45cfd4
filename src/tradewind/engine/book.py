"""The book of one partition: every command and every tick comes through here, and is decided elsewhere.

No I/O and no clock: commands, quotes and the time come in, decisions come out. A decision is already applied
to the accounts here; it takes effect for the world once its events and changes are committed. If the commit
fails, throw the book away and load a new one.

A buy opens at the ask and closes at the bid, a sell the other way round. Nothing trades at a stale quote. An
order is filled if the equity, after the spread it costs, covers the margin of all positions.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from tradewind.engine.account import Account
from tradewind.engine.checks import Refusal
from tradewind.engine.deciders.amending import amend, protect
from tradewind.engine.deciders.canceling import cancel, cancel_all
from tradewind.engine.deciders.closing import close, close_all, close_by
from tradewind.engine.deciders.funding import deposit, open_account, set_group, withdraw
from tradewind.engine.deciders.placing import place
from tradewind.engine.deciders.timers import cancel_after, end_timer
from tradewind.engine.deciders.trading import set_trading
from tradewind.engine.execution import POSITIONS_PER_ACCOUNT_MAX
from tradewind.engine.house import House
from tradewind.engine.instruments import Quote, QuoteFrame
from tradewind.engine.keys import DAY_MS
from tradewind.engine.ledger import Ledger, rebuild
from tradewind.engine.messages import (
    Amend,
    Answer,
    Cancel,
    CancelAfter,
    CancelAll,
    Close,
    CloseAll,
    CloseBy,
    Command,
    Deposit,
    Event,
    OpenAccount,
    OrderRejected,
    Place,
    Protect,
    SetGroup,
    SetTrading,
    Withdraw,
)
from tradewind.engine.quotes import STALE_QUOTE_MS_MAX, QuoteBoard
from tradewind.engine.risk import review
from tradewind.engine.setting_off import expire, set_off
from tradewind.engine.swaps import has_swaps, pay_swaps

__all__ = [
    "POSITIONS_PER_ACCOUNT_MAX",
    "STALE_QUOTE_MS_MAX",
    "Book",
    "Decision",
    "ReviewFailed",
    "rebuild",
]

TIMERS_WAIT_MS: Final = 2_000
"""No dead-man timer ends so soon after a book's first look: the commands that wait are read meanwhile."""


class ReviewFailed(Exception):
    """A defect of the rules, met while `account` was re-evaluated. Load a book that leaves it out."""

    def __init__(self, account: str) -> None:
        super().__init__(f"account {account} cannot be re-evaluated")
        self.account = account


class Decision(msgspec.Struct, frozen=True):
    """What was decided: events in order, the answer if somebody asked, and the accounts that changed.

    `first_sequence` numbers the first event among the partition's events; the others follow without a gap.
    """

    events: list[Event]
    answer: Answer | None
    touched: tuple[str, ...]
    first_sequence: int


class Book:
    """The accounts of one partition. `event_sequence` is the number of the partition's last event.

    `house` has the rules for everybody, and may change at any time. Accounts of `not_reviewed` are neither
    called nor stopped out by quotes.
    """

    def __init__(
        self,
        partition: int,
        accounts: Iterable[Account] = (),
        event_sequence: int = 0,
        *,
        house: House | None = None,
        stale_quote_ms_max: int = STALE_QUOTE_MS_MAX,
        not_reviewed: Iterable[str] = (),
    ) -> None:
        self._not_reviewed = frozenset(not_reviewed)
        self._to_review: dict[str, list[Quote]] = {}  # account -> the quotes that made it due
        self._swapped_day = 0
        self._timers_from_ms: int | None = None
        self.quotes = QuoteBoard(stale_quote_ms_max)
        self._ledger = Ledger(partition, accounts, event_sequence, self.quotes, house or House())

    @property
    def partition(self) -> int:
        return self._ledger.partition

    @property
    def accounts(self) -> Mapping[str, Account]:
        return self._ledger.accounts

    @property
    def event_sequence(self) -> int:
        return self._ledger.event_sequence

    def __repr__(self) -> str:
        positions = sum(len(account.positions) for account in self.accounts.values())
        return (
            f"<Book {{p{self.partition}}}: {len(self.accounts)} accounts, {positions} positions, "
            f"event {self.event_sequence}, {len(self.quotes.last)} quotes>"
        )

    def decide(self, command: Command, now_ms: int) -> Decision:
        """Decides one command. A repeated client order id must have been answered before it gets here."""
        first_sequence = self.event_sequence + 1
        touched: tuple[str, ...] = (command.account,)
        try:
            answer = _DECIDERS[type(command)](self._ledger, command, now_ms)
        except Refusal as refusal:
            answer = self._refuse(command, refusal, now_ms)
            touched = ()
        return Decision(self._ledger.take_events(), answer, touched, first_sequence)

    @property
    def has_reviews_due(self) -> bool:
        """The last look ended at its maximum of events, with accounts left to be reviewed."""
        return bool(self._to_review)

    def is_day_over(self, now_ms: int) -> bool:
        """A day has ended since the last look: a look belongs before the next command, which may close what
        swaps are owed for.
        """
        return now_ms // DAY_MS > self._swapped_day

    def on_frame(self, frame: QuoteFrame, now_ms: int) -> list[Decision]:
        """All of `look` at once."""
        return list(self.look(frame, now_ms))

    def look(
        self, frame: QuoteFrame, now_ms: int, reviews_until_events: int = sys.maxsize
    ) -> Iterator[Decision]:
        """Takes new quotes, which may be none, and does what is due: ends orders whose day is over and
        dead-man timers, and pays swaps; then, the oldest first, closes positions at their stop-loss or
        take-profit and fills orders; then reviews accounts.

        One decision for each order and position that was set off, and for each account, by id, that is
        called, restored or stopped out. No account is reviewed any more once there are so many events; those
        that are left come first in the next look, at the quotes that there are by then.

        Nothing is decided before it is asked for. An account may be part of several decisions: whoever
        commits in pieces takes the `changes` of one before asking for the next decision.

        :raises ReviewFailed: a defect; what is not committed yet must not be
        """
        moved = [quote for quote in frame.quotes if self.quotes.take(quote, now_ms)]
        fresh = [quote for quote in moved if self.quotes.is_fresh(quote.symbol, now_ms)]
        ledger, first_sequence = self._ledger, self.event_sequence
        for trigger in ledger.triggers.expired(now_ms):
            yield from self._decided(trigger.account, partial(expire, ledger, trigger, now_ms))
        for account_id in self._timers_due(now_ms):
            account = self.accounts[account_id]
            yield from self._decided(account_id, partial(end_timer, ledger, account, now_ms))
        yield from self._pay_swaps(now_ms)
        for trigger in ledger.triggers.due(fresh):
            yield from self._decided(trigger.account, partial(set_off, ledger, trigger, now_ms))
        self._to_review.update(dict.fromkeys(ledger.watch.due(moved), moved))
        yield from self._review(now_ms, first_sequence + reviews_until_events)

    def _review(self, now_ms: int, sequence_max: int) -> Iterator[Decision]:
        """A command may have closed meanwhile what the quotes made due."""
        for account_id in sorted(self._to_review):
            if self.event_sequence >= sequence_max:
                return
            moved = self._to_review.pop(account_id)
            account = self.accounts[account_id]
            if {quote.symbol for quote in moved}.isdisjoint(symbol for symbol, _ in account.legs):
                continue
            yield from self._decided(account_id, partial(review, self._ledger, account, moved, now_ms))

    def _timers_due(self, now_ms: int) -> list[str]:
        """Who set a timer anew while the partition had no owner is heard before that timer ends."""
        if self._timers_from_ms is None:
            self._timers_from_ms = now_ms + TIMERS_WAIT_MS
        if now_ms < self._timers_from_ms:
            return []
        return sorted(id for id, due_ms in self._ledger.timers.items() if due_ms <= now_ms)

    def _pay_swaps(self, now_ms: int) -> Iterator[Decision]:
        """With the first look of a day, and the first look of a new owner."""
        if not self.is_day_over(now_ms):
            return
        self._swapped_day = now_ms // DAY_MS
        for account_id in sorted(id for id, account in self.accounts.items() if has_swaps(account)):
            account = self.accounts[account_id]
            yield from self._decided(account_id, partial(pay_swaps, self._ledger, account, now_ms))

    def _decided(self, account_id: str, what: Callable[[], None]) -> Iterator[Decision]:
        """What is decided about an account, if it is anything."""
        if account_id in self._not_reviewed:
            return
        first_sequence = self.event_sequence + 1
        try:
            what()
        except Exception as error:
            raise ReviewFailed(account_id) from error
        if self.event_sequence >= first_sequence:
            yield Decision(self._ledger.take_events(), None, (account_id,), first_sequence)

    def changes(self, account_ids: Iterable[str]) -> dict[str, tuple[dict[str, str], list[str]]]:
        """For each account that changed: fields of its stored hash to set, and to delete.

        They are relative to the call before for that account: commit what each call gave, in order.
        """
        ledger = self._ledger
        taken = {id: ledger.changes.take(ledger.accounts[id]) for id in dict.fromkeys(account_ids)}
        return {id: change for id, change in taken.items() if change != ({}, [])}

    def _refuse(self, command: Command, refusal: Refusal, now_ms: int) -> Answer:
        kind = type(command).__struct_config__.tag
        self._ledger.record(
            OrderRejected(
                account=command.account,
                at_ms=now_ms,
                cause=command.id,
                command=str(kind),
                reason=refusal.reason,
                text=str(refusal),
            )
        )
        return Answer(
            id=command.id,
            account=command.account,
            status="rejected",
            reason=refusal.reason,
            text=str(refusal),
            sequence=self.event_sequence,
        )


_DECIDERS: Final[Mapping[type[Command], Callable[[Ledger, Any, int], Answer]]] = {
    OpenAccount: open_account,
    Deposit: deposit,
    Place: place,
    Amend: amend,
    Cancel: cancel,
    CancelAll: cancel_all,
    Protect: protect,
    Close: close,
    CloseBy: close_by,
    CloseAll: close_all,
    SetTrading: set_trading,
    SetGroup: set_group,
    CancelAfter: cancel_after,
    Withdraw: withdraw,
}
