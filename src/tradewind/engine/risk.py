"""Margin call and stop-out.

- Below a margin level of 100 % the account is called, once until it is back at 110 %: an account that hovers
  around its limit would else be called with every tick.
- Below 50 % its positions are closed at the quote, largest loss first (the oldest first among equals), one by
  one until the level is back at 50 %. Positions without a fresh quote are left until they have one.
- A gap in the prices can make a balance negative. It stays so until a deposit: the engine forgives no debt.
"""

from typing import Final

from tradewind.engine.account import Account
from tradewind.engine.instruments import Quote
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import MarginCall, MarginRestored

MARGIN_CALL_PERCENT: Final = 100
MARGIN_RESTORED_PERCENT: Final = 110
STOP_OUT_PERCENT: Final = 50


def review(ledger: Ledger, account: Account, moved: list[Quote], now_ms: int) -> None:
    """Values an account that holds at least one symbol that moved, and does what its level asks for."""
    equity = ledger.equity(account)
    if equity is None:
        return  # it cannot be valued; the first quote of the missing symbol finds it still due
    cushion = equity - account.used_margin * MARGIN_CALL_PERCENT // 100
    if not account.margin_called and cushion >= 0:
        ledger.watch.look_when_spent(account, cushion, ledger.quotes.last)
        return
    cause = _cause(account, moved)
    if not account.margin_called:
        call = MarginCall(
            account=account.id, at_ms=now_ms, cause=cause, equity=equity, used_margin=account.used_margin
        )
        ledger.record(call)
    if _is_below(STOP_OUT_PERCENT, equity, account.used_margin):
        _stop_out(ledger, account, cause, now_ms)
    restore_if_recovered(ledger, account, cause, now_ms)


def restore_if_recovered(ledger: Ledger, account: Account, cause: str, now_ms: int) -> None:
    """Ends a margin call. Belongs after all that may raise the level: a tick, a deposit, a close."""
    equity = ledger.equity(account) if account.margin_called else None
    if equity is None or _is_below(MARGIN_RESTORED_PERCENT, equity, account.used_margin):
        return
    restored = MarginRestored(
        account=account.id, at_ms=now_ms, cause=cause, equity=equity, used_margin=account.used_margin
    )
    ledger.record(restored)


def _stop_out(ledger: Ledger, account: Account, cause: str, now_ms: int) -> None:
    """Looks at the level again after each close. Quotes stand still meanwhile, so sorting once is enough."""
    quotes = ledger.quotes
    for position in sorted(account.positions.values(), key=lambda position: position.profit(quotes.last)):
        equity = ledger.equity(account)
        if equity is None or not _is_below(STOP_OUT_PERCENT, equity, account.used_margin):
            return
        if quotes.is_fresh(position.symbol, now_ms):
            ledger.close_position(account, position, position.volume, "stop_out", cause, now_ms)


def _is_below(percent: int, equity: int, used_margin: int) -> bool:
    return equity * 100 < used_margin * percent


def _cause(account: Account, moved: list[Quote]) -> str:
    """The first of the quotes that moved in a symbol the account holds."""
    held = {symbol for symbol, _ in account.legs}
    quote = next(quote for quote in moved if quote.symbol in held)
    return quote.cause
