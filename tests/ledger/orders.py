"""What a random client asks: one account as the client knows it, and the next command for it.

Plain functions of a seeded generator and of the answers so far. Most commands make sense, some do not: an
account that was never opened, a symbol that nobody trades, a position that is closed already.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, get_args

import msgspec
import msgspec.inspect

from tradewind.engine.instruments import INSTRUMENTS
from tradewind.engine.messages import (
    BUY,
    SELL,
    Amend,
    Answer,
    Cancel,
    CancelAll,
    Close,
    CloseAll,
    CloseBy,
    Command,
    Deposit,
    OpenAccount,
    Place,
    RejectReason,
    SetGroup,
    SetTrading,
    TradingState,
    Withdraw,
    fingerprint,
)
from tradewind.engine.messages.groups import DEFAULT_TERMS, Terms
from tradewind.feed.simulation import MARKETS
from tradewind.ops.mix import BUY_SHARE, DEPOSIT_CENTS, DRY_CENTS, LEVERAGE, position_volume

POSITIONS_KNOWN_MAX: Final = 8
PRICE_POINTS: Final = 100
"""Prices of resting orders are so far from the market's first one at most: it gets there in a run."""

NAMES_KNOWN_MAX: Final = 16
NAMING_FIELDS: Final = ("position", "order")
KINDS: Final[tuple[Any, ...]] = get_args(Command)
ODD_SHARE: Final = 0.03
REOPEN_SHARE: Final = 0.3
"""How often a reduced or halted account is asked to be active again, before anything else."""

SYMBOLS: Final = tuple(INSTRUMENTS)
GROUPS: Final = (
    DEFAULT_TERMS,
    Terms(group="costly", markup_points=3, commission_cents=700, stop_out_percent=20, forgives_debt=True),
    Terms(group="narrow", orders_max=3, positions_max=4, order_volume_max=30_000, orders_per_second=20),
)
"""What a run keeps in its cluster."""

TRADING_STATES: Final[tuple[TradingState, ...]] = get_args(TradingState)


@dataclass
class AccountView:
    """One account, by the answers to this client alone: the engine may have stopped positions out since."""

    name: str
    is_open: bool = False
    balance: int = 0
    positions: list[str] = field(default_factory=list)
    orders: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """Of positions, and whatever else answers name, open or not."""

    trading: TradingState = "active"

    def learn(self, command: Command, answer: Answer) -> None:
        if isinstance(command, OpenAccount):
            self.is_open |= answer.status == "done" or answer.reason is RejectReason.ACCOUNT_EXISTS
        if answer.balance is not None:
            self.balance = answer.balance
        named = (getattr(answer, field, None) for field in NAMING_FIELDS)
        self.names.extend(name for name in named if name is not None)
        del self.names[:-NAMES_KNOWN_MAX]
        if isinstance(command, Place) and answer.order is not None:
            self.orders.append(answer.order)
            del self.orders[:-POSITIONS_KNOWN_MAX]
        if isinstance(command, Place) and answer.position is not None:
            self.positions.append(answer.position)
            del self.positions[:-POSITIONS_KNOWN_MAX]
        elif isinstance(command, CancelAll) and answer.status == "done":
            self.orders.clear()
        elif isinstance(command, Cancel) and command.order in self.orders:
            self.orders.remove(command.order)
        elif isinstance(command, SetTrading) and answer.status == "done":
            self.trading = command.state
        elif isinstance(command, CloseAll) and answer.status == "done":
            self.positions.clear()
        elif isinstance(command, Close) and command.volume is None and command.position in self.positions:
            self.positions.remove(command.position)


Maker: TypeAlias = Callable[[random.Random, AccountView, str], Command]


def _open(chance: random.Random, view: AccountView, id: str) -> Command:
    return OpenAccount(account=view.name, id=id, group=chance.choice(GROUPS).group, leverage=LEVERAGE)


def _deposit(chance: random.Random, view: AccountView, id: str) -> Command:
    return Deposit(account=view.name, id=id, amount=DEPOSIT_CENTS + chance.randrange(10_000))


