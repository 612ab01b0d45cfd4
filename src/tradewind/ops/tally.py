"""What the callers of the load were told, counted: outcomes, latencies, and who was silent for how long."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tradewind.client.histogram import LatencyHistogram
from tradewind.engine.messages import Answer


@dataclass
class ShardTally:
    """Acknowledgements of one shard. Times are of the monotonic clock."""

    name: str
    acknowledged: int = 0
    last_s: float = 0.0
    gap_s_max: float = 0.0
    """Longest time without an acknowledgement, since the first one."""

    watched_from_s: float = float("inf")
    first_after_s: float | None = None
    """The first acknowledgement of an order that was due after `watched_from_s`."""


@dataclass
class Tally:
    """Counts since the start. `window` has the latencies since `take_window` was last called."""

    shards: Sequence[ShardTally]
    offered: int = 0
    filled: int = 0
    rejected: int = 0
    done: int = 0
    unknown: int = 0
    not_sent: int = 0
    """Orders that could not be handed in: they have no effect, and nobody was told anything."""
    started_s: float | None = None
    """When the first order was offered; `first_s`, `last_s`: when the first and the last were answered."""
    first_s: float | None = None
    last_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    window: LatencyHistogram = field(default_factory=LatencyHistogram)
    _total: LatencyHistogram = field(default_factory=LatencyHistogram)

    @property
    def acknowledged(self) -> int:
        return self.filled + self.rejected + self.done

    @property
    def in_flight(self) -> int:
        return self.offered - self.acknowledged - self.unknown - self.not_sent

    def answered(self, shard_index: int, due_s: float, answer: Answer) -> None:
        """One more answer, to an order that was due at `due_s`."""
        now_s = time.monotonic()
        self.window.record(now_s - due_s)
        if answer.status == "filled":
            self.filled += 1
        elif answer.status == "done":
            self.done += 1
        else:
            self.rejected += 1
            self.reasons[str(answer.reason)] += 1
        shard = self.shards[shard_index]
        if shard.acknowledged:
            shard.gap_s_max = max(shard.gap_s_max, now_s - shard.last_s)
        shard.acknowledged += 1
        shard.last_s = self.last_s = now_s
        if due_s >= shard.watched_from_s and shard.first_after_s is None:
            shard.first_after_s = now_s
        if self.first_s is None:
            self.first_s = now_s

    def watch_from(self, now_s: float) -> None:
        """From here on look for each shard's first acknowledgement and its longest silence."""
        for shard in self.shards:
            shard.watched_from_s, shard.first_after_s, shard.gap_s_max = now_s, None, 0.0

    def take_window(self) -> LatencyHistogram:
        """The latencies since the last call, which count in `total` from now on."""
        window, self.window = self.window, LatencyHistogram()
        self._total.add(window)
        return window

    @property
    def total(self) -> LatencyHistogram:
        """All latencies so far."""
        self.take_window()
        return self._total
