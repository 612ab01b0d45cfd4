"""What took how long: histograms for each node, and a short list of the commands that were slow.

The hot path pays for a batch of commands, not for a command: a lane knows when a batch was written and when
its last reply came, and looks at the age of the oldest command in it.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tradewind.client.command import Command
from tradewind.client.histogram import LatencyHistogram
from tradewind.clock import now_ms

log = logging.getLogger(__name__)

SLOW_KEPT_MAX = 128
LOG_INTERVAL_S = 1.0


@dataclass(frozen=True)
class SlowCommand:
    """A command that took longer than `slow_command_s`, without its arguments.

    `waiting_s`: until it was written, for room, a connection, or another try. `sent_s`: from then on. In that
    time this process's event loop stood still for `stalled_s` at a stretch. `answered`: or else given up.
    """

    at_ms: int
    name: str
    node: str
    waiting_s: float
    sent_s: float
    stalled_s: float
    answered: bool

    def __str__(self) -> str:
        stalled = f", the event loop stalled for {self.stalled_s:.3f} s" if self.stalled_s else ""
        unanswered = "" if self.answered else ", not answered"
        return (
            f"{self.name} at {self.node} took {self.waiting_s + self.sent_s:.3f} s: waiting "
            f"{self.waiting_s:.3f} s, sent {self.sent_s:.3f} s{stalled}{unanswered}"
        )


class SlowLog:
    """The last slow commands of a client; at most one log record a second says so.

    Of commands that are answered together only the oldest is looked at.
    """

    def __init__(self, slow_s: float, stalled_since: Callable[[float, float], float]) -> None:
        self.slow_s = slow_s
        self.count = 0
        self._stalled_since = stalled_since
        self._kept: deque[SlowCommand] = deque(maxlen=SLOW_KEPT_MAX)
        self._logged_s = float("-inf")
        self._unlogged = 0

    @property
    def kept(self) -> tuple[SlowCommand, ...]:
        """The last ones, oldest first."""
        return tuple(self._kept)

    def note(self, node: str, command: Command, sent_s: float, now_s: float, *, answered: bool) -> None:
        """`sent_s` and `now_s` are of the monotonic clock."""
        whole = command.part_of or command
        slow = SlowCommand(
            now_ms(),
            whole.name,
            node,
            max(0.0, sent_s - command.created_s),
            now_s - max(sent_s, command.created_s),
            self._stalled_since(command.created_s, now_s),
            answered,
        )
        self.count += 1
        self._kept.append(slow)
        if now_s - self._logged_s < LOG_INTERVAL_S:
            self._unlogged += 1
            return
        more = f" ({self._unlogged} more since the last record)" if self._unlogged else ""
        log.warning("slow command: %s%s", slow, more)
        self._logged_s, self._unlogged = now_s, 0


class Meter:
    """One node's histograms.

    `replies`: from the writing of a batch of commands to its last reply. `line`: how long the first of those
    who are let in together has waited for room or a connection. `durable`: from the writing of a durable
    batch to the answer of its barrier.
    """

    def __init__(self, node: str, slow_log: SlowLog) -> None:
        self.replies = LatencyHistogram()
        self.line = LatencyHistogram()
        self.durable = LatencyHistogram()
        self.slow_s = slow_log.slow_s
        self._node = node
        self._slow_log = slow_log

    def committed(self, oldest: Command, sent_s: float) -> None:
        """A durable batch has been settled."""
        now_s = time.monotonic()
        self.durable.record(now_s - sent_s)
        if now_s - oldest.created_s > self.slow_s:
            self.note(oldest, sent_s, now_s)

    def given_up(self, command: Command, sent_s: float, now_s: float) -> None:
        """The command's deadline has passed."""
        if now_s - command.created_s > self.slow_s:
            self.note(command, sent_s, now_s, answered=False)

    def note(self, command: Command, sent_s: float, now_s: float, *, answered: bool = True) -> None:
        """The command was slow."""
        self._slow_log.note(self._node, command, sent_s, now_s, answered=answered)
