"""How much memory this process has."""

import resource
from pathlib import Path


def resident_bytes() -> int:
    """What of it is in the machine's memory at this moment. Linux only."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
