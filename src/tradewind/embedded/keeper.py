"""The starter's end of the guardian's channel.

Independent of any event loop: requests are short and blocking, and asynchronous callers run them
in a thread. So a cluster started under one loop can be used under another.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tradewind.embedded import guardian
from tradewind.embedded.errors import ClusterStartFailed, GuardianLost
from tradewind.embedded.folder import DataFolder

# Longer than the guardian takes at most to stop every server, SIGKILL included.
ANSWER_SECONDS_MAX = 4 * guardian.STOP_SECONDS_MAX
_ANSWER_BYTES = 64 * 1024


class Keeper:
    """A running guardian; `start` makes one. Every method blocks for a short time."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        self._received = b""
        self._turn = threading.Lock()  # one request and its answer at a time

    def __repr__(self) -> str:
        return f"<Keeper of guardian {self.pid}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    def start(cls, folder: DataFolder, binary: Path, nodes: Sequence[str]) -> "Keeper":
        """Start a guardian for `nodes`, folders in `folder`, which must be locked.

        :raises ClusterStartFailed: the process could not be started
        """
        plan = {
            "starter_pid": os.getpid(),
            "folder": str(folder.path),
            "temporary": folder.temporary,
            "lock_descriptor": folder.lock_descriptor,
            "binary": str(binary),
            "nodes": list(nodes),
        }
        ours, theirs = socket.socketpair()
        try:
            with theirs, (folder.path / "guardian.log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", guardian.__file__, json.dumps(plan)],
                    stdin=theirs.fileno(),
                    stdout=log,
                    stderr=log,
                    pass_fds=(folder.lock_descriptor,),
                    start_new_session=True,  # a terminal's Ctrl-C is for the starter
                )
        except OSError as error:
            ours.close()
            raise ClusterStartFailed(f"the guardian process cannot be started: {error}") from error
        ours.settimeout(ANSWER_SECONDS_MAX)
        return cls(process, ours)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One request and its answer.

        :raises GuardianLost: the guardian is gone, or does not answer in time
        :raises ClusterStartFailed: it could not do what it was asked, for example run the binary
        """
        with self._turn:
            try:
                self._channel.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
                answer: dict[str, Any] = json.loads(self._read_line())
            except OSError as error:
                raise GuardianLost(
                    f"the guardian (process {self.pid}) does not answer {do!r} ({error}): "
                    "start the cluster again"
                ) from error
        if not answer["ok"]:
            raise ClusterStartFailed(f"the guardian (process {self.pid}) reports: {answer['error']}")
        return answer

    def _read_line(self) -> bytes:
        while b"\n" not in self._received:
            chunk = self._channel.recv(_ANSWER_BYTES)
            if not chunk:
                raise ConnectionResetError("the channel ended")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line

    def stop(self) -> None:
        """Stop the servers and the guardian; returns when nothing of them is left. Never raises."""
        # The end of the channel says the same; but a forked child may hold a copy of it.
        with contextlib.suppress(GuardianLost):
            self.ask("stop")
        self._channel.close()
        try:
            self._process.wait(ANSWER_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def detach(self) -> None:
        """Let the guardian and its servers outlive this process."""
        self.ask("detach")
        self._channel.close()
        self._process.returncode = 0  # no longer ours to wait for
