"""What an account may do: everything, reduce its positions, or nothing but cancel."""

from tradewind.engine.checks import find_account
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import Answer, SetTrading, TradingChanged


def set_trading(ledger: Ledger, command: SetTrading, now_ms: int) -> Answer:
    """Also recorded when the state is the same: the reason may be another."""
    account = find_account(ledger.accounts, command.account)
    ledger.record(
        TradingChanged(
            account=account.id, at_ms=now_ms, cause=command.id, state=command.state, why=command.why
        )
    )
    return Answer(
        id=command.id,
        account=account.id,
        status="done",
        balance=account.balance,
        sequence=ledger.event_sequence,
    )
