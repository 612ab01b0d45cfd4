import msgspec
import pytest

from tradewind.engine.instruments import (
    INSTRUMENTS,
    Instrument,
    Quote,
    QuoteFrame,
    decode_frame,
    decode_quote,
    encode_frame,
    encode_quote,
)


def test_a_cross_is_refused_with_a_sentence() -> None:
    with pytest.raises(
        ValueError, match="EURGBP: crosses are not traded: exactly one of EUR/GBP must be USD"
    ):
        Instrument("EURGBP", base="EUR", quote="GBP", price_digits=5)


@pytest.mark.parametrize(
    ("volume", "accepted"),
    [
        *[(-1_000, False), (0, False), (999, False), (1_000, True)],
        *[(1_500, False), (2_000, True), (10_000_000, True), (10_001_000, False)],
    ],
)
def test_volumes_keep_to_minimum_step_and_maximum(volume: int, accepted: bool) -> None:
    assert INSTRUMENTS["EURUSD"].accepts_volume(volume) is accepted


@pytest.mark.parametrize(
    ("symbol", "price", "text"),
    [("EURUSD", 112_120, "1.12120"), ("USDJPY", 86_655, "86.655"), ("AUDUSD", 68_200, "0.68200")],
)
def test_prices_are_written_as_people_do(symbol: str, price: int, text: str) -> None:
    assert INSTRUMENTS[symbol].format_price(price) == text


def test_the_catalogue_is_read_only_and_keyed_by_symbol() -> None:
    assert all(symbol == instrument.symbol for symbol, instrument in INSTRUMENTS.items())
    with pytest.raises(TypeError):
        INSTRUMENTS["EURUSD"] = INSTRUMENTS["GBPUSD"]  # type: ignore[index]


def test_frames_and_quotes_are_short_arrays_on_the_wire() -> None:
    quote = Quote("EURUSD", 112_100, 112_112, 7)
    assert encode_frame(QuoteFrame(3, [quote])) == b'[3,[["EURUSD",112100,112112,7,null,null]]]'
    assert decode_frame(b'[3,[["EURUSD",112100,112112,7]]]') == QuoteFrame(3, [quote])
    assert decode_frame(encode_frame(QuoteFrame(3, [quote]))) == QuoteFrame(3, [quote])
    assert decode_quote(encode_quote(quote)) == quote


def test_a_broken_frame_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_frame(b'[1,[["EURUSD",1.5,2,3]]]')
