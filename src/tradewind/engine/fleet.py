"""Worker processes: forked from one loaded parent, restarted when they die, replaced on request, stopped
together.

A child that asks to be replaced goes on until the new one under its index has joined; then it is told to
stop. A child that dies while its place is taken is not started again.

The parent loads everything once, so that a fork is cheap and shares its memory; it runs no event loop and no
threads.
"""

import gc
import logging
import os
import selectors
import signal
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress

RESTART_AFTER_S = 1.0
STOP_S_MAX = 10.0  # then children are killed

_WORD = struct.Struct("ci")  # what a child says, and its pid; a pipe delivers each whole
_JOINED = b"j"
_REPLACE_ME = b"r"

logger = logging.getLogger(__name__)


class Parent:
    """How a child speaks to its parent."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def joined(self) -> None:
        """The child is at work: whom it replaces may stop."""
        self._say(_JOINED)

    def replace_me(self) -> None:
        """Start a new child under this one's index, then stop this one. May be said any number of times."""
        self._say(_REPLACE_ME)

    def _say(self, word: bytes) -> None:
        os.write(self._pipe, _WORD.pack(word, os.getpid()))


class Fleet:
    """`count` children that each run `child(index, parent)` and end with its exit code.

    Ends on SIGTERM and SIGINT, and with `stop_on_eof` when standard input ends: with whoever started it.
    """

    def __init__(self, count: int, child: Callable[[int, Parent], int], *, stop_on_eof: bool = False) -> None:
        self._count = count
        self._child = child
        self._stop_on_eof = stop_on_eof
        self._pids: dict[int, int] = {}  # pid -> index
        self._replaces: dict[int, int] = {}  # pid of a new child -> pid of the one whose place it takes
        self._restart_at_s: dict[int, float] = {}
        self._stopping = False

    def run(self) -> int:
        """Keep the children running until told to stop. Returns 0, or 1 when some had to be killed."""
        gc.collect()
        gc.freeze()  # the children would copy the parent's pages whenever a collection touched them
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(wake_read, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        said_read, said_write = os.pipe()
        self._parent = Parent(said_write)
        with selectors.DefaultSelector() as selector:
            selector.register(wake_read, selectors.EVENT_READ)
            selector.register(said_read, selectors.EVENT_READ)
            if self._stop_on_eof:
                selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
            for index in range(self._count):
                self._start(index)
            while not self._stopping:
                for key, _ in selector.select(RESTART_AFTER_S / 2):
                    if key.fd == wake_read:
                        os.read(wake_read, 4096)
                    elif key.fd == said_read:
                        self._hear(os.read(said_read, 512 * _WORD.size))
                    elif not os.read(key.fd, 4096):
                        self._stopping = True
                self._reap()
                self._restart_due()
        return self._end()

    def _hear(self, said: bytes) -> None:
        for word, pid in _WORD.iter_unpack(said):
            if word == _JOINED and pid in self._replaces:
                self._signal(self._replaces[pid], signal.SIGTERM)
            elif word == _REPLACE_ME and pid in self._pids and pid not in self._replaces.values():
                self._replaces[self._start(self._pids[pid])] = pid

    def _on_stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _start(self, index: int) -> int:
        """Returns the process id, in the parent only."""
        # A SIGTERM right after the fork must find the child's own way to end, not the parent's handler.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        pid = os.fork()
        if pid:
            self._pids[pid] = index
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            return pid
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops us in order
            code = self._child(index, self._parent)
        except BaseException:
            logger.exception("worker %d ended", index)
        finally:
            logging.shutdown()
            os._exit(code)

    def _reap(self) -> None:
        while self._pids:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            index = self._pids.pop(pid, None)
            self._replaces = {new: old for new, old in self._replaces.items() if pid not in (new, old)}
            if index is not None and index not in self._pids.values() and not self._stopping:
                logger.warning("worker %d (pid %d) ended with %s, starting it again", index, pid, status)
                self._restart_at_s[index] = time.monotonic() + RESTART_AFTER_S

    def _restart_due(self) -> None:
        now_s = time.monotonic()
        for index in [index for index, at_s in self._restart_at_s.items() if at_s <= now_s]:
            del self._restart_at_s[index]
            self._start(index)

    def _end(self) -> int:
        self._signal_all(signal.SIGTERM)
        deadline_s = time.monotonic() + STOP_S_MAX
        while self._pids and time.monotonic() < deadline_s:
            self._reap()
            time.sleep(0.01)
        killed = len(self._pids)
        self._signal_all(signal.SIGKILL)
        while self._pids:
            self._reap()
            time.sleep(0.01)
        return 1 if killed else 0

    def _signal_all(self, number: int) -> None:
        for pid in self._pids:
            self._signal(pid, number)

    def _signal(self, pid: int, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
