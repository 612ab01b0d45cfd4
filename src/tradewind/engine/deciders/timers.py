"""The dead-man timer: a client that falls silent has its resting orders cancelled."""

from tradewind.engine.account import Account
from tradewind.engine.checks import Refusal, find_account
from tradewind.engine.deciders.canceling import cancel_every
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import (
    CANCEL_AFTER_S_MAX,
    Answer,
    CancelAfter,
    CancelTimerEnded,
    CancelTimerSet,
    RejectReason,
)


def cancel_after(ledger: Ledger, command: CancelAfter, now_ms: int) -> Answer:
    """Sets the timer, sets it anew, or takes it off. Passes in every trading state."""
    account = find_account(ledger.accounts, command.account)
    if not 0 <= command.seconds <= CANCEL_AFTER_S_MAX:
        raise Refusal(RejectReason.INVALID_TIMER, f"asked for {command.seconds}")
    due_ms = now_ms + command.seconds * 1_000 if command.seconds else 0
    ledger.record(CancelTimerSet(account=account.id, at_ms=now_ms, cause=command.id, due_ms=due_ms))
    return Answer(
        id=command.id,
        account=account.id,
        status="done",
        balance=account.balance,
        sequence=ledger.event_sequence,
    )


def end_timer(ledger: Ledger, account: Account, now_ms: int) -> None:
    """Nobody set it anew in time."""
    cause = f"time:{now_ms}"
    canceled = cancel_every(ledger, account, cause, now_ms)
    ledger.record(CancelTimerEnded(account=account.id, at_ms=now_ms, cause=cause, canceled=canceled))
