"""Integer money: profit, margin, and the prices at which a profit is reached.

Amounts are cents of the account currency. One rounding rule: whatever does not come out even goes to the
house. Profit rounds down (a loss of 0.1 cents is a cent), margin rounds up. So no sequence of orders can draw
money out of roundings, and the margin held never falls short of what the rules ask.

A division happens once for an amount: on each close for realised profit; on each sum of an account's
positions of one symbol and side for floating profit, which is therefore never less than the sum of the
positions' own.
"""

from tradewind.engine.instruments import Instrument, Quote
from tradewind.engine.messages import BUY, SELL, Side

CENTS = 100

PRICE_WITHOUT_LIMIT = 2**63
"""More than any price: the answer for a profit that no price can take away."""


def opening_price(quote: Quote, side: Side, markup: int = 0) -> int:
    """`markup` is what the account's group pays beside the spread, in steps of the price."""
    if side == BUY:
        return quote.ask + markup
    return max(1, quote.bid - markup) if markup else quote.bid


def closing_price(quote: Quote, side: Side, markup: int = 0) -> int:
    if side == SELL:
        return quote.ask + markup
    return max(1, quote.bid - markup) if markup else quote.bid


def profit_cents(instrument: Instrument, side: Side, volume: int, cost: int, price: int) -> int:
    """Profit of closing `volume` units at `price`, where `cost` is the sum of volume * open price.

    What is gained in the quote currency converts to dollars as it stands when that is the dollar, and by the
    closing price itself when the dollar is the base.
    """
    gain = volume * price - cost if side == BUY else cost - volume * price
    return gain * CENTS // (instrument.price_scale if instrument.quoted_in_account_currency else price)


def margin_cents(instrument: Instrument, volume: int, price: int, leverage: int) -> int:
    """Margin held for `volume` units opened at `price`: their dollar value over the leverage, rounded up."""
    if instrument.quoted_in_account_currency:
        return -(-volume * price * CENTS // (instrument.price_scale * leverage))
    return -(-volume * CENTS // leverage)


def worst_price(instrument: Instrument, side: Side, volume: int, cost: int, profit_min: int) -> int:
    """The worst closing price that still gives at least `profit_min` cents: the lowest for a buy, the highest
    for a sell.

    This is profit_cents solved for the price, exactly: one price step beyond it the profit is less.
    `profit_min` must be less than the profit at an infinite price (100 * volume where the dollar is the
    base).
    """
    value = volume * CENTS
    if instrument.quoted_in_account_currency:
        needed = profit_min * instrument.price_scale
        return -(-(cost * CENTS + needed) // value) if side == BUY else (cost * CENTS - needed) // value
    if side == BUY:
        return -(-cost * CENTS // (value - profit_min))
    # A short position in dollars loses at most its own value, however high the price.
    return cost * CENTS // (value + profit_min) if value + profit_min > 0 else PRICE_WITHOUT_LIMIT
