"""What a test may leave behind: nothing. Sockets and children are read from /proc, so on Linux only."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

_PROC = Path("/proc")


def open_sockets() -> set[str]:
    """The sockets of this process, as `socket:[inode]`: an inode is not reused while it is open."""
    return {target for target in _descriptor_targets() if target.startswith("socket:")}


def _descriptor_targets() -> Iterator[str]:
    folder = _PROC / "self" / "fd"
    if not folder.is_dir():
        return
    for descriptor in folder.iterdir():
        try:
            yield os.readlink(descriptor)
        except OSError:
            continue  # the one that lists the folder


def child_processes() -> set[str]:
    """The living children of this process as `pid command line`; a zombie counts, for nobody reaped it."""
    if not _PROC.is_dir():
        return set()
    own_pid = str(os.getpid())
    return {
        f"{folder.name} {_command_line(folder)}"
        for folder in _PROC.iterdir()
        if folder.name.isdigit() and _parent_pid(folder) == own_pid
    }


def _parent_pid(folder: Path) -> str | None:
    try:
        stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[1]  # the name in parentheses may hold anything


def _command_line(folder: Path) -> str:
    try:
        words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return "?"
    return " ".join(words).strip()[:200] or "(zombie)"


def leaks_since(before: dict[str, set[str]]) -> list[str]:
    """One sentence for each kind of thing that is there now and was not in `before` (see `snapshot`)."""
    now = snapshot()
    return [
        f"{kind} left open: {sorted(now[kind] - before[kind])}" for kind in now if now[kind] - before[kind]
    ]


_KINDS: dict[str, Callable[[], set[str]]] = {
    "sockets": open_sockets,
    "child processes": child_processes,
}


def snapshot() -> dict[str, set[str]]:
    return {kind: read() for kind, read in _KINDS.items()}
