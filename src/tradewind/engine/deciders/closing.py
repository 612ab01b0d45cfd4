"""Closing one position, in part or whole, two against each other, or all that match."""

from tradewind.engine.account import Position
from tradewind.engine.checks import (
    Refusal,
    check_may_reduce,
    check_volume_to_close,
    find_account,
    find_instrument,
    find_position,
    may_reduce,
)
from tradewind.engine.ledger import Ledger
from tradewind.engine.messages import (
    AllClosed,
    Answer,
    Close,
    CloseAll,
    CloseBy,
    PositionsClosedBy,
    RejectReason,
)
from tradewind.engine.risk import restore_if_recovered


def close(ledger: Ledger, command: Close, now_ms: int) -> Answer:
    account = find_account(ledger.accounts, command.account)
    position = find_position(account, command.position)
    check_may_reduce(ledger.house, account, position.symbol, now_ms)
    volume = position.volume if command.volume is None else command.volume
    check_volume_to_close(position, volume)
    ledger.quotes.fresh(position.symbol, now_ms)
    event = ledger.close_position(account, position, volume, "close", command.id, now_ms)
    answer = Answer(
        id=command.id,
        account=command.account,
        status="filled",
        position=position.id,
        price=event.price,
        volume=volume,
        profit=event.profit,
        balance=event.balance,
        sequence=ledger.event_sequence,
    )
    restore_if_recovered(ledger, account, command.id, now_ms)
    return answer


def close_all(ledger: Ledger, command: CloseAll, now_ms: int) -> Answer:
    account = find_account(ledger.accounts, command.account)
    if command.symbol is not None:
        find_instrument(command.symbol)
    check_may_reduce(ledger.house, account, command.symbol, now_ms)
    asked = [position for position in account.positions.values() if _matches(command, position)]
    fresh = [
        position
        for position in asked
        if ledger.quotes.is_fresh(position.symbol, now_ms)
        and may_reduce(ledger.house, account, position.symbol, now_ms)
    ]
    profit = 0
    for position in fresh:
        event = ledger.close_position(account, position, position.volume, "close", command.id, now_ms)
        profit += event.profit
    left = len(asked) - len(fresh)
    ledger.record(AllClosed(account=account.id, at_ms=now_ms, cause=command.id, closed=len(fresh), left=left))
    answer = Answer(
        id=command.id,
        account=command.account,
        status="done",
        volume=sum(position.volume for position in fresh),
        profit=profit,
        balance=account.balance,
        closed=len(fresh),
        left=left,
        sequence=ledger.event_sequence,
    )
    restore_if_recovered(ledger, account, command.id, now_ms)
    return answer


def close_by(ledger: Ledger, command: CloseBy, now_ms: int) -> Answer:
    """Needs no quote: the one position is closed at the price at which the other was opened."""
    account = find_account(ledger.accounts, command.account)
    position = find_position(account, command.position)
    other = find_position(account, command.by)
    check_may_reduce(ledger.house, account, position.symbol, now_ms)
    if position.symbol != other.symbol or position.side == other.side:
        sides = f"{position.side} {position.symbol} and {other.side} {other.symbol}"
        raise Refusal(RejectReason.NOT_OPPOSITE, sides)
    volume = min(position.volume, other.volume)
    check_volume_to_close(position, volume)
    check_volume_to_close(other, volume)
    profit = position.profit_of(volume, other.price)
    event = PositionsClosedBy(
        account=account.id,
        at_ms=now_ms,
        cause=command.id,
        position=position.id,
        by=other.id,
        symbol=position.symbol,
        side=position.side,
        volume=volume,
        left=position.volume - volume,
        by_left=other.volume - volume,
        price=other.price,
        profit=profit,
        margin=ledger.margin_freed(position, volume),
        by_margin=ledger.margin_freed(other, volume),
        balance=account.balance + profit,
    )
    ledger.record(event)
    answer = Answer(
        id=command.id,
        account=account.id,
        status="filled",
        position=position.id,
        price=event.price,
        volume=volume,
        profit=profit,
        balance=event.balance,
        sequence=ledger.event_sequence,
    )
    restore_if_recovered(ledger, account, command.id, now_ms)
    return answer


def _matches(command: CloseAll, position: Position) -> bool:
    return command.symbol in (None, position.symbol) and command.side in (None, position.side)
