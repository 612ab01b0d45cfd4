"""Own writes and slots that change hands: one place to say it to whom in the client it matters."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from redis.exceptions import TryAgainError

from tradewind.client.policy import Verdict, judge

NO_KEY = -1  # in place of a slot: a write that may change any key, as FLUSHALL


class SlotListener(Protocol):
    """Who has to know what happens to slots."""

    def write_begun(self, slot: int) -> None:
        """A write of this client is about to be sent; `slot` may be NO_KEY."""

    def write_ended(self, slot: int) -> None:
        """It is over, answered or not, and its caller has not heard of it yet."""

    def owner_changed(self, slots: Iterable[int]) -> None:
        """These slots have another primary than before."""

    def is_moving(self, slot: int) -> None:
        """A key of the slot has gone to another shard."""


class SlotNews:
    """Hands the news on. Without listeners nothing is noted."""

    def __init__(self) -> None:
        self.listeners: list[SlotListener] = []

    def write_begun(self, slot: int) -> None:
        """See `SlotListener`."""
        for listener in self.listeners:
            listener.write_begun(slot)

    def write_ended(self, slot: int) -> None:
        """See `SlotListener`."""
        for listener in self.listeners:
            listener.write_ended(slot)

    def note(self, slot: int, future: "asyncio.Future[object]") -> None:
        """A write is sent whose end its future tells. To be called before anybody waits for the future."""
        self.write_begun(slot)
        future.add_done_callback(partial(self._over, slot))

    def _over(self, slot: int, _future: "asyncio.Future[object]") -> None:
        self.write_ended(slot)

    @contextmanager
    def writing(self, slot: int, *, writes: bool = True) -> Iterator[None]:
        """Around a write that has no future to tell its end."""
        if not (writes and self.listeners):
            yield
            return
        self.write_begun(slot)
        try:
            yield
        finally:
            self.write_ended(slot)

    def owner_changed(self, slots: Iterable[int]) -> None:
        """Other owners than before."""
        for listener in self.listeners:
            listener.owner_changed(slots)

    def look_for_move(self, slot: int, error: Exception) -> None:
        """ASK and TRYAGAIN mean that the slot is on its way to another owner."""
        if slot != NO_KEY and (judge(error) is Verdict.ASK or isinstance(error, TryAgainError)):
            for listener in self.listeners:
                listener.is_moving(slot)

    def compare(self, before: Sequence[object], after: Sequence[object]) -> None:
        """The owners of all slots, as they were and as they are."""
        if self.listeners:
            pairs = enumerate(zip(before, after, strict=True))
            self.owner_changed([slot for slot, (old, new) in pairs if old is not new])
