"""What the engine is asked to do."""

import hashlib
from typing import Final, Literal, TypeAlias

import msgspec

from tradewind.engine.messages.words import AccountId, ClientOrderId, Name, ReplyTo, Side, TradingState, Why


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
    leverage: int = 100


class Deposit(CommandBase, frozen=True, kw_only=True, tag="deposit"):
    """`amount` in cents."""

    amount: int


class Place(CommandBase, frozen=True, kw_only=True, tag="place"):
    symbol: Name
    side: Side
    volume: int
    kind: Literal["market"] = "market"


class Close(CommandBase, frozen=True, kw_only=True, tag="close"):
    """Closes the position, or `volume` units of it."""

    position: Name
    volume: int | None = None


class CloseAll(CommandBase, frozen=True, kw_only=True, tag="close_all"):
    """Closes every position of the account, or those of one symbol, one side, or both."""

    symbol: Name | None = None
    side: Side | None = None


class SetTrading(CommandBase, frozen=True, kw_only=True, tag="set_trading"):
    """What the account may do from here on. `why` is for people, and kept in the event."""

    state: TradingState
    why: Why = ""


Command: TypeAlias = OpenAccount | Deposit | Place | Close | CloseAll | SetTrading


decode_command: Final = msgspec.json.Decoder(Command).decode

_encode: Final = msgspec.json.Encoder().encode


def fingerprint(command: Command) -> str:
    """16 hex digits of what was asked. Who asked is left out: a repeat may come through another process."""
    body = _encode(msgspec.structs.replace(command, reply_to="") if command.reply_to else command)
    return hashlib.blake2b(body, digest_size=8).hexdigest()
