"""Why a command may be refused: codes for programs, a sentence each for people."""

import enum
from typing import Final

from tradewind.engine.messages.words import CANCEL_AFTER_S_MAX, DEPOSIT_CENTS_MAX, LEVERAGE_MAX, PRICE_MAX


class RejectReason(enum.StrEnum):
    """Why a command was refused. The codes are part of the API; `sentence` is for people."""

    ACCOUNT_EXISTS = "account_exists"
    ACCOUNT_HALTED = "account_halted"
    ACCOUNT_REDUCING = "account_reducing"
    CANCEL_PENDING = "cancel_pending"
    DUPLICATE_ID = "duplicate_id"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    INSUFFICIENT_MARGIN = "insufficient_margin"
    INVALID_AMOUNT = "invalid_amount"
    INVALID_LEVERAGE = "invalid_leverage"
    INVALID_PRICE = "invalid_price"
    INVALID_PROTECTION = "invalid_protection"
    INVALID_TIMER = "invalid_timer"
    INVALID_VOLUME = "invalid_volume"
    MARKET_CLOSED = "market_closed"
    NOTHING_TO_REDUCE = "nothing_to_reduce"
    NOT_FILLABLE = "not_fillable"
    NOT_OPPOSITE = "not_opposite"
    NO_QUOTE = "no_quote"
    OPEN_ORDERS_LIMIT = "open_orders_limit"
    OPEN_POSITIONS_LIMIT = "open_positions_limit"
    REPLACE_PENDING = "replace_pending"
    ORDER_RATE = "order_rate"
    ORDER_VALUE = "order_value"
    ORDER_VOLUME = "order_volume"
    PRICE_COLLAR = "price_collar"
    STALE_QUOTE = "stale_quote"
    SYMBOL_HALTED = "symbol_halted"
    SYMBOL_REDUCING = "symbol_reducing"
    SYSTEM_HALTED = "system_halted"
    SYSTEM_REDUCING = "system_reducing"
    TOO_LATE_TO_CANCEL = "too_late_to_cancel"
    UNKNOWN_ACCOUNT = "unknown_account"
    UNKNOWN_ORDER = "unknown_order"
    UNKNOWN_GROUP = "unknown_group"
    UNKNOWN_POSITION = "unknown_position"
    UNKNOWN_SYMBOL = "unknown_symbol"

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES: Final[dict[RejectReason, str]] = {
    RejectReason.ACCOUNT_EXISTS: "An account of this id is already open.",
    RejectReason.ACCOUNT_HALTED: "Trading of the account is halted; only cancels pass.",
    RejectReason.ACCOUNT_REDUCING: "The account may only reduce its positions.",
    RejectReason.CANCEL_PENDING: "A cancel of the order is under way; it cannot be changed any more.",
    RejectReason.DUPLICATE_ID: "The id was used before with another body; use a new id for a new order.",
    RejectReason.INSUFFICIENT_FUNDS: "No more can be withdrawn than is free.",
    RejectReason.INSUFFICIENT_MARGIN: "The free margin does not cover the margin of the new position.",
    RejectReason.INVALID_AMOUNT: f"An amount must be between 1 and {DEPOSIT_CENTS_MAX} cents.",
    RejectReason.INVALID_LEVERAGE: f"The leverage must be between 1 and {LEVERAGE_MAX}.",
    RejectReason.INVALID_PRICE: f"The order's kind needs other prices, each between 1 and {PRICE_MAX}.",
    RejectReason.INVALID_PROTECTION: "The stop-loss or take-profit is not on its side of the price.",
    RejectReason.INVALID_TIMER: f"The seconds must be between 0 and {CANCEL_AFTER_S_MAX}.",
    RejectReason.INVALID_VOLUME: "The volume is not within the instrument's minimum, step and maximum.",
    RejectReason.MARKET_CLOSED: "The symbol is not traded at this time; only cancels pass.",
    RejectReason.NOTHING_TO_REDUCE: "The account holds nothing that the reduce-only order could close.",
    RejectReason.NOT_FILLABLE: "The order cannot be filled at once at its price and volume and may not rest.",
    RejectReason.NOT_OPPOSITE: "The positions are not two opposite ones of one symbol.",
    RejectReason.NO_QUOTE: "There is no quote yet for a symbol the order depends on; try again shortly.",
    RejectReason.OPEN_ORDERS_LIMIT: "As many orders of the account rest as may; cancel some first.",
    RejectReason.OPEN_POSITIONS_LIMIT: "The account holds as many positions as it may; close some first.",
    RejectReason.REPLACE_PENDING: "A change of the order is under way; wait for its outcome.",
    RejectReason.ORDER_RATE: "The account sends more orders than it may; wait a moment.",
    RejectReason.ORDER_VALUE: "The order is worth more than an order of the account may be.",
    RejectReason.ORDER_VOLUME: "The order is larger than an order of the account may be.",
    RejectReason.PRICE_COLLAR: "The price is too far from the market.",
    RejectReason.STALE_QUOTE: "The last quote is too old to trade at; try again when quotes flow.",
    RejectReason.SYMBOL_HALTED: "Trading of the symbol is halted; only cancels pass.",
    RejectReason.SYMBOL_REDUCING: "Positions in the symbol may only be reduced.",
    RejectReason.SYSTEM_HALTED: "All trading is halted; only cancels pass.",
    RejectReason.SYSTEM_REDUCING: "All positions may only be reduced at the moment.",
    RejectReason.TOO_LATE_TO_CANCEL: "The order has ended already.",
    RejectReason.UNKNOWN_ACCOUNT: "There is no account of this id; open it first.",
    RejectReason.UNKNOWN_ORDER: "The account has no resting order of this id.",
    RejectReason.UNKNOWN_GROUP: "There is no group of this name.",
    RejectReason.UNKNOWN_POSITION: "The account has no open position of this id.",
    RejectReason.UNKNOWN_SYMBOL: "The symbol is not traded here.",
}
