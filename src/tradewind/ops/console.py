"""How the command line speaks: results on stdout, everything else on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

PROGRESS_S = 2.0

out = Console()
err = Console(stderr=True, highlight=False)


@contextmanager
def progress_line(title: str) -> Iterator[Callable[[str], None]]:
    """Show the step at hand: one moving line on a terminal, a line a step elsewhere."""
    if not sys.stderr.isatty():
        yield lambda step: print(f"{title}: {step}", file=sys.stderr, flush=True)
        return
    with err.status(title) as status:
        yield lambda step: status.update(f"{title}: {step}")


@contextmanager
def slow_progress(title: str) -> Iterator[Callable[[str], None]]:
    """The same for what may be over soon: a step is shown when none was for two seconds."""
    next_s = time.monotonic() + PROGRESS_S
    with progress_line(title) as show:

        def step(text: str) -> None:
            nonlocal next_s
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + PROGRESS_S
                show(text)

        yield step
