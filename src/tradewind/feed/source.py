"""What replay, simulation and flash crash have in common: they are asked for the quotes that are due."""

from __future__ import annotations

from typing import Protocol

from tradewind.engine.instruments import Quote


class QuoteSource(Protocol):
    """Quotes in time order, pulled by whoever publishes them: nothing is awaited, no queue is kept."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol that can appear."""
        ...

    def take(self, elapsed_ms: int, limit: int) -> list[Quote]:
        """At most `limit` quotes that are due `elapsed_ms` after the start, in order; each is given once.

        Fewer than `limit` means that nothing else is due yet. `elapsed_ms` must not go back between calls.
        The quotes carry the source's own time (a file's, or the simulation's), not that of publication.
        """
        ...

    def close(self) -> None:
        """Release files; nothing may be taken afterwards. May be called again."""
        ...
