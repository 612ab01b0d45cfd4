"""Pre-trade checks. Each raises Refusal with a coded reason and the numbers that led to it."""

from collections.abc import Mapping
from typing import Final, NoReturn

from tradewind.engine.account import Account, Position
from tradewind.engine.house import OPEN, House
from tradewind.engine.instruments import INSTRUMENTS, Instrument, Quote
from tradewind.engine.messages import ACTIVE, HALTED, RejectReason, Side
from tradewind.engine.money import closing_price, margin_cents, opening_price, profit_cents
from tradewind.engine.orders import OrderState
from tradewind.engine.resting import Order


class Refusal(Exception):
    """A command cannot be done. Raised before anything has changed."""

    def __init__(self, reason: RejectReason, numbers: str) -> None:
        super().__init__(f"{reason.sentence} ({numbers})")
        self.reason = reason


def find_account(accounts: Mapping[str, Account], account_id: str) -> Account:
    account = accounts.get(account_id)
    if account is None:
        raise Refusal(RejectReason.UNKNOWN_ACCOUNT, account_id)
    return account


def find_position(account: Account, position_id: str) -> Position:
    position = account.positions.get(position_id)
    if position is None:
        raise Refusal(RejectReason.UNKNOWN_POSITION, position_id)
    return position


def find_order(account: Account, order_id: str, now_ms: int) -> Order:
    """A resting order that may still be changed: nobody waits for the tick that ends one whose day is
    over.
    """
    order = account.orders.open.get(order_id)
    if order is None:
        state = account.orders.ended_state(order_id)
        if state is None:
            raise Refusal(RejectReason.UNKNOWN_ORDER, order_id)
        raise Refusal(RejectReason.TOO_LATE_TO_CANCEL, f"{order_id} is {state}")
    if order.expires_at_ms is not None and order.expires_at_ms <= now_ms:
        raise Refusal(RejectReason.TOO_LATE_TO_CANCEL, f"{order_id} is {OrderState.EXPIRED}")
    return order


def find_instrument(symbol: str) -> Instrument:
    instrument = INSTRUMENTS.get(symbol)
    if instrument is None:
        raise Refusal(RejectReason.UNKNOWN_SYMBOL, f"{symbol} is not one of {', '.join(INSTRUMENTS)}")
    return instrument


def check_may_open(house: House, account: Account, symbol: str, now_ms: int) -> None:
    """Whatever may open a position passes only where system, symbol and account are active, and within the
    symbol's hours.
    """
    if not may_open(house, account, symbol, now_ms):
        _refuse_trade(house, account, symbol, now_ms, is_reducing=False)


def check_may_reduce(house: House, account: Account, symbol: str | None, now_ms: int) -> None:
    """Closes also pass where positions may only be reduced, but not outside the symbol's hours. Stop-outs are
    not asked: they pass in every state, within the hours.
    """
    if not may_reduce(house, account, symbol, now_ms):
        _refuse_trade(house, account, symbol, now_ms, is_reducing=True)


def check_may_trade(house: House, account: Account, symbol: str, now_ms: int, *, reduces: bool) -> None:
    """For an order, which may be one that only `reduces`."""
    if reduces:
        check_may_reduce(house, account, symbol, now_ms)
    else:
        check_may_open(house, account, symbol, now_ms)


def may_open(house: House, account: Account, symbol: str, now_ms: int) -> bool:
    is_active = symbol not in house.symbols and house.system.state == ACTIVE and account.trading == ACTIVE
    return is_active and house.is_open(symbol, now_ms)


def may_reduce(house: House, account: Account, symbol: str | None, now_ms: int) -> bool:
    if HALTED in (house.system.state, account.trading):
        return False
    if symbol is None:
        return True
    return house.symbols.get(symbol, OPEN).state != HALTED and house.is_open(symbol, now_ms)


def _refuse_trade(
    house: House, account: Account, symbol: str | None, now_ms: int, *, is_reducing: bool
) -> NoReturn:
    """The widest scope that stands in the way is named: with it lifted the next one shows. Hours are last."""
    ruling = house.symbols.get(symbol or "", OPEN)
    scopes = [
        (house.system.state, house.system.why, _SYSTEM, "the system"),
        (ruling.state, ruling.why, _SYMBOL, symbol),
        (account.trading, "", _ACCOUNT, f"account {account.id}"),
    ]
    for state, why, reasons, name in scopes:
        if state == HALTED or (state != ACTIVE and not is_reducing):
            raise Refusal(reasons[state], f"{name} is {state}{': ' if why else ''}{why}")
    assert symbol is not None
    raise Refusal(RejectReason.MARKET_CLOSED, f"{symbol} trades {house.hours[symbol].words(now_ms)}")


