"""The simulation can fail: a client with a deliberate defect breaks a promise in one of the first worlds."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from tests.simulation.world import Violation, run_seed
from tradewind import NodeUnavailable, RedisCluster
from tradewind.client import command, commit, deadlines, dedicated, lane, refresh, router, watchdog

SEEDS_MAX = 400

Patch = pytest.MonkeyPatch


def the_place_of_who_has_gone_is_given_away(patch: Patch) -> None:
    feed = lane.Lane.feed

    def feed_those_who_wait(self: lane.Lane, data: bytes) -> None:
        gone = [command for command in self.in_flight if command.future.done()]
        self.in_flight = deque(command for command in self.in_flight if command not in gone)
        self.owner.on_answered(self, len(gone), sum(len(command.packed) for command in gone))
        feed(self, data)

    patch.setattr(lane.Lane, "feed", feed_those_who_wait)


def who_went_before_the_sending_keeps_their_room(patch: Patch) -> None:
    flush = lane.Lane._flush

    def flush_those_who_wait(self: lane.Lane) -> None:
        self.outbox = [command for command in self.outbox if not command.future.done()]
        flush(self)

    patch.setattr(lane.Lane, "_flush", flush_those_who_wait)


def asking_goes_without_its_command(patch: Patch) -> None:
    patch.setattr(command._PartFuture, "done", lambda _self: False)


def a_lost_write_is_called_unsent(patch: Patch) -> None:
    patch.setattr(router, "unknown_outcome", lambda what, error: NodeUnavailable(f"{what} {error}"))


def a_barrier_counts_whatever_it_says(patch: Patch) -> None:
    patch.setattr(commit, "barrier_result", lambda _barrier: (9, None))


def a_place_in_line_is_lost_with_who_leaves_it(patch: Patch) -> None:
    def withdraw(self: dedicated.DedicatedConnections, waiter: Any) -> None:
        waiter.cancel()
        self._waiters.pop(waiter, None)

    patch.setattr(dedicated.DedicatedConnections, "_withdraw", withdraw)


def a_failed_dial_keeps_its_right(patch: Patch) -> None:
    give = dedicated.DedicatedConnections._give

    def give_lanes_only(self: dedicated.DedicatedConnections, lane: Any) -> None:
        if lane is not None:
            give(self, lane)

    patch.setattr(dedicated.DedicatedConnections, "_give", give_lanes_only)


def nobody_is_told_that_their_time_is_over(patch: Patch) -> None:
    patch.setattr(deadlines.Deadlines, "expire", lambda _self, _now_s, _stalled_s: None)


def the_watchdog_runs_on(patch: Patch) -> None:
    patch.setattr(watchdog.Watchdog, "stop", lambda _self: None)


def a_silent_lane_is_kept(patch: Patch) -> None:
    patch.setattr(lane.Lane, "silent_for_s", lambda _self, _now_s: 0.0)


def the_map_is_never_learnt_anew(patch: Patch) -> None:
    for name in ("soon", "at_once"):
        patch.setattr(refresh.Refresher, name, lambda _self, *_node: None)


DEFECTS = [
    (the_place_of_who_has_gone_is_given_away, "somebody else's reply"),
    (who_went_before_the_sending_keeps_their_room, "never given back"),
    pytest.param(asking_goes_without_its_command, "ASKING", marks=pytest.mark.soak),  # only one world in 200
    (a_lost_write_is_called_unsent, "nothing was sent"),
    (a_barrier_counts_whatever_it_says, "no replica has confirmed"),
    (a_place_in_line_is_lost_with_who_leaves_it, "never given back"),
    (a_failed_dial_keeps_its_right, "never given back"),
    (nobody_is_told_that_their_time_is_over, "after its deadline"),
    (the_watchdog_runs_on, "left"),
    (a_silent_lane_is_kept, "not served"),
    (the_map_is_never_learnt_anew, "not served"),
]


def find(promise: str, make_client: Callable[..., RedisCluster] = RedisCluster) -> None:
    """Go through the worlds to the first one that finds this promise broken; others may break as well."""
    for seed in range(SEEDS_MAX):
        try:
            run_seed(seed, make_client)
        except Violation as violation:
            if promise in str(violation).partition("\n")[0]:
                return
    pytest.fail(f"none of {SEEDS_MAX} worlds found: {promise}")


@pytest.mark.parametrize(("defect", "promise"), DEFECTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_defect_is_found(
    defect: Callable[[Patch], None], promise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        defect(patch)
        find(promise)


@pytest.mark.parametrize(
    ("options", "promise"),
    [
        ({"retry": "always"}, "executed 2 times"),
        ({"in_flight_max": 5000}, "in flight at"),
        ({"max_connections": 200}, "connections"),
        ({"socket_timeout": 30.0}, "after its deadline"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_client_that_does_otherwise_than_it_was_told_is_found(
    options: dict[str, Any], promise: str
) -> None:
    find(promise, lambda **given: RedisCluster(**{**given, **options}))
