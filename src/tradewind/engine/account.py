"""One account: its money, its open positions, and how an event changes them.

`apply` is the only place that changes an account. The live book and the rebuild from events both go through
it, so what the events say and what an account holds cannot drift apart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from tradewind.engine import messages
from tradewind.engine.errors import InconsistentEvent
from tradewind.engine.instruments import INSTRUMENTS, Instrument, Quote
from tradewind.engine.keys import DAY_MS
from tradewind.engine.messages import ACTIVE, BUY, Event, Side, TradingState
from tradewind.engine.messages.groups import DEFAULT_TERMS, Terms, decode_terms, encode_terms, shared
from tradewind.engine.money import CENTS, closing_price, profit_cents, worst_price
from tradewind.engine.resting import RestingOrders, sequence_of

LegKey: TypeAlias = tuple[str, Side]
Quotes: TypeAlias = Mapping[str, Quote]

POSITION_FIELD_PREFIX: Final = "position:"


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """`stop_loss` and `take_profit` are closing prices; the first that is met closes it."""

    id: str
    symbol: str
    side: Side
    volume: int
    price: int
    margin: int
    opened_at_ms: int
    stop_loss: int | None = None
    take_profit: int | None = None

    def profit(self, quotes: Quotes, markup: int = 0) -> int:
        price = closing_price(quotes[self.symbol], self.side, markup)
        return self.profit_of(self.volume, price)

    def profit_of(self, volume: int, price: int) -> int:
        """Profit of closing `volume` units of it at `price`."""
        return profit_cents(INSTRUMENTS[self.symbol], self.side, volume, volume * self.price, price)


@dataclass(slots=True)
class Leg:
    """All positions of an account in one symbol and on one side, as one: enough to value them."""

    instrument: Instrument
    side: Side
    volume: int = 0
    cost: int = 0
    """Sum of volume * open price."""
    divisor: int = field(init=False)
    """Price steps in a unit of the account currency; 0 if the closing price itself converts."""

    def __post_init__(self) -> None:
        instrument = self.instrument
        self.divisor = instrument.price_scale if instrument.quoted_in_account_currency else 0

    def profit(self, quote: Quote, markup: int = 0) -> int:
        """As closing_price and profit_cents say, written out: every valuation of an account comes here."""
        if self.side == BUY:
            price = quote.bid - markup
            if price < 1:
                price = 1
            gain = self.volume * price - self.cost
        else:
            price = quote.ask + markup
            gain = self.cost - self.volume * price
        return gain * CENTS // (self.divisor or price)

    def worst_price(self, profit_min: int, markup: int = 0) -> int:
        """The worst bid (of a buy) or ask (of a sell) of the quote itself."""
        price = worst_price(self.instrument, self.side, self.volume, self.cost, profit_min)
        return price + markup if self.side == BUY else price - markup


@dataclass(slots=True)
class Account:
    """`positions` stand in the order in which they were opened. `legs` is derived from them, never stored."""

    id: str
    leverage: int
    balance: int = 0
    used_margin: int = 0
    margin_called: bool = False
    trading: TradingState = ACTIVE
    terms: Terms = DEFAULT_TERMS
    cancel_at_ms: int = 0
    """When the dead-man timer ends; 0: it is not set."""
    swapped_day: int = 0
    """The day up to which swaps are paid, or from which on its terms ask for them."""
    positions: dict[str, Position] = field(default_factory=dict)
    legs: dict[LegKey, Leg] = field(default_factory=dict)
    orders: RestingOrders = field(default_factory=RestingOrders)

    def equity(self, quotes: Quotes) -> int | None:
        """Balance and floating profit, at a cost for each symbol held. None if one has no quote."""
        total, markup = self.balance, self.terms.markup_points
        for (symbol, _), leg in self.legs.items():
            quote = quotes.get(symbol)
            if quote is None:
                return None
            total += leg.profit(quote, markup)
        return total

    def margin_level_percent(self, quotes: Quotes) -> int | None:
        """Equity over used margin, rounded down. None without positions or without a quote."""
        equity = self.equity(quotes)
        return None if equity is None or not self.used_margin else equity * 100 // self.used_margin

    def free_margin(self, quotes: Quotes) -> int | None:
        equity = self.equity(quotes)
        return None if equity is None else equity - self.used_margin

    def add(self, position: Position) -> None:
        if position.id in self.positions:
            raise InconsistentEvent(f"account {self.id}: position {position.id} is opened twice")
        self.positions[position.id] = position
        self.used_margin += position.margin
        key = (position.symbol, position.side)
        leg = self.legs.get(key)
        if leg is None:
            leg = self.legs[key] = Leg(INSTRUMENTS[position.symbol], position.side)
        leg.volume += position.volume
        leg.cost += position.volume * position.price

    def reduce(self, position_id: str, volume: int, margin: int) -> None:
        """Takes `volume` units and their margin off a position; it is gone when nothing is left."""
        position = self.positions.get(position_id)
        if position is None or not 0 < volume <= position.volume:
            held = "is not open" if position is None else f"holds {position.volume} units"
            raise InconsistentEvent(
                f"account {self.id}: cannot close {volume} units of position {position_id}: it {held}"
            )
        self._replace(position, position.volume - volume, position.margin - margin)
        self.used_margin -= margin
        self._reduce_leg((position.symbol, position.side), volume, volume * position.price)

    def _replace(self, position: Position, volume: int, margin: int) -> None:
        if volume:
            self.positions[position.id] = msgspec.structs.replace(position, volume=volume, margin=margin)
        else:
            del self.positions[position.id]

    def _reduce_leg(self, key: LegKey, volume: int, cost: int) -> None:
        leg = self.legs[key]
        leg.volume -= volume
        leg.cost -= cost
        if not leg.volume:
            del self.legs[key]

    def add_to_balance(self, amount: int, expected: int) -> None:
        self.balance += amount
        if self.balance != expected:
            raise InconsistentEvent(
                f"account {self.id}: the event has balance {expected} cents, it is {self.balance}"
            )


def apply(accounts: dict[str, Account], event: Event) -> None:
    """Changes the account that the event names, or opens it.

    Raises InconsistentEvent if the event cannot have happened to this account. The account may then be
    changed in part: both callers give up on it, the book because a bug must not reach the cluster, the audit
    to report.
    """
    change = _CHANGES.get(type(event))
    if change is not None:
        change(accounts, event)


def _find(accounts: dict[str, Account], event: Event) -> Account:
    account = accounts.get(event.account)
    if account is None:
        raise InconsistentEvent(f"account {event.account}: {type(event).__name__} comes before it was opened")
    return account


def _open(accounts: dict[str, Account], event: messages.AccountOpened) -> None:
    if event.account in accounts:
        raise InconsistentEvent(f"account {event.account}: it is opened twice")
    account = accounts[event.account] = Account(event.account, event.leverage)
    if event.terms is not None:
        account.terms = shared(event.terms)


def _change_group(accounts: dict[str, Account], event: messages.GroupChanged) -> None:
    account = _find(accounts, event)
    account.leverage = event.leverage
    account.terms = DEFAULT_TERMS if event.terms is None else shared(event.terms)
    account.swapped_day = max(account.swapped_day, event.at_ms // DAY_MS)


def _deposit(accounts: dict[str, Account], event: messages.Deposited) -> None:
    _find(accounts, event).add_to_balance(event.amount, event.balance)


def _withdraw(accounts: dict[str, Account], event: messages.Withdrawn) -> None:
    _find(accounts, event).add_to_balance(-event.amount, event.balance)


def _forgive(accounts: dict[str, Account], event: messages.DebtForgiven) -> None:
    _find(accounts, event).add_to_balance(event.amount, event.balance)


def _fill(accounts: dict[str, Account], event: messages.OrderFilled) -> None:
    account = _find(accounts, event)
    account.add(
        Position(
            event.position,
            event.symbol,
            event.side,
            event.volume,
            event.price,
            event.margin,
            event.at_ms,
            event.stop_loss,
            event.take_profit,
        )
    )
    if event.balance is not None:
        account.add_to_balance(-event.commission, event.balance)
    if event.order:
        account.orders.fill(event)


def _reduce(accounts: dict[str, Account], event: messages.OrderReduced) -> None:
    """The closes that precede it have changed the positions."""
    if event.order:
        _find(accounts, event).orders.fill(event)


def _reject(accounts: dict[str, Account], event: messages.OrderRejected) -> None:
    if event.order:
        _find(accounts, event).orders.reject(event)


def _close_by(accounts: dict[str, Account], event: messages.PositionsClosedBy) -> None:
    account = _find(accounts, event)
    account.reduce(event.position, event.volume, event.margin)
    account.reduce(event.by, event.volume, event.by_margin)
    account.add_to_balance(event.profit, event.balance)


def _protect(accounts: dict[str, Account], event: messages.PositionProtected) -> None:
    account = _find(accounts, event)
    position = account.positions.get(event.position)
    if position is None:
        raise InconsistentEvent(f"account {account.id}: position {event.position} to protect is not open")
    account.positions[position.id] = msgspec.structs.replace(
        position, stop_loss=event.stop_loss, take_profit=event.take_profit
    )


def _change_order(accounts: dict[str, Account], event: Event) -> None:
    _ORDER_CHANGES[type(event)](_find(accounts, event).orders, event)


_ORDER_CHANGES: Final[Mapping[type[Event], Callable[..., None]]] = {
    messages.OrderAccepted: RestingOrders.accept,
    messages.OrderTriggered: RestingOrders.trigger,
    messages.OrderAmended: RestingOrders.amend,
    messages.OrderCanceled: RestingOrders.cancel,
    messages.OrderExpired: RestingOrders.expire,
}


def _close(accounts: dict[str, Account], event: messages.PositionClosed) -> None:
    account = _find(accounts, event)
    account.reduce(event.position, event.volume, event.margin)
    account.add_to_balance(event.profit - event.commission, event.balance)


def _call(accounts: dict[str, Account], event: messages.MarginCall) -> None:
    _find(accounts, event).margin_called = True


def _restore(accounts: dict[str, Account], event: messages.MarginRestored) -> None:
    _find(accounts, event).margin_called = False


def _change_trading(accounts: dict[str, Account], event: messages.TradingChanged) -> None:
    _find(accounts, event).trading = event.state


def _set_timer(accounts: dict[str, Account], event: messages.CancelTimerSet) -> None:
    _find(accounts, event).cancel_at_ms = event.due_ms


def _end_timer(accounts: dict[str, Account], event: messages.CancelTimerEnded) -> None:
    _find(accounts, event).cancel_at_ms = 0


def _swap(accounts: dict[str, Account], event: messages.SwapPaid) -> None:
    account = _find(accounts, event)
    account.add_to_balance(event.amount, event.balance)
    account.swapped_day = event.day


# The end of a close_all or cancel_all changes no account.
_CHANGES: Final[Mapping[type[Event], Callable[..., None]]] = {
    messages.AccountOpened: _open,
    messages.Deposited: _deposit,
    messages.OrderFilled: _fill,
    messages.OrderReduced: _reduce,
    messages.OrderRejected: _reject,
    **dict.fromkeys(_ORDER_CHANGES, _change_order),
    messages.PositionClosed: _close,
    messages.PositionsClosedBy: _close_by,
    messages.PositionProtected: _protect,
    messages.MarginCall: _call,
    messages.MarginRestored: _restore,
    messages.TradingChanged: _change_trading,
    messages.GroupChanged: _change_group,
    messages.Withdrawn: _withdraw,
    messages.DebtForgiven: _forgive,
    messages.CancelTimerSet: _set_timer,
    messages.CancelTimerEnded: _end_timer,
    messages.SwapPaid: _swap,
}


def scalar_fields(account: Account) -> dict[str, str]:
    """The fields of the stored hash that are not positions. What is rarely set is left out at its default."""
    fields = {
        "id": account.id,
        "leverage": str(account.leverage),
        "balance": str(account.balance),
        "used_margin": str(account.used_margin),
        "margin_called": str(int(account.margin_called)),
    }
    if account.trading != ACTIVE:
        fields["trading"] = account.trading
    if account.cancel_at_ms:
        fields["cancel_at_ms"] = str(account.cancel_at_ms)
    if account.swapped_day:
        fields["swapped_day"] = str(account.swapped_day)
    if account.terms is not DEFAULT_TERMS:
        fields["terms"] = encode_terms(account.terms).decode()
    return fields


def position_field(position_id: str) -> str:
    return POSITION_FIELD_PREFIX + position_id


def position_value(position: Position) -> str:
    return messages.encode(position).decode()


def to_fields(account: Account) -> dict[str, str]:
    """The account as a hash, one field for each position: a change writes only what changed."""
    positions = {position_field(id): position_value(position) for id, position in account.positions.items()}
    return scalar_fields(account) | positions | account.orders.to_fields()


_decode_position: Final = msgspec.json.Decoder(Position).decode


def from_fields(fields: Mapping[str, str]) -> Account:
    """The account that to_fields stored. Raises ValueError naming the account if a field is missing or
    broken.
    """
    name = fields.get("id", "without an id")
    try:
        positions = [_decode_position(v) for k, v in fields.items() if k.startswith(POSITION_FIELD_PREFIX)]
        account = Account(fields["id"], int(fields["leverage"]), int(fields["balance"]))
        account.margin_called = fields["margin_called"] == "1"
        account.trading = msgspec.convert(fields.get("trading", ACTIVE), TradingState)
        account.cancel_at_ms = int(fields.get("cancel_at_ms", "0"))
        account.swapped_day = int(fields.get("swapped_day", "0"))
        if "terms" in fields:
            account.terms = shared(decode_terms(fields["terms"]))
        account.orders = RestingOrders.from_fields(fields)
        # A hash has no order of its own: positions come back in the order of the events that opened them.
        for position in sorted(positions, key=lambda position: sequence_of(position.id)):
            account.add(position)
        used_margin = int(fields["used_margin"])
    except (KeyError, ValueError, InconsistentEvent) as error:
        raise ValueError(f"stored account {name}: cannot be read: {error!r}") from error
    if account.used_margin != used_margin:
        raise ValueError(
            f"stored account {name}: used margin is {used_margin}, its positions hold {account.used_margin}"
        )
    return account
