"""How the command line speaks: results on stdout, everything else on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

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
