"""Opening accounts, the terms they trade on, paying in and out."""

from tradewind.engine.checks import Refusal, find_account
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import (
    DEPOSIT_CENTS_MAX,
    AccountOpened,
    Answer,
    CommandBase,
    Deposit,
    Deposited,
    GroupChanged,
    OpenAccount,
    RejectReason,
    SetGroup,
    Withdraw,
    Withdrawn,
)
from tradewind.engine.messages.groups import DEFAULT_TERMS, Terms
from tradewind.engine.risk import restore_if_recovered
from tradewind.engine.swaps import pay_swaps


def open_account(ledger: Ledger, command: OpenAccount, now_ms: int) -> Answer:
    if command.account in ledger.accounts:
        raise Refusal(RejectReason.ACCOUNT_EXISTS, command.account)
    terms = _find_terms(ledger, command.group)
    leverage = _leverage(terms, command.leverage)
    ledger.record(
        AccountOpened(
            account=command.account,
            at_ms=now_ms,
            cause=command.id,
            leverage=leverage,
            terms=None if terms == DEFAULT_TERMS else terms,
        )
    )
    return _done(ledger, command, 0)


def set_group(ledger: Ledger, command: SetGroup, now_ms: int) -> Answer:
    """Nights that are over are paid on the terms that the account had."""
    account = find_account(ledger.accounts, command.account)
    terms = _find_terms(ledger, command.group)
    leverage = _leverage(terms, command.leverage)
    pay_swaps(ledger, account, now_ms)
    ledger.record(
        GroupChanged(
            account=account.id,
            at_ms=now_ms,
            cause=command.id,
            leverage=leverage,
            terms=None if terms == DEFAULT_TERMS else terms,
        )
    )
    answer = _done(ledger, command, account.balance)
    restore_if_recovered(ledger, account, command.id, now_ms)
    return answer


def deposit(ledger: Ledger, command: Deposit, now_ms: int) -> Answer:
    account = find_account(ledger.accounts, command.account)
    _check_amount(command.amount)
    ledger.record(
        Deposited(
            account=account.id,
            at_ms=now_ms,
            cause=command.id,
            amount=command.amount,
            balance=account.balance + command.amount,
        )
    )
    answer = _done(ledger, command, account.balance)
    restore_if_recovered(ledger, account, command.id, now_ms)
    return answer


def withdraw(ledger: Ledger, command: Withdraw, now_ms: int) -> Answer:
    """No more than the balance, and no more than the free margin at fresh quotes."""
    account = find_account(ledger.accounts, command.account)
    _check_amount(command.amount)
    for symbol, _ in account.legs:
        ledger.quotes.fresh(symbol, now_ms)
    free = account.free_margin(ledger.quotes.last)
    if free is None:
        raise Refusal(RejectReason.NO_QUOTE, "the equity is not known")
    if command.amount > min(free, account.balance):
        numbers = f"{command.amount} cents asked; the balance is {account.balance}, {free} are free"
        raise Refusal(RejectReason.INSUFFICIENT_FUNDS, numbers)
    ledger.record(
        Withdrawn(
            account=account.id,
            at_ms=now_ms,
            cause=command.id,
            amount=command.amount,
            balance=account.balance - command.amount,
        )
    )
    return _done(ledger, command, account.balance)


def _check_amount(amount: int) -> None:
    if not 1 <= amount <= DEPOSIT_CENTS_MAX:
        raise Refusal(RejectReason.INVALID_AMOUNT, f"asked for {amount}")


def _find_terms(ledger: Ledger, group: str) -> Terms:
    """The group as it is in the cluster; the built-in one is there from the beginning."""
    terms = ledger.house.groups.get(group)
    if terms is None and group == DEFAULT_TERMS.group:
        return DEFAULT_TERMS
    if terms is None:
        raise Refusal(RejectReason.UNKNOWN_GROUP, group)
    return terms


def _leverage(terms: Terms, asked: int | None) -> int:
    if asked is None:
        return terms.leverage
    if not 1 <= asked <= terms.leverage_max:
        raise Refusal(
            RejectReason.INVALID_LEVERAGE,
            f"asked for {asked}; group {terms.group} allows 1 to {terms.leverage_max}",
        )
    return asked


def _done(ledger: Ledger, command: CommandBase, balance: int) -> Answer:
    return Answer(
        id=command.id,
        account=command.account,
        status="done",
        balance=balance,
        sequence=ledger.event_sequence,
    )
