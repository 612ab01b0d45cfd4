import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradewind.engine.orders import (
    FINAL_STATES,
    TRANSITIONS,
    IllegalTransition,
    OrderEvent,
    OrderState,
    transition,
)

# Written from the FIX order state change matrices, by state, independently of the table.
FOLLOWING = {
    "pending_new": "accept>new reject>rejected cancel>canceled expire>expired request_cancel>pending_cancel",
    "new": "trigger>new reject>rejected fill_partially>partially_filled fill>filled cancel>canceled "
    "expire>expired request_cancel>pending_cancel request_replace>pending_replace suspend>suspended",
    "partially_filled": "fill_partially>partially_filled fill>filled cancel>canceled expire>expired "
    "request_cancel>pending_cancel request_replace>pending_replace suspend>suspended",
    "filled": "",
    "canceled": "",
    "rejected": "",
    "expired": "",
    "pending_cancel": "fill_partially>pending_cancel fill>filled cancel>canceled expire>expired "
    "resume_unfilled>new resume_partially_filled>partially_filled",
    "pending_replace": "fill_partially>pending_replace fill>filled cancel>canceled expire>expired "
    "request_cancel>pending_cancel resume_unfilled>new resume_partially_filled>partially_filled",
    "suspended": "cancel>canceled expire>expired request_cancel>pending_cancel resume_unfilled>new "
    "resume_partially_filled>partially_filled",
}

ALL_PAIRS = list(itertools.product(OrderState, OrderEvent))


@pytest.mark.parametrize(("state", "event"), ALL_PAIRS, ids=lambda value: value.value)
def test_every_pair_follows_the_matrix_or_is_illegal(state: OrderState, event: OrderEvent) -> None:
    following = dict(pair.split(">") for pair in FOLLOWING[state].split())
    if event in following:
        assert transition(state, event) == following[event]
        return
    with pytest.raises(IllegalTransition) as caught:
        transition(state, event)
    assert state in str(caught.value)
    assert event.replace("_", " ") in str(caught.value)
    assert (caught.value.state, caught.value.event) == (state, event)


def test_nothing_follows_a_final_state() -> None:
    states_with_a_successor = {state for state, _ in TRANSITIONS}
    assert set(OrderState) - states_with_a_successor == FINAL_STATES


def test_every_state_is_reached_from_pending_new_and_can_end() -> None:
    reached = {OrderState.PENDING_NEW}
    while more := {TRANSITIONS[pair] for pair in TRANSITIONS if pair[0] in reached} - reached:
        reached |= more
    assert reached == set(OrderState)
    assert all((state, OrderEvent.EXPIRE) in TRANSITIONS for state in set(OrderState) - FINAL_STATES)


@given(st.lists(st.sampled_from(OrderEvent), max_size=30))
def test_a_walk_never_leaves_a_final_state_and_is_filled_only_by_a_fill(events: list[OrderEvent]) -> None:
    state = OrderState.PENDING_NEW
    for event in events:
        try:
            following = transition(state, event)
        except IllegalTransition:
            continue
        assert state not in FINAL_STATES
        assert (following is OrderState.FILLED) == (event is OrderEvent.FILL)
        state = following
