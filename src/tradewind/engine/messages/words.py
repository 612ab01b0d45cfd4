"""What the fields of messages may hold, and how they are limited."""

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta

Side: TypeAlias = Literal["buy", "sell"]
BUY: Final = "buy"
SELL: Final = "sell"

TradingState: TypeAlias = Literal["active", "reducing", "halted"]
"""active: everything; reducing: what opens nothing; halted: cancels only."""
ACTIVE: Final = "active"
REDUCING: Final = "reducing"
HALTED: Final = "halted"
TRADING_REASON_CHARACTERS_MAX: Final = 200
OrderKind: TypeAlias = Literal["market", "limit", "stop", "stop_limit"]
TimeInForce: TypeAlias = Literal["gtc", "day", "ioc", "fok"]
"""Good till cancelled; for the trading day; at once, as much as there is; at once, all or nothing."""

CloseReason: TypeAlias = Literal["close", "reduce", "stop_loss", "take_profit", "stop_out"]

LEVERAGE_MAX = 500
CANCEL_AFTER_S_MAX = 86_400
PRICE_MAX = 10**12
DEPOSIT_CENTS_MAX = 10**12  # ten billion USD: sums of many stay below 2**53, which JavaScript reads exactly

# How events name a price or the time as their cause; a client order id must not look like one.
ClientOrderId: TypeAlias = Annotated[str, Meta(pattern=r"^(?!quote:|time:)[ -~]{1,64}\Z")]
AccountId: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.\-]{1,64}\Z")]
ReplyTo: TypeAlias = Annotated[str, Meta(max_length=64)]
Name: TypeAlias = Annotated[str, Meta(max_length=64)]  # of a symbol or a position; an answer repeats it
Why: TypeAlias = Annotated[str, Meta(max_length=TRADING_REASON_CHARACTERS_MAX)]


def opposite(side: Side) -> Side:
    return SELL if side == BUY else BUY
