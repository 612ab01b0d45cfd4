"""Limits, deadlines, and what may run again: the decisions, without any I/O.

A command that failed is in one of three states (docs/retries.md):

    not sent                       -> anyone may try again
    refused by the server          -> it was not executed: follow the redirect, or try again later
    sent, no reply                 -> only what is repeatable may be sent again; a write's outcome is unknown
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    TryAgainError,
)

from tradewind.client.errors import OutcomeUnknown


@dataclass(frozen=True)
class Limits:
    """Everything that can grow, and how far. Counts are per node unless the name says otherwise.

    Each is at least 1: `settings.whole_number` sees to it where a caller chooses.
    """

    connections_max: int = 16  # lanes and dedicated connections together
    lanes_max: int = 2
    in_flight_max: int = 4096
    in_flight_bytes_max: int = 64 * 1024 * 1024
    dials_max: int = 4
    redirects_in_a_row_max: int = 5  # followed at once; after that with pauses, for the nodes disagree
    redirects_max: int = 32  # per command
    dedicated_idle_s_max: float = 30.0

    @property
    def shared_lanes_max(self) -> int:
        """Lanes, leaving room for one dedicated connection where the cap allows two or more."""
        return min(self.lanes_max, max(1, self.connections_max - 1))

    @property
    def dedicated_max(self) -> int:
        """Connections that may be taken by blocking commands, durable writes and subscriptions."""
        return self.connections_max - self.shared_lanes_max


@dataclass(frozen=True)
class Timeouts:
    """Seconds. `command_s` is the default deadline of a call, as redis-py 8's `socket_timeout`."""

    command_s: float = 5.0
    connect_s: float = 5.0
    silence_s: float = 5.0  # a lane that owes an overdue reply and hears nothing for so long is closed
    suspect_s: float = 1.0  # ... for so long: ask the cluster whether the node still owns its slots
    refresh_interval_s: float = 0.5  # at most one refresh in this time
    refresh_period_s: float = 60.0
    blocking_margin_s: float = 5.0
    slow_s: float = float("inf")  # a command that takes longer is noted


class Verdict(Enum):
    """What follows from an error reply."""

    MOVED = "follow: the slot lives elsewhere"
    ASK = "follow once: the slot is moving"
    RETRY = "not executed: try again later"
    RETRY_AND_REFRESH = "not executed: try again later, the topology may have changed"
    FAIL = "the caller's answer"


def judge(error: Exception) -> Verdict:
    """Decide by the server's error. The classes are redis-py's; BUSY and maxclients are told by text.

    UNBLOCKED is the server's word at a failover; what somebody said with CLIENT UNBLOCK is for the caller.
    """
    if isinstance(error, AskError):  # MovedError is a subclass of AskError in redis-py
        return Verdict.MOVED if isinstance(error, MovedError) else Verdict.ASK
    if isinstance(error, TryAgainError):
        return Verdict.RETRY
    if isinstance(error, (ClusterDownError, ReadOnlyError, MasterDownError, BusyLoadingError)):
        return Verdict.RETRY_AND_REFRESH
    text = str(error)  # whole sentences of the servers: a script may say BUSY of its own, and has run
    if text.startswith("BUSY ") and "is busy running" in text:
        return Verdict.RETRY
    if text.startswith("UNBLOCKED ") and "CLIENT UNBLOCK" not in text:
        return Verdict.RETRY_AND_REFRESH
    if text.removeprefix("ERR ") == "max number of clients reached":
        return Verdict.RETRY_AND_REFRESH
    return Verdict.FAIL


BACKOFF_BASE_S = 0.01
BACKOFF_CAP_S = 1.0


def backoff_s(
    attempt: int, rng: random.Random, base_s: float = BACKOFF_BASE_S, cap_s: float = BACKOFF_CAP_S
) -> float:
    """Exponential backoff with full jitter: uniform in [0, min(cap, base * 2**attempt)].

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return rng.uniform(0, min(cap_s, base_s * 2.0 ** min(attempt, 30)))


@dataclass(frozen=True)
class RetryPolicy:
    """How often, how fast and after what a command is tried again; always within its deadline.

    `always`: also writes that were sent and have no reply, which may then run twice. `tries_max` counts the
    tries after a pause; redirects that are followed at once are none. `errors` are error replies after which
    what is repeatable is tried again, beside those that mean that nothing was executed. `delay_s` gives the
    pause in seconds before the n-th try, in place of `backoff_s`.
    """

    always: bool = False
    tries_max: float = float("inf")
    errors: tuple[type[Exception], ...] = ()
    delay_s: Callable[[int], float] | None = None

    def pause_s(self, attempt: int, rng: random.Random) -> float:
        """The pause before this try, the first of which is 1."""
        return backoff_s(attempt, rng) if self.delay_s is None else float(self.delay_s(attempt))


def unknown_outcome(what: str, error: Exception) -> OutcomeUnknown:
    """The error for a write that was sent and whose connection ended."""
    return OutcomeUnknown(f"{what} before its reply came: it may have run, once; {error}")
