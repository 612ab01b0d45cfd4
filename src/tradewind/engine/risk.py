"""Margin call and stop-out, at the levels of the account's group; those of the built-in group are here.

- Below a margin level of 100 % the account is called, once until it is back at 110 %: an account that hovers
  around its limit would else be called with every tick.
- Below 50 % its positions are closed at the quote, largest loss first (the oldest first among equals), one by
  one until the level is back at 50 %. Positions without a fresh quote, or outside the hours of
  their symbol, are left until they have one within them.
- A gap in the prices can make a balance negative. It stays so until a deposit, unless the group forgives it:
  then the balance is set to zero once nothing is open.
"""

from typing import Final

from tradewind.engine.account import Account
from tradewind.engine.instruments import Quote
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import DebtForgiven, MarginCall, MarginRestored
from tradewind.engine.messages.groups import DEFAULT_TERMS

MARGIN_CALL_PERCENT: Final = DEFAULT_TERMS.margin_call_percent
MARGIN_RESTORED_PERCENT: Final = DEFAULT_TERMS.margin_restored_percent
STOP_OUT_PERCENT: Final = DEFAULT_TERMS.stop_out_percent


def review(ledger: Ledger, account: Account, moved: list[Quote], now_ms: int) -> None:
    """Values an account that holds at least one symbol that moved, and does what its level asks for."""
    equity = ledger.equity(account)
    if equity is None:
        return  # it cannot be valued; the first quote of the missing symbol finds it still due
    terms = account.terms
    cushion = equity - -(-account.used_margin * terms.margin_call_percent // 100)
    if not account.margin_called and cushion >= 0:
        ledger.watch.look_when_spent(account, cushion, ledger.quotes.last)
        return
    cause = _cause(account, moved)
    if not account.margin_called:
        call = MarginCall(
            account=account.id, at_ms=now_ms, cause=cause, equity=equity, used_margin=account.used_margin
        )
        ledger.record(call)
    if _is_below(terms.stop_out_percent, equity, account.used_margin):
        _stop_out(ledger, account, cause, now_ms)
    restore_if_recovered(ledger, account, cause, now_ms)


def restore_if_recovered(ledger: Ledger, account: Account, cause: str, now_ms: int) -> None:
    """Ends a margin call, and forgives a debt that can be. Belongs after all that may raise the level or end
    the last position: a tick, a deposit, a close.
    """
    if account.balance < 0 and account.terms.forgives_debt and not account.positions:
        ledger.record(
            DebtForgiven(account=account.id, at_ms=now_ms, cause=cause, amount=-account.balance, balance=0)
        )
    equity = ledger.equity(account) if account.margin_called else None
    if equity is None or _is_below(account.terms.margin_restored_percent, equity, account.used_margin):
        return
    restored = MarginRestored(
        account=account.id, at_ms=now_ms, cause=cause, equity=equity, used_margin=account.used_margin
    )
    ledger.record(restored)


def _stop_out(ledger: Ledger, account: Account, cause: str, now_ms: int) -> None:
    """Looks at the level again after each close. Quotes stand still meanwhile, so sorting once is enough."""
    quotes, markup = ledger.quotes, account.terms.markup_points
    for position in sorted(
        account.positions.values(), key=lambda position: position.profit(quotes.last, markup)
    ):
        equity = ledger.equity(account)
        if equity is None or not _is_below(account.terms.stop_out_percent, equity, account.used_margin):
            return
        if quotes.is_fresh(position.symbol, now_ms) and ledger.house.is_open(position.symbol, now_ms):
            ledger.close_position(account, position, position.volume, "stop_out", cause, now_ms)


def _is_below(percent: int, equity: int, used_margin: int) -> bool:
    return equity * 100 < used_margin * percent


def _cause(account: Account, moved: list[Quote]) -> str:
    """The first of the quotes that moved in a symbol the account holds."""
    held = {symbol for symbol, _ in account.legs}
    quote = next(quote for quote in moved if quote.symbol in held)
    return quote.cause
