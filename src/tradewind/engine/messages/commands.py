"""What the engine is asked to do."""

import hashlib
from typing import Final, TypeAlias

import msgspec

from tradewind.engine.messages.words import (
    AccountId,
    ClientOrderId,
    Name,
    OrderKind,
    ReplyTo,
    Side,
    TimeInForce,
    TradingState,
    Why,
)


class CommandBase(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="type",
    forbid_unknown_fields=True,
):
    """`id` is the client order id; `reply_to` the channel suffix of the process that asked, or empty."""

    account: AccountId
    id: ClientOrderId
    reply_to: ReplyTo = ""


class OpenAccount(CommandBase, frozen=True, kw_only=True, tag="open_account"):
    """On the terms of its group. Without a leverage: the group's."""

    group: Name = "default"
    leverage: int | None = None


class Deposit(CommandBase, frozen=True, kw_only=True, tag="deposit"):
    """`amount` in cents."""

    amount: int


class Withdraw(CommandBase, frozen=True, kw_only=True, tag="withdraw"):
    """`amount` in cents; no more than is free."""

    amount: int


class SetGroup(CommandBase, frozen=True, kw_only=True, tag="set_group"):
    """Copies the terms of the group, as they are now, into the account. Open positions keep their margin."""

    group: Name
    leverage: int | None = None


class Place(CommandBase, frozen=True, kw_only=True, tag="place"):
    """An order. `price` is the limit of a limit and of a stop_limit order, `stop_price` what sets off a stop
    and a stop_limit order.

    `stop_loss` and `take_profit` go to the positions that it opens. A `reduce_only` order opens none: it
    closes positions of the other side, the oldest first.
    """

    symbol: Name
    side: Side
    volume: int
    kind: OrderKind = "market"
    price: int | None = None
    stop_price: int | None = None
    stop_loss: int | None = None
    take_profit: int | None = None
    time_in_force: TimeInForce = "gtc"
    reduce_only: bool = False


class Amend(CommandBase, frozen=True, kw_only=True, tag="amend"):
    """Changes a resting order: None leaves a value as it is, 0 takes a stop_loss or take_profit off.

    `volume` is the whole order's, with what is filled of it. Not more than that ends the order as filled.
    """

    order: Name
    volume: int | None = None
    price: int | None = None
    stop_price: int | None = None
    stop_loss: int | None = None
    take_profit: int | None = None


class Cancel(CommandBase, frozen=True, kw_only=True, tag="cancel"):
    order: Name


class CancelAll(CommandBase, frozen=True, kw_only=True, tag="cancel_all"):
    """Cancels every resting order of the account, or those of one symbol, one side, or both."""

    symbol: Name | None = None
    side: Side | None = None


class Protect(CommandBase, frozen=True, kw_only=True, tag="protect"):
    """Sets the stop_loss and take_profit of a position: None leaves one as it is, 0 takes it off."""

    position: Name
    stop_loss: int | None = None
    take_profit: int | None = None


class Close(CommandBase, frozen=True, kw_only=True, tag="close"):
    """Closes the position, or `volume` units of it."""

    position: Name
    volume: int | None = None


class CloseBy(CommandBase, frozen=True, kw_only=True, tag="close_by"):
    """Closes a position and an opposite one of its symbol, `by`, against each other, without a spread.

    As much as the smaller one holds; what the larger one holds more stays open.
    """

    position: Name
    by: Name


class CloseAll(CommandBase, frozen=True, kw_only=True, tag="close_all"):
    """Closes every position of the account, or those of one symbol, one side, or both."""

    symbol: Name | None = None
    side: Side | None = None


class CancelAfter(CommandBase, frozen=True, kw_only=True, tag="cancel_after"):
    """The dead-man timer: all resting orders are cancelled after so many seconds, unless it is set anew
    before. 0 takes it off.
    """

    seconds: int


class SetTrading(CommandBase, frozen=True, kw_only=True, tag="set_trading"):
    """What the account may do from here on. `why` is for people, and kept in the event."""

    state: TradingState
    why: Why = ""


Command: TypeAlias = (
    OpenAccount
    | Deposit
    | Withdraw
    | Place
    | Amend
    | Cancel
    | CancelAll
    | Protect
    | Close
    | CloseBy
    | CloseAll
    | SetTrading
    | SetGroup
    | CancelAfter
)


decode_command: Final = msgspec.json.Decoder(Command).decode

_encode: Final = msgspec.json.Encoder().encode


def fingerprint(command: Command) -> str:
    """16 hex digits of what was asked. Who asked is left out: a repeat may come through another process."""
    body = _encode(msgspec.structs.replace(command, reply_to="") if command.reply_to else command)
    return hashlib.blake2b(body, digest_size=8).hexdigest()
