"""What is said to and by the engine: commands, answers, events. JSON on the wire.

Each command and event carries its kind in the field "type". Fields at their default are left out. Unknown
fields of commands and events are an error: an order whose stop-loss is not understood must not be executed
without it.
"""

import msgspec

from tradewind.engine.messages.answers import (
    Answer,
    decode_answer,
    duplicate_id_answer,
)
from tradewind.engine.messages.commands import (
    Close,
    CloseAll,
    Command,
    CommandBase,
    Deposit,
    OpenAccount,
    Place,
    SetTrading,
    decode_command,
    fingerprint,
)
from tradewind.engine.messages.events import (
    AccountOpened,
    AllClosed,
    Deposited,
    Event,
    EventBase,
    MarginCall,
    MarginRestored,
    OrderFilled,
    OrderRejected,
    PositionClosed,
    TradingChanged,
    decode_event,
)
from tradewind.engine.messages.reasons import (
    RejectReason,
)
from tradewind.engine.messages.words import (
    ACTIVE,
    BUY,
    DEPOSIT_CENTS_MAX,
    HALTED,
    LEVERAGE_MAX,
    REDUCING,
    SELL,
    TRADING_REASON_CHARACTERS_MAX,
    AccountId,
    ClientOrderId,
    Name,
    ReplyTo,
    Side,
    TradingState,
)

__all__ = [
    "ACTIVE",
    "BUY",
    "DEPOSIT_CENTS_MAX",
    "HALTED",
    "LEVERAGE_MAX",
    "REDUCING",
    "SELL",
    "TRADING_REASON_CHARACTERS_MAX",
    "AccountId",
    "AccountOpened",
    "AllClosed",
    "Answer",
    "ClientOrderId",
    "Close",
    "CloseAll",
    "Command",
    "CommandBase",
    "Deposit",
    "Deposited",
    "Event",
    "EventBase",
    "MarginCall",
    "MarginRestored",
    "Name",
    "OpenAccount",
    "OrderFilled",
    "OrderRejected",
    "Place",
    "PositionClosed",
    "RejectReason",
    "ReplyTo",
    "SetTrading",
    "Side",
    "TradingChanged",
    "TradingState",
    "decode_answer",
    "decode_command",
    "decode_event",
    "duplicate_id_answer",
    "encode",
    "fingerprint",
]

encode = msgspec.json.Encoder().encode