_SYSTEM: Final = {"halted": RejectReason.SYSTEM_HALTED, "reducing": RejectReason.SYSTEM_REDUCING}
_SYMBOL: Final = {"halted": RejectReason.SYMBOL_HALTED, "reducing": RejectReason.SYMBOL_REDUCING}
_ACCOUNT: Final = {"halted": RejectReason.ACCOUNT_HALTED, "reducing": RejectReason.ACCOUNT_REDUCING}


def check_volume(instrument: Instrument, volume: int) -> None:
    if not instrument.accepts_volume(volume):
        raise Refusal(RejectReason.INVALID_VOLUME, _volume_rule(instrument, volume))


def check_volume_to_close(position: Position, volume: int) -> None:
    """What is closed and what is left must both be volumes that can be traded."""
    instrument = INSTRUMENTS[position.symbol]
    left = position.volume - volume
    if not instrument.accepts_volume(volume) or (left and not instrument.accepts_volume(left)):
        rule = _volume_rule(instrument, volume)
        raise Refusal(RejectReason.INVALID_VOLUME, f"{rule}, also for what is left of {position.volume}")


def _volume_rule(instrument: Instrument, volume: int) -> str:
    rule = f"{instrument.volume_min} to {instrument.volume_max} in steps of {instrument.volume_step}"
    return f"{volume} units of {instrument.symbol}; allowed are {rule}"


def check_collar(instrument: Instrument, price: int, quote: Quote) -> None:
    """A price of an order, or the one it would be filled at, must be near the middle of the quote."""
    double_middle = quote.bid + quote.ask
    collar = instrument.collar_basis_points
    if abs(2 * price - double_middle) * 10_000 <= collar * double_middle:
        return
    numbers = f"{price} is more than {collar} basis points off {quote.symbol} at {quote.bid}/{quote.ask}"
    raise Refusal(RejectReason.PRICE_COLLAR, numbers)


def check_order(account: Account, instrument: Instrument, order: Order, quote: Quote | None) -> None:
    """Its prices against the market, where there is a quote, and its size against the group's limits.

    The stop price of an order that was triggered is history.
    """
    for price in (order.price, None if order.triggered else order.stop_price):
        if price is not None and quote is not None:
            check_collar(instrument, price, quote)
    terms = account.terms
    if terms.order_volume_max or terms.order_value_max:
        price = order.price or order.stop_price
        if price is None and quote is not None:
            price = opening_price(quote, order.side, terms.markup_points)
        _check_size(account, instrument, order.volume, price or 0)


def _check_size(account: Account, instrument: Instrument, volume: int, price: int) -> None:
    terms = account.terms
    if terms.order_volume_max and volume > terms.order_volume_max:
        limit = f"group {terms.group} allows {terms.order_volume_max} units"
        raise Refusal(RejectReason.ORDER_VOLUME, f"{volume} units asked; {limit}")
    if terms.order_value_max:
        value = margin_cents(instrument, volume, price, 1)
        if value > terms.order_value_max:
            limit = f"group {terms.group} allows {terms.order_value_max}"
            raise Refusal(RejectReason.ORDER_VALUE, f"worth {value} cents; {limit}")


def check_margin(
    account: Account,
    quotes: Mapping[str, Quote],
    instrument: Instrument,
    side: Side,
    volume: int,
    margin: int,
) -> None:
    """The equity, less what the order costs at once (the spread, the commission), must cover the margin of
    all positions.
    """
    free = account.free_margin(quotes)
    if free is None:
        missing = sorted({symbol for symbol, _ in account.legs} - quotes.keys())
        raise Refusal(RejectReason.NO_QUOTE, f"positions are open in {', '.join(missing)}")
    quote = quotes[instrument.symbol]
    terms = account.terms
    cost = volume * opening_price(quote, side, terms.markup_points)
    spread = -profit_cents(instrument, side, volume, cost, closing_price(quote, side, terms.markup_points))
    commission = terms.commission_of(volume)
    if free < margin + spread + commission:
        needed = f"needs {margin} cents, and {spread} for the spread"
        if commission:
            needed += f", and {commission} of commission"
        raise Refusal(RejectReason.INSUFFICIENT_MARGIN, f"{needed}; {free} are free")
