from hypothesis import given
from hypothesis import strategies as st

from tradewind.engine.instruments import Quote
from tradewind.engine.resting import Order
from tradewind.engine.triggers import STALE_ENTRIES_MAX, Heap, Triggers

numbers = st.integers(-50, 50)
ids = st.integers(1, 12).map(lambda number: f"17-{number}")


@given(st.lists(st.one_of(st.tuples(ids, numbers), st.tuples(ids, st.none()), numbers), max_size=60))
def test_a_heap_gives_what_a_search_through_everything_would(steps: list) -> None:  # type: ignore[type-arg]
    heap, plain = Heap(), dict[str, int]()
    for step in steps:
        if isinstance(step, int):
            reached = {id for id, number in plain.items() if number <= step}
            assert {trigger.id for trigger in heap.take(step)} == reached
            plain = {id: number for id, number in plain.items() if id not in reached}
        elif step[1] is None:
            heap.drop(step[0])
            plain.pop(step[0], None)
        else:
            heap.set(step[0], "A1", step[1])
            plain[step[0]] = step[1]
        assert len(heap) == len(plain)


def test_a_heap_stays_small_however_often_a_price_is_changed() -> None:
    heap = Heap()
    for number in range(10_000):
        heap.set("17-1", "A1", number)
    assert len(heap._entries) <= 2 + STALE_ENTRIES_MAX
    assert [trigger.id for trigger in heap.take(10_000)] == ["17-1"]


def test_a_tick_that_reaches_nothing_touches_nothing() -> None:
    triggers = Triggers()
    for number in range(1_000):
        order = Order(f"17-{number}", "o", "EURUSD", "buy", 1_000, "limit", 0, price=100_000 - number)
        triggers.arm_order("A1", order)
    assert triggers.due([Quote("EURUSD", 100_000, 100_001, 0)]) == []
    due = triggers.due([Quote("EURUSD", 99_996, 99_997, 0)])
    assert [trigger.id for trigger in due] == ["17-0", "17-1", "17-2", "17-3"]
    assert triggers.due([Quote("EURUSD", 99_996, 99_997, 0)]) == []
