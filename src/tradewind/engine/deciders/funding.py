"""Opening accounts and paying into them."""

from tradewind.engine.checks import Refusal, find_account
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import (
    DEPOSIT_CENTS_MAX,
    LEVERAGE_MAX,
    AccountOpened,
    Answer,
    Deposit,
    Deposited,
    OpenAccount,
    RejectReason,
)
from tradewind.engine.risk import restore_if_recovered


def open_account(ledger: Ledger, command: OpenAccount, now_ms: int) -> Answer:
    if command.account in ledger.accounts:
        raise Refusal(RejectReason.ACCOUNT_EXISTS, command.account)
    if not 1 <= command.leverage <= LEVERAGE_MAX:
        raise Refusal(RejectReason.INVALID_LEVERAGE, f"asked for {command.leverage}")
    ledger.record(
        AccountOpened(account=command.account, at_ms=now_ms, cause=command.id, leverage=command.leverage)
    )
    return Answer(
        id=command.id, account=command.account, status="done", balance=0, sequence=ledger.event_sequence
    )


def deposit(ledger: Ledger, command: Deposit, now_ms: int) -> Answer:
    account = find_account(ledger.accounts, command.account)
    if not 1 <= command.amount <= DEPOSIT_CENTS_MAX:
        raise Refusal(RejectReason.INVALID_AMOUNT, f"asked for {command.amount}")
    ledger.record(
        Deposited(
            account=account.id,
            at_ms=now_ms,
            cause=command.id,
            amount=command.amount,
            balance=account.balance + command.amount,
        )
    )
    answer = Answer(
        id=command.id,
        account=command.account,
        status="done",
        balance=account.balance,
        sequence=ledger.event_sequence,
    )
    restore_if_recovered(ledger, account, command.id, now_ms)
    return answer
