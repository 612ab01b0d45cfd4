"""Account groups: on what terms an account trades.

Groups are kept in the cluster. An account gets a copy of its group's terms when it is opened, or by an
explicit command; that copy is part of the event, so a rebuild needs nothing else, and a change of the group
changes no account that is there already.
"""

from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from tradewind.engine.instruments import UNITS_PER_LOT
from tradewind.engine.messages.words import LEVERAGE_MAX

TERMS_KINDS_KEPT: Final = 4_096
"""How many different terms are shared between accounts in memory."""

_Leverage = Annotated[int, Meta(ge=1, le=LEVERAGE_MAX)]
_Percent = Annotated[int, Meta(ge=0, le=1_000)]
_Points = Annotated[int, Meta(ge=0, le=10_000)]
_Cents = Annotated[int, Meta(ge=0, le=10**9)]
_SignedCents = Annotated[int, Meta(ge=-(10**9), le=10**9)]
_Limit = Annotated[int, Meta(ge=0, le=10**15)]
GroupName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.\-]{1,64}\Z")]


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A limit of 0 is no limit of the group's. Amounts are cents of the account's currency.

    :raises ValueError: the levels are not in order
    """

    group: GroupName = "default"
    leverage: _Leverage = 100
    """What an account gets that asks for none."""
    leverage_max: _Leverage = LEVERAGE_MAX
    markup_points: _Points = 0
    """Steps of the price, taken off the bid and added to the ask."""
    commission_cents: _Cents = 0
    """For a lot, at the opening and again at the close."""
    swap_buy_cents: _SignedCents = 0
    """For a lot and a night; more than 0 is paid to the account, less is charged."""
    swap_sell_cents: _SignedCents = 0
    margin_call_percent: _Percent = 100
    margin_restored_percent: _Percent = 110
    stop_out_percent: _Percent = 50
    forgives_debt: bool = False
    """Negative-balance protection."""
    order_volume_max: _Limit = 0
    """Units of the base currency."""
    order_value_max: _Limit = 0
    orders_max: Annotated[int, Meta(ge=0, le=200)] = 200
    """Orders that rest at a time."""
    positions_max: Annotated[int, Meta(ge=0, le=200)] = 200
    orders_per_second: Annotated[int, Meta(ge=0, le=100_000)] = 0
    orders_at_once: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    """How many may come in one moment after a quiet time."""

    def __post_init__(self) -> None:
        if not self.stop_out_percent <= self.margin_call_percent <= self.margin_restored_percent:
            raise ValueError(
                f"stop-out at {self.stop_out_percent} %, margin call at {self.margin_call_percent} % and its "
                f"end at {self.margin_restored_percent} % must not fall"
            )
        if self.leverage > self.leverage_max:
            raise ValueError(f"leverage {self.leverage} is above its maximum {self.leverage_max}")

    def commission_of(self, volume: int) -> int:
        """For one side of a trade, rounded up."""
        return -(-volume * self.commission_cents // UNITS_PER_LOT) if self.commission_cents else 0


DEFAULT_TERMS: Final = Terms()


@lru_cache(TERMS_KINDS_KEPT)
def shared(terms: Terms) -> Terms:
    """The one object for equal terms: many accounts trade on the same."""
    return DEFAULT_TERMS if terms == DEFAULT_TERMS else terms


encode_terms: Final = msgspec.json.Encoder().encode
decode_terms: Final = msgspec.json.Decoder(Terms).decode
