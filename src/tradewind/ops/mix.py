"""Which orders the load offers: a seeded mix that keeps every account near the limit of its margin.

Each account in turn gets the next order. Up to `POSITIONS_AIMED` positions it opens, mostly long and mostly
in the first symbol (the one that crashes), each for about a fifth of its deposit; then it closes about as
often as it opens. A 3 % fall of that symbol then takes most accounts below the stop-out level. Accounts that
ran dry deposit again.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from tradewind.engine.instruments import INSTRUMENTS, Instrument
from tradewind.engine.messages import Answer, Close, CloseAll, Command, Deposit, Place, RejectReason
from tradewind.feed.simulation import MARKETS

DEPOSIT_CENTS: Final = 100_000
LEVERAGE: Final = 100
POSITION_DOLLARS: Final = 20_000
"""Value of one position: its margin is a fifth of the deposit."""

POSITIONS_AIMED: Final = 4
CLOSE_EARLY_SHARE: Final = 0.1
FIRST_SYMBOL_SHARE: Final = 0.45
BUY_SHARE: Final = 0.85
DRY_CENTS: Final = DEPOSIT_CENTS * 6 // 10
"""An account with less balance deposits before it trades on."""

Due: TypeAlias = Literal["deposit", "close", "close_all"]


@dataclass(slots=True)
class Trader:
    """One account as the load knows it, from answers: the engine may have stopped positions out since."""

    account: str
    shard: int
    balance: int = DEPOSIT_CENTS
    positions: list[str] = field(default_factory=list)
    due: Due | None = None


class Mix:
    """Endless orders for `traders`. The same seed and the same answers give the same orders."""

    def __init__(self, traders: Sequence[Trader], symbols: Sequence[str], *, seed: int, run: str) -> None:
        self._traders = list(traders)
        self._instruments = [INSTRUMENTS[symbol] for symbol in symbols]
        self._random = random.Random(seed)
        self._run = run
        self._number = 0
        self._turn = len(self._traders)

    def next(self) -> tuple[Trader, Command]:
        """The next order and the account it is for."""
        if self._turn >= len(self._traders):
            self._random.shuffle(self._traders)
            self._turn = 0
        trader = self._traders[self._turn]
        self._turn += 1
        self._number += 1
        return trader, self._order(trader, f"{self._run}-{self._number}")

    def _order(self, trader: Trader, id: str) -> Command:
        due, trader.due = trader.due, None
        if due == "deposit":
            return Deposit(account=trader.account, id=id, amount=DEPOSIT_CENTS)
        if due == "close_all":
            return CloseAll(account=trader.account, id=id)
        positions = trader.positions
        is_full = due == "close" or len(positions) >= POSITIONS_AIMED
        if positions and (is_full or self._random.random() < CLOSE_EARLY_SHARE):
            position = positions.pop(int(self._random.random() * len(positions)))
            return Close(account=trader.account, id=id, position=position)
        return self._place(trader, id)

    def _place(self, trader: Trader, id: str) -> Place:
        instruments, chance = self._instruments, self._random.random
        index = 0 if chance() < FIRST_SYMBOL_SHARE else int(chance() * len(instruments))
        instrument = instruments[index]
        side: Literal["buy", "sell"] = "buy" if chance() < BUY_SHARE else "sell"
        volume = position_volume(instrument) - int(chance() * 3) * instrument.volume_step
        return Place(account=trader.account, id=id, symbol=instrument.symbol, side=side, volume=volume)

    def learn(self, trader: Trader, command: Command, answer: Answer) -> None:
        """Take from an answer what the account holds now, and what it needs next."""
        if answer.status == "rejected":
            self._refused(trader, answer)
            return
        if answer.balance is not None:
            trader.balance = answer.balance
        kind = type(command)
        if kind is Place and answer.position is not None:
            trader.positions.append(answer.position)
        elif kind is CloseAll:
            trader.positions.clear()
        if trader.balance < DRY_CENTS and kind is not Deposit:
            trader.due = "deposit"

    def _refused(self, trader: Trader, answer: Answer) -> None:
        """No margin left: close something; everything, where an earlier run opened what is not known here."""
        if answer.reason is RejectReason.INSUFFICIENT_MARGIN:
            if trader.balance < DRY_CENTS:
                trader.due = "deposit"
            else:
                trader.due = "close" if trader.positions else "close_all"
        elif answer.reason is RejectReason.OPEN_POSITIONS_LIMIT:
            trader.due = "close_all"


def position_volume(instrument: Instrument) -> int:
    """Units of the base currency worth about `POSITION_DOLLARS`, in whole steps."""
    units = POSITION_DOLLARS
    if instrument.quoted_in_account_currency:
        units = POSITION_DOLLARS * instrument.price_scale // MARKETS[instrument.symbol].start
    return max(instrument.volume_min * 3, units - units % instrument.volume_step)
