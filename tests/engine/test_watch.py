from hypothesis import given
from hypothesis import strategies as st

from tests.engine.books import NOW_MS, QUOTES
from tradewind.engine.account import Account, Position
from tradewind.engine.instruments import INSTRUMENTS, Quote
from tradewind.engine.messages import Side
from tradewind.engine.watch import Watch

LAST = {symbol: Quote(symbol, bid, ask, NOW_MS) for symbol, (bid, ask) in QUOTES.items()}
SYMBOLS = st.sampled_from(list(INSTRUMENTS))


def account_with(holdings: list[tuple[str, Side, int, int]]) -> Account:
    account = Account("A1", leverage=100)
    for number, (symbol, side, lots, shift) in enumerate(holdings):
        price = QUOTES[symbol][0] + shift
        account.add(Position(f"1-{number}", symbol, side, lots * 1_000, price, 1, NOW_MS))
    return account


def moved(shifts: dict[str, tuple[int, int]]) -> dict[str, Quote]:
    shifted = {
        symbol: Quote(symbol, LAST[symbol].bid + shift, LAST[symbol].ask + shift + wider, NOW_MS)
        for symbol, (shift, wider) in shifts.items()
    }
    return LAST | shifted


def equity(account: Account, quotes: dict[str, Quote]) -> int:
    value = account.equity(quotes)
    assert value is not None
    return value


holdings = st.lists(
    st.tuples(SYMBOLS, st.sampled_from(["buy", "sell"]), st.integers(1, 100), st.integers(-5_000, 5_000)),
    min_size=1,
    max_size=10,
)
shifts = st.dictionaries(SYMBOLS, st.tuples(st.integers(-20_000, 20_000), st.integers(0, 50)))


@given(holdings, st.integers(0, 10**7), shifts)
def test_an_account_that_is_not_due_has_not_spent_its_cushion(
    held: list[tuple[str, Side, int, int]], cushion: int, moves: dict[str, tuple[int, int]]
) -> None:
    account, watch = account_with(held), Watch()
    watch.look_when_spent(account, cushion, LAST)
    quotes = moved(moves)
    if not watch.due(quotes.values()):
        assert equity(account, quotes) >= equity(account, LAST) - cushion


def test_a_cushion_is_not_spent_twice() -> None:
    account, watch = account_with([("EURUSD", "buy", 100, 0), ("GBPUSD", "buy", 100, 0)]), Watch()
    watch.look_when_spent(account, 1_000, LAST)
    quotes = moved({"EURUSD": (-8, 0), "GBPUSD": (-8, 0)})
    assert equity(account, quotes) == equity(account, LAST) - 1_600
    assert watch.due(quotes.values()) == {"A1"}


@given(holdings, st.integers(0, 10**6))
def test_nobody_is_due_while_quotes_stand_still(held: list[tuple[str, Side, int, int]], cushion: int) -> None:
    account, watch = account_with(held), Watch()
    watch.look_when_spent(account, cushion, LAST)
    assert watch.due(LAST.values()) == set()


def test_a_single_buy_is_due_exactly_when_its_cushion_is_spent() -> None:
    account, watch = account_with([("EURUSD", "buy", 100, 0)]), Watch()  # a step is worth 100 cents
    watch.look_when_spent(account, 1_000, LAST)
    assert watch.due([Quote("EURUSD", 112_090, 112_100, NOW_MS)]) == set()
    assert watch.due([Quote("EURUSD", 112_089, 112_100, NOW_MS)]) == {"A1"}


def test_a_single_sell_is_due_exactly_when_its_cushion_is_spent() -> None:
    account, watch = account_with([("EURUSD", "sell", 100, 0)]), Watch()
    watch.look_when_spent(account, 1_000, LAST)
    assert watch.due([Quote("EURUSD", 112_100, 112_122, NOW_MS)]) == set()
    assert watch.due([Quote("EURUSD", 112_100, 112_123, NOW_MS)]) == {"A1"}


def test_a_buy_does_not_mind_the_ask_nor_a_sell_the_bid() -> None:
    buyer, watch = account_with([("EURUSD", "buy", 1, 0)]), Watch()
    watch.look_when_spent(buyer, 0, LAST)
    assert watch.due([Quote("EURUSD", 112_100, 999_999, NOW_MS)]) == set()
    seller, watch = account_with([("EURUSD", "sell", 1, 0)]), Watch()
    watch.look_when_spent(seller, 0, LAST)
    assert watch.due([Quote("EURUSD", 1, 112_112, NOW_MS)]) == set()


def test_an_account_to_be_looked_at_always_is_due_with_its_own_symbols_only() -> None:
    account, watch = account_with([("EURUSD", "buy", 1, 0), ("USDJPY", "sell", 1, 0)]), Watch()
    watch.look_always(account)
    for symbol in QUOTES:
        assert watch.due([LAST[symbol]]) == ({"A1"} if symbol in ("EURUSD", "USDJPY") else set())


def test_what_is_forgotten_is_not_due_and_may_be_forgotten_again() -> None:
    account, watch = account_with([("EURUSD", "buy", 1, 0)]), Watch()
    watch.look_always(account)
    watch.forget("A1", ("EURUSD", "buy"))
    watch.forget("A1", ("EURUSD", "buy"))
    assert watch.due(LAST.values()) == set()
