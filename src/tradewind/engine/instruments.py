"""What can be traded, and the quotes it is traded at.

Prices are integers: 1.12120 in EURUSD, an instrument of five price digits, is 112120.
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

ACCOUNT_CURRENCY = "USD"

UNITS_PER_LOT = 100_000


class Instrument(msgspec.Struct, frozen=True):
    """A currency pair. Volumes are units of the base currency.

    One side must be the account currency, so that profit and margin convert by the instrument's own price.
    Raises ValueError for a cross, whose conversion would need the quote of a second instrument.
    """

    symbol: str
    base: str
    quote: str
    price_digits: int
    volume_min: int = UNITS_PER_LOT // 100
    volume_step: int = UNITS_PER_LOT // 100
    volume_max: int = UNITS_PER_LOT * 100
    collar_basis_points: int = 1_000
    """How far from the market the price of an order may be."""

    def __post_init__(self) -> None:
        if (self.base == ACCOUNT_CURRENCY) == (self.quote == ACCOUNT_CURRENCY):
            raise ValueError(
                f"{self.symbol}: crosses are not traded: exactly one of {self.base}/{self.quote} "
                f"must be {ACCOUNT_CURRENCY}, the currency of all accounts"
            )

    @property
    def price_scale(self) -> int:
        """How many steps of the integer price make one unit of the quote currency."""
        return int(10**self.price_digits)

    @property
    def quoted_in_account_currency(self) -> bool:
        return self.quote == ACCOUNT_CURRENCY

    def accepts_volume(self, volume: int) -> bool:
        return self.volume_min <= volume <= self.volume_max and volume % self.volume_step == 0

    def format_price(self, price: int) -> str:
        """The price as people write it: 112120 is "1.12120" for EURUSD."""
        whole, fraction = divmod(abs(price), self.price_scale)
        sign = "-" if price < 0 else ""
        return f"{sign}{whole}.{fraction:0{self.price_digits}d}" if self.price_digits else f"{sign}{whole}"


class Quote(msgspec.Struct, frozen=True, array_like=True):
    """Prices at which the house buys (bid) and sells (ask), scaled by the instrument's price digits.

    The sizes are the units that it buys and sells there; None: as many as are asked for.
    """

    symbol: str
    bid: int
    ask: int
    time_ms: int
    bid_size: int | None = None
    ask_size: int | None = None

    @property
    def cause(self) -> str:
        """How events name it as what caused them."""
        return f"quote:{self.symbol}:{self.time_ms}"


class QuoteFrame(msgspec.Struct, frozen=True, array_like=True):
    """The last quote of each symbol that moved since the frame before."""

    sequence: int
    quotes: list[Quote]


INSTRUMENTS: Mapping[str, Instrument] = MappingProxyType(
    {
        instrument.symbol: instrument
        for instrument in (
            Instrument("EURUSD", base="EUR", quote="USD", price_digits=5),
            Instrument("GBPUSD", base="GBP", quote="USD", price_digits=5),
            Instrument("AUDUSD", base="AUD", quote="USD", price_digits=5),
            Instrument("USDJPY", base="USD", quote="JPY", price_digits=3),
            Instrument("USDCHF", base="USD", quote="CHF", price_digits=5),
            Instrument("USDCAD", base="USD", quote="CAD", price_digits=5),
        )
    }
)

encode_frame = msgspec.json.Encoder().encode
decode_frame = msgspec.json.Decoder(QuoteFrame).decode
encode_quote = msgspec.json.Encoder().encode
decode_quote = msgspec.json.Decoder(Quote).decode
