"""Why a command may be refused: codes for programs, a sentence each for people."""

import enum
from typing import Final

from tradewind.engine.messages.words import DEPOSIT_CENTS_MAX, LEVERAGE_MAX


class RejectReason(enum.StrEnum):
    """Why a command was refused. The codes are part of the API; `sentence` is for people."""

    ACCOUNT_EXISTS = "account_exists"
    ACCOUNT_HALTED = "account_halted"
    ACCOUNT_REDUCING = "account_reducing"
    DUPLICATE_ID = "duplicate_id"
    INSUFFICIENT_MARGIN = "insufficient_margin"
    INVALID_AMOUNT = "invalid_amount"
    INVALID_LEVERAGE = "invalid_leverage"
    INVALID_VOLUME = "invalid_volume"
    NO_QUOTE = "no_quote"
    OPEN_POSITIONS_LIMIT = "open_positions_limit"
    STALE_QUOTE = "stale_quote"
    SYMBOL_HALTED = "symbol_halted"
    SYMBOL_REDUCING = "symbol_reducing"
    SYSTEM_HALTED = "system_halted"
    SYSTEM_REDUCING = "system_reducing"
    UNKNOWN_ACCOUNT = "unknown_account"
    UNKNOWN_POSITION = "unknown_position"
    UNKNOWN_SYMBOL = "unknown_symbol"

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES: Final[dict[RejectReason, str]] = {
    RejectReason.ACCOUNT_EXISTS: "An account of this id is already open.",
    RejectReason.ACCOUNT_HALTED: "Trading of the account is halted; only cancels pass.",
    RejectReason.ACCOUNT_REDUCING: "The account may only reduce its positions.",
    RejectReason.DUPLICATE_ID: "The id was used before with another body; use a new id for a new order.",
    RejectReason.INSUFFICIENT_MARGIN: "The free margin does not cover the margin of the new position.",
    RejectReason.INVALID_AMOUNT: f"A deposit must be between 1 and {DEPOSIT_CENTS_MAX} cents.",
    RejectReason.INVALID_LEVERAGE: f"The leverage must be between 1 and {LEVERAGE_MAX}.",
    RejectReason.INVALID_VOLUME: "The volume is not within the instrument's minimum, step and maximum.",
    RejectReason.NO_QUOTE: "There is no quote yet for a symbol the order depends on; try again shortly.",
    RejectReason.OPEN_POSITIONS_LIMIT: "The account holds as many positions as it may; close some first.",
    RejectReason.STALE_QUOTE: "The last quote is too old to trade at; try again when quotes flow.",
    RejectReason.SYMBOL_HALTED: "Trading of the symbol is halted; only cancels pass.",
    RejectReason.SYMBOL_REDUCING: "Positions in the symbol may only be reduced.",
    RejectReason.SYSTEM_HALTED: "All trading is halted; only cancels pass.",
    RejectReason.SYSTEM_REDUCING: "All positions may only be reduced at the moment.",
    RejectReason.UNKNOWN_ACCOUNT: "There is no account of this id; open it first.",
    RejectReason.UNKNOWN_POSITION: "The account has no open position of this id.",
    RejectReason.UNKNOWN_SYMBOL: "The symbol is not traded here.",
}
