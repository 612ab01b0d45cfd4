"""Placing an order."""

from typing import Final

from tradewind.engine.checks import (
    Refusal,
    check_margin,
    check_may_open,
    check_volume,
    find_account,
    find_instrument,
)
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import Answer, OrderFilled, Place, RejectReason
from tradewind.engine.money import margin_cents, opening_price

POSITIONS_PER_ACCOUNT_MAX: Final = 200


def place(ledger: Ledger, command: Place, now_ms: int) -> Answer:
    account = find_account(ledger.accounts, command.account)
    instrument = find_instrument(command.symbol)
    check_may_open(ledger.house, account, instrument.symbol)
    check_volume(instrument, command.volume)
    if len(account.positions) >= POSITIONS_PER_ACCOUNT_MAX:
        raise Refusal(RejectReason.OPEN_POSITIONS_LIMIT, f"{POSITIONS_PER_ACCOUNT_MAX} are open")
    quote = ledger.quotes.fresh(command.symbol, now_ms)
    price = opening_price(quote, command.side)
    margin = margin_cents(instrument, command.volume, price, account.leverage)
    check_margin(account, ledger.quotes.last, instrument, command.side, command.volume, margin)
    position_id = f"{ledger.partition}-{ledger.event_sequence + 1}"
    ledger.record(
        OrderFilled(
            account=account.id,
            at_ms=now_ms,
            cause=command.id,
            position=position_id,
            symbol=command.symbol,
            side=command.side,
            volume=command.volume,
            price=price,
            margin=margin,
        )
    )
    return Answer(
        id=command.id,
        account=command.account,
        status="filled",
        position=position_id,
        price=price,
        volume=command.volume,
        balance=account.balance,
        sequence=ledger.event_sequence,
    )