def _withdraw(chance: random.Random, view: AccountView, id: str) -> Command:
    return Withdraw(account=view.name, id=id, amount=chance.randrange(1, DEPOSIT_CENTS // 4))


def _set_group(chance: random.Random, view: AccountView, id: str) -> Command:
    return SetGroup(account=view.name, id=id, group=chance.choice(GROUPS).group)


def _place(chance: random.Random, view: AccountView, id: str) -> Command:
    instrument = INSTRUMENTS[chance.choice(SYMBOLS)]
    side = BUY if chance.random() < BUY_SHARE else SELL
    volume = position_volume(instrument) - chance.randrange(3) * instrument.volume_step
    return Place(account=view.name, id=id, symbol=instrument.symbol, side=side, volume=volume)


def _rest(chance: random.Random, view: AccountView, id: str) -> Command:
    """A limit, stop or stop-limit order near the market: some are filled at once, some when it moves."""
    order = _place(chance, view, id)
    assert isinstance(order, Place)
    kind = chance.choice(("limit", "stop", "stop_limit"))
    return msgspec.structs.replace(
        order,
        kind=kind,
        price=None if kind == "stop" else _price(chance, order.symbol),
        stop_price=None if kind == "limit" else _price(chance, order.symbol),
        time_in_force=chance.choice(("gtc", "gtc", "day", "ioc", "fok")),
        reduce_only=chance.random() < 0.1,
    )


def _price(chance: random.Random, symbol: str) -> int:
    return MARKETS[symbol].start + chance.randrange(-PRICE_POINTS, PRICE_POINTS)


def _amend(chance: random.Random, view: AccountView, id: str) -> Command:
    if not view.orders:
        return _rest(chance, view, id)
    volume = 1_000 * chance.randrange(1, 20)
    return Amend(account=view.name, id=id, order=chance.choice(view.orders), volume=volume)


def _cancel(chance: random.Random, view: AccountView, id: str) -> Command:
    if not view.orders:
        return CancelAll(account=view.name, id=id)
    return Cancel(account=view.name, id=id, order=chance.choice(view.orders))


def _close_by(chance: random.Random, view: AccountView, id: str) -> Command:
    if len(view.positions) < 2:
        return _place(chance, view, id)
    position, by = chance.sample(view.positions, 2)
    return CloseBy(account=view.name, id=id, position=position, by=by)


def _close(chance: random.Random, view: AccountView, id: str) -> Command:
    if not view.positions:
        return _close_all(chance, view, id)
    volume = INSTRUMENTS[SYMBOLS[0]].volume_step if chance.random() < 0.3 else None
    return Close(account=view.name, id=id, position=chance.choice(view.positions), volume=volume)


def _close_all(chance: random.Random, view: AccountView, id: str) -> Command:
    symbol = chance.choice(SYMBOLS) if chance.random() < 0.5 else None
    side = chance.choice((BUY, SELL)) if chance.random() < 0.3 else None
    return CloseAll(account=view.name, id=id, symbol=symbol, side=side)


def _set_trading(chance: random.Random, view: AccountView, id: str) -> Command:
    state = chance.choice(TRADING_STATES) if view.trading == "active" else "active"
    return SetTrading(account=view.name, id=id, state=state, why="ledger run")


def _any(chance: random.Random, view: AccountView, id: str) -> Command:
    """A command of any kind with any values in its fields: also of kinds that have no maker of their own."""
    kind = chance.choice(KINDS)
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    fields = {
        field.name: _value(chance, view, field.name, field.type)
        for field in info.fields
        if field.name not in ("account", "id", "reply_to") and (field.required or chance.random() < 0.5)
    }
    command: Command = kind(account=view.name, id=id, **fields)
    return command


def _value(chance: random.Random, view: AccountView, name: str, type: msgspec.inspect.Type) -> Any:
    match type:
        case msgspec.inspect.UnionType():
            return _value(chance, view, name, chance.choice(type.types))
        case msgspec.inspect.NoneType():
            return None
        case msgspec.inspect.BoolType():
            return chance.random() < 0.5
        case msgspec.inspect.LiteralType():
            return chance.choice(sorted(type.values))
        case msgspec.inspect.IntType() if "price" in name or name in ("stop_loss", "take_profit"):
            return _price(chance, chance.choice(SYMBOLS))
        case msgspec.inspect.IntType():
            return 1_000 * chance.randrange(1, 40) if name == "volume" else chance.randrange(1, 1_000)
        case msgspec.inspect.StrType():
            if name == "group":
                return chance.choice(GROUPS).group
            return chance.choice(SYMBOLS) if name == "symbol" else chance.choice([*view.names, "0-0"])
    raise TypeError(f"{name}: no values are made for {type}")


def _odd(chance: random.Random, view: AccountView, id: str) -> Command:
    """What the engine must refuse."""
    place = Place(account=view.name, id=id, symbol=SYMBOLS[0], side=BUY, volume=1_000)
    return chance.choice(
        (
            msgspec.structs.replace(place, symbol="XXXYYY"),
            msgspec.structs.replace(place, volume=7),
            msgspec.structs.replace(place, account=f"{view.name}-nobody"),
            Close(account=view.name, id=id, position="0-0"),
            Deposit(account=view.name, id=id, amount=-1),
            OpenAccount(account=view.name, id=id, leverage=0),
        )
    )


MAKERS: Final[Mapping[Maker, int]] = {
    _place: 45,
    _rest: 25,
    _close: 24,
    _amend: 5,
    _cancel: 8,
    _close_by: 2,
    _deposit: 8,
    _close_all: 3,
    _set_trading: 1,
    _withdraw: 2,
    _set_group: 1,
    _any: 10,
}
"""How often each is asked of an open account that has money."""


def random_command(chance: random.Random, view: AccountView, id: str) -> Command:
    """The next command of an account: opened first, then funded, then traded with."""
    if chance.random() < ODD_SHARE:
        return _odd(chance, view, id)
    if not view.is_open:
        return _open(chance, view, id)
    if view.trading != "active" and chance.random() < REOPEN_SHARE:
        return _set_trading(chance, view, id)
    if view.balance < DRY_CENTS and chance.random() < 0.5:
        return _deposit(chance, view, id)
    (maker,) = chance.choices(list(MAKERS), list(MAKERS.values()))
    return maker(chance, view, id)


def other_body(chance: random.Random, command: Command) -> Command:
    """Another question under the same id."""
    view = AccountView(command.account, is_open=True, balance=DEPOSIT_CENTS)
    while True:
        other = random_command(chance, view, command.id)
        if other.account == command.account and fingerprint(other) != fingerprint(command):
            return other
