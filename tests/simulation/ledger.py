"""What the servers really did: the truth that the callers' answers are compared with.

Every command carries a token, a number that no other command has.
"""

import re
from collections import Counter
from collections.abc import Callable

TOKEN = re.compile(rb"(?:^|:)t(\d+)(?:\.|$)")  # a word "t12", the end of a key ":t12", or "t12.padding"
TRACE_LINES_MAX = 100_000


def token_of(request: list[bytes]) -> int:
    """The number of the command; 0 for one of the client's own (its handshake, the slot map)."""
    if request[0] == b"INCRBY":
        return int(request[2])
    for word in request[1:]:
        found = TOKEN.search(word)
        if found:
            return int(found[1])
    return 0


class Ledger:
    """Executions and replies by token, and a trace of everything that a reader of a failure needs."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.executions: Counter[int] = Counter()
        self.replies: dict[int, list[object]] = {}
        self.replicated: set[int] = set()
        self.sent_to_importer: set[int] = set()  # by an ASK
        self.breaches: list[str] = []  # of the protocol, seen by a server
        self.counters: Counter[bytes] = Counter()
        self.values: dict[bytes, bytes] = {}
        self._now = now
        self._trace: list[tuple[float, str, tuple[object, ...]]] = []

    def executed(self, token: int, reply: object) -> None:
        self.executions[token] += 1
        self.answered(token, reply)

    def answered(self, token: int, reply: object) -> None:
        self.replies.setdefault(token, []).append(reply)

    def note(self, text: str, *args: object) -> None:
        """A line of the trace; formatted only when somebody reads it."""
        if len(self._trace) < TRACE_LINES_MAX:
            self._trace.append((self._now(), text, args))

    def trace(self, wanted: str = "", lines_max: int = 150) -> str:
        """The last lines, and all those that name what is `wanted`, or a fault."""
        lines = [f"{time_s:10.4f}  {text % args}" for time_s, text, args in self._trace]
        first = len(lines) - lines_max
        word = re.compile(rf"{re.escape(wanted)}\b") if wanted else None
        chosen = [
            line
            for number, line in enumerate(lines)
            if number >= first or "fault" in line or (word and word.search(line))
        ]
        return "\n".join(chosen)
