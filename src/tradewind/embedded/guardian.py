"""The guardian: a small process of its own that is the parent of the servers.

It holds one end of a socket pair, the channel, from whoever started it. Requests and answers are
JSON objects, one a line, answered in order. When the channel ends, also because the starter was
killed, the guardian stops the servers, removes a temporary data folder, and exits.
`detach` lets the servers outlive the starter; a SIGTERM then ends them.

Only the standard library is imported, and it is started by its path with `python -I -S`: it is up
in 30 ms and holds nothing of the program that started it.

    servers     owned here: only this process starts, signals and reaps them, so a process id
                is never used after it may have been given to somebody else
    the lock    of the data folder, inherited; passed on to the servers
"""

import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REQUEST_BYTES_MAX = 64 * 1024
STOP_SECONDS_MAX = 5.0
# A starter's forked children may hold copies of the channel, so its end alone is no proof that
# the starter lives: its process id is looked at as often.
STARTER_CHECK_SECONDS = 0.5

_PR_SET_PDEATHSIG = 1


def _death_signal_setter() -> Callable[[], None] | None:
    """What a server calls before exec: Linux then kills it when the guardian dies, however it dies."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    guardian_pid = os.getpid()

    def set_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guardian_pid:  # it died before the call above
            os.kill(os.getpid(), signal.SIGKILL)

    return set_death_signal


class Server:
    """One server process in its folder."""

    def __init__(self, binary: str, folder: Path, lock_descriptor: int) -> None:
        self._command = [binary, "server.conf"]
        self._folder = folder
        self._lock_descriptor = lock_descriptor
        self._set_death_signal = _death_signal_setter()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._lock_descriptor,),
                preexec_fn=self._set_death_signal,
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def state(self) -> dict[str, int | None]:
        if self._process is None:
            return {"pid": None, "exit_code": None}
        return {"pid": self._process.pid, "exit_code": self._process.poll()}

    def send(self, number: int) -> None:
        """Send a signal; does nothing once the process has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, deadline: float) -> bool:
        """Whether the process has ended before the deadline (of the monotonic clock)."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True


def stop_servers(servers: list[Server]) -> None:
    """SIGTERM to all, so that they stop side by side; SIGKILL to who is left after the bound."""
    for server in servers:
        server.send(signal.SIGTERM)
        server.send(signal.SIGCONT)  # a stopped process hears SIGTERM only when it goes on
    deadline = time.monotonic() + STOP_SECONDS_MAX
    for server in servers:
        if not server.wait(deadline):
            server.send(signal.SIGKILL)
            server.wait(time.monotonic() + STOP_SECONDS_MAX)


class Guardian:
    """Answers the requests of the channel until told, or made, to end."""

    def __init__(self, channel: socket.socket, plan: dict[str, Any]) -> None:
        self._channel = channel
        self._starter_pid: int | None = plan["starter_pid"]
        self._folder = Path(plan["folder"])
        self._temporary: bool = plan["temporary"]
        self._lock_descriptor: int = plan["lock_descriptor"]
        self._servers = [
            Server(plan["binary"], self._folder / name, self._lock_descriptor) for name in plan["nodes"]
        ]
        self._received = b""
        self._ending = False
        self._detached = False
        self._requests: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "start": self._start,
            "state": self._state,
            "signal": self._signal,
            "restart": self._restart,
            "halt": self._halt,
            "detach": self._detach,
            "stop": self._stop,
        }

    def run(self) -> None:
        self._write_pid()
        wakeup, wakeup_writer = socket.socketpair()
        wakeup.setblocking(False)
        wakeup_writer.setblocking(False)
        signal.set_wakeup_fd(wakeup_writer.fileno())
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ, self._read_channel)
            selector.register(wakeup, selectors.EVENT_READ, lambda: self._on_signal(wakeup))
            while not self._ending:
                for key, _ in selector.select(None if self._detached else STARTER_CHECK_SECONDS):
                    key.data()
                if self._detached and self._channel in selector.get_map():
                    selector.unregister(self._channel)
                self._check_starter()
        self._clean_up()

    def _write_pid(self) -> None:
        os.ftruncate(self._lock_descriptor, 0)
        os.pwrite(self._lock_descriptor, f"{os.getpid()}\n".encode(), 0)

    def _clean_up(self) -> None:
        stop_servers(self._servers)
        if self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)
        # Its end, seen by a starter that waits for it, says that nothing is left.
        self._channel.close()

    # --- what wakes the guardian ---------------------------------------------------

    def _on_signal(self, wakeup: socket.socket) -> None:
        """A server ended (reap it, so that it is no zombie) or we are told to end."""
        if signal.SIGTERM in wakeup.recv(4096):
            self._ending = True
        for server in self._servers:
            server.state()

    def _check_starter(self) -> None:
        if not self._detached and os.getppid() != self._starter_pid:
            self._ending = True

    def _read_channel(self) -> None:
        try:
            chunk = self._channel.recv(REQUEST_BYTES_MAX)
        except ConnectionError:
            chunk = b""
        self._received += chunk
        if not chunk or len(self._received) > REQUEST_BYTES_MAX:
            self._ending = True
            return
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            self._answer(json.loads(line))

    def _answer(self, request: dict[str, Any]) -> None:
        try:
            answer = {"ok": True, **self._requests[request["do"]](request)}
        except OSError as error:
            answer = {"ok": False, "error": f"{request['do']}: {error}"}
        try:
            self._channel.sendall(json.dumps(answer).encode() + b"\n")
        except ConnectionError:
            self._ending = True

    # --- requests -----------------------------------------------------------------

    def _server(self, request: dict[str, Any]) -> Server:
        index: int = request["node"]
        return self._servers[index]

    def _start(self, _request: dict[str, Any]) -> dict[str, Any]:
        for server in self._servers:
            server.start()
        return self._state(_request)

    def _state(self, _request: dict[str, Any]) -> dict[str, Any]:
        return {"servers": [server.state() for server in self._servers]}

    def _signal(self, request: dict[str, Any]) -> dict[str, Any]:
        server = self._server(request)
        server.send(request["signal"])
        if request["signal"] == signal.SIGKILL:
            server.wait(time.monotonic() + STOP_SECONDS_MAX)
        return server.state()

    def _restart(self, request: dict[str, Any]) -> dict[str, Any]:
        server = self._server(request)
        if server.running:
            stop_servers([server])
        server.start()
        return server.state()

    def _halt(self, _request: dict[str, Any]) -> dict[str, Any]:
        stop_servers(self._servers)
        return {}

    def _detach(self, _request: dict[str, Any]) -> dict[str, Any]:
        self._detached = True
        return {}

    def _stop(self, _request: dict[str, Any]) -> dict[str, Any]:
        self._ending = True
        return {}


def main() -> None:
    """Run with the channel as standard input and the plan, a JSON object, as the one argument."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # heard through the wakeup descriptor
    Guardian(socket.socket(fileno=0), json.loads(sys.argv[1])).run()


if __name__ == "__main__":
    main()
