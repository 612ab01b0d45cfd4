"""Which accounts a tick may bring below their margin call, without valuing all of them.

An account with a cushion of equity above its used margin may lose that cushion before anyone need look. The
cushion is shared out evenly among its legs (symbol and side), and for each leg the worst price is noted at
which it has lost no more than its share. As long as every leg stays within its worst price, the losses
together stay within the cushion, so the account needs no look; the first leg that leaves it makes the account
due, is valued exactly, and gets new prices. A leg that was never given a price, or whose account changed
since, is always due.

A tick then costs one comparison for each leg in the symbols that moved (about 15 ns, by
benchmarks/engine_book.py), not a valuation of each account that holds them (about 2 us).
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from tradewind.engine.account import Account, LegKey, Quotes
from tradewind.engine.instruments import Quote
from tradewind.engine.messages import BUY, SELL, Side
from tradewind.engine.money import PRICE_WITHOUT_LIMIT

# Prices that every quote is worse than.
_ALWAYS_DUE: Final[dict[Side, int]] = {BUY: PRICE_WITHOUT_LIMIT, SELL: 0}


class Watch:
    """Holds one price for each leg of each account: bounded by the accounts and their legs."""

    def __init__(self) -> None:
        self._worst: defaultdict[LegKey, dict[str, int]] = defaultdict(dict)

    def due(self, quotes: Iterable[Quote]) -> set[str]:
        """Ids of the accounts that hold one of these symbols and may be below their margin call."""
        due: set[str] = set()
        for quote in quotes:
            bid, ask = quote.bid, quote.ask
            due.update([id for id, worst in self._worst[quote.symbol, BUY].items() if bid < worst])
            due.update([id for id, worst in self._worst[quote.symbol, SELL].items() if ask > worst])
        return due

    def look_always(self, account: Account) -> None:
        """The account is due with the next tick of any of its symbols."""
        for key in account.legs:
            self._worst[key][account.id] = _ALWAYS_DUE[key[1]]

    def look_when_spent(self, account: Account, cushion_cents: int, quotes: Quotes) -> None:
        """The account is due when its legs may have lost `cushion_cents` (0 or more) from their worth at
        `quotes`.
        """
        if not account.legs:
            return
        markup = account.terms.markup_points
        share = cushion_cents // len(account.legs)
        for key, leg in account.legs.items():
            profit_min = leg.profit(quotes[key[0]], markup) - share
            self._worst[key][account.id] = leg.worst_price(profit_min, markup)

    def forget(self, account_id: str, key: LegKey) -> None:
        """The account holds nothing there any more."""
        self._worst[key].pop(account_id, None)
