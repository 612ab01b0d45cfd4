"""An account's statement: what its balance was, what came and went, what it is; from events alone."""

from collections import Counter
from collections.abc import Iterable
from typing import Final, get_args

import msgspec

from tradewind.engine.cash import CashKind, cash_flows
from tradewind.engine.messages import Event

KINDS: Final[tuple[CashKind, ...]] = get_args(CashKind)


class StatementLine(msgspec.Struct, frozen=True):
    """One amount, in cents, and the balance after it. `cause` is that of the event."""

    at_ms: int
    kind: CashKind
    amount: int
    balance: int
    cause: str
    position: str | None = None


class Statement(msgspec.Struct, frozen=True):
    """`totals` has every kind; opening balance and totals add up to the closing balance."""

    account: str
    from_ms: int
    until_ms: int
    opening_balance: int
    totals: dict[CashKind, int]
    closing_balance: int
    lines: list[StatementLine]


def statement(
    events: Iterable[Event], account: str, from_ms: int, until_ms: int, balance_before: int = 0
) -> Statement:
    """What happened to the account from `from_ms` on and before `until_ms`.

    `events`: those of its partition, in order, from the first one or from where its balance was
    `balance_before`. They are read to the end, so that a worker's clock that was ahead costs no line.
    """
    opening = balance = balance_before
    totals: Counter[CashKind] = Counter()
    lines = []
    for event in events:
        if event.account != account or event.at_ms >= until_ms:
            continue
        for kind, amount in cash_flows(event):
            balance += amount
            if event.at_ms < from_ms:
                opening += amount
                continue
            totals[kind] += amount
            position: str | None = getattr(event, "position", None)
            lines.append(StatementLine(event.at_ms, kind, amount, balance, event.cause, position))
    return Statement(
        account=account,
        from_ms=from_ms,
        until_ms=until_ms,
        opening_balance=opening,
        totals={kind: totals[kind] for kind in KINDS},
        closing_balance=opening + sum(totals.values()),
        lines=lines,
    )
