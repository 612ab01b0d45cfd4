"""A whole Redis or Valkey Cluster on this machine, started and stopped by the program that needs it."""

import asyncio
import contextlib
import signal as signals
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from redis.crc import key_slot

from tradewind.embedded import formation
from tradewind.embedded.binary import server_binary
from tradewind.embedded.errors import EmbeddedError, ServerEnded
from tradewind.embedded.folder import DataFolder, Description, check_shape
from tradewind.embedded.keeper import Keeper
from tradewind.embedded.options import MEMORY_BYTES_MAX_DEFAULT, ClusterOptions, server_configuration
from tradewind.embedded.ports import HOST, free_ports, is_free
from tradewind.embedded.survey import NodeReport, owner_of, survey

# Somebody may take a port between our look and the server's bind; then other ports are tried.
START_ATTEMPTS_MAX = 3
START_TIMEOUT_S = 30.0
LOG_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Node:
    """One server of the cluster. `pid` is that of the moment the object was read."""

    index: int
    port: int
    pid: int
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name


class EmbeddedCluster:
    """Three primaries and three replicas on free loopback ports, kept by a guardian process.

    `data=None` is a temporary folder that is removed at the end; a folder that is given is kept, and
    a later start on it resumes the same cluster with its data. The servers end with this process,
    whatever ends it. `async with`, or `start` and `stop`; both may be called again after `stop`.
    May be started under one event loop and used under another. `progress` is called with a few words
    at each step of a start.
    """

    def __init__(
        self,
        data: Path | str | None = None,
        server: Path | str | None = None,
        node_timeout_ms: int = 2_000,
        primaries: int = 3,
        replicas_per_primary: int = 1,
        *,
        memory_bytes_max: int = MEMORY_BYTES_MAX_DEFAULT,
        server_settings: Mapping[str, str] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.options = ClusterOptions(
            primaries, replicas_per_primary, node_timeout_ms, memory_bytes_max, server_settings or {}
        )
        self._data = None if data is None else Path(data)
        self._server = None if server is None else Path(server)
        self._start_timeout_s = start_timeout_s
        self._progress = progress or (lambda _step: None)
        self._folder: DataFolder | None = None
        self._keeper: Keeper | None = None
        self._nodes: list[Node] = []

    def __repr__(self) -> str:
        state = f"running at {self.url}" if self._nodes else "stopped"
        return f"<EmbeddedCluster {self.options.primaries}x{1 + self.options.replicas_per_primary} {state}>"

    async def __aenter__(self) -> "EmbeddedCluster":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- what it is ------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The first `primaries` of them were primaries when the cluster was formed."""
        return tuple(self._nodes)

    @property
    def startup_nodes(self) -> list[tuple[str, int]]:
        return [(HOST, node.port) for node in self._nodes]

    @property
    def url(self) -> str:
        """Of the first node; a cluster client finds the others through it."""
        if not self._nodes:
            raise self._not_started()
        return f"redis://{HOST}:{self._nodes[0].port}"

    @property
    def folder(self) -> Path:
        return self._running_folder().path

    # --- life cycle --------------------------------------------------------------------

    async def start(self) -> None:
        """Start, or resume what the data folder holds; returns when the whole cluster is ready.

        :raises ServerNotFound: no server binary
        :raises DataFolderInUse: another running cluster owns the data folder
        :raises DataFolderUnusable: the data folder cannot be written or holds something else
        :raises ClusterStartFailed: a server ended, or the cluster was not ready in time
        """
        if self._folder is not None:
            raise EmbeddedError(f"{self!r} is started already: stop it first")
        binary = server_binary(self._server)
        self._folder = DataFolder(self._data)
        try:
            self._folder.lock()
            description = self._prepare_folder(self._folder)
            names = [self._folder.node_folder(index).name for index in range(self.options.node_count)]
            self._keeper = Keeper.start(self._folder, binary, names)
            await self._start_servers(description)
        except BaseException:
            await asyncio.shield(self.stop())
            raise
        # From here on the lock is the guardian's and the servers'.
        self._folder.unlock()

    async def stop(self) -> None:
        """Stop every server and the guardian, remove a temporary folder. Does nothing when stopped."""
        keeper, folder = self._keeper, self._folder
        self._keeper, self._folder, self._nodes = None, None, []
        try:
            if keeper is not None:
                await asyncio.to_thread(keeper.stop)
        finally:
            if folder is not None:
                folder.unlock()
                folder.remove()

    async def detach(self) -> None:
        """Let the cluster outlive this process; `detached.stop_cluster` ends it.

        :raises EmbeddedError: the data folder is a temporary one
        """
        if self._running_folder().temporary:
            raise EmbeddedError("a cluster on a temporary folder cannot be detached: give it a data folder")
        await asyncio.to_thread(self._running_keeper().detach)
        self._keeper, self._folder, self._nodes = None, None, []

    # --- starting ----------------------------------------------------------------------

    def _prepare_folder(self, folder: DataFolder) -> Description | None:
        """The formed cluster to resume, or None after making way for a new one."""
        description = folder.description()
        if description is None:
            return None
        if not description.formed:
            folder.clear_nodes(len(description.ports))
            return None
        check_shape(folder.path, description, self.options)
        return description

    async def _start_servers(self, description: Description | None) -> None:
        deadline = formation.Deadline(self._start_timeout_s, self._check_servers)
        description = await self._spawn_until_answering(description, deadline)
        if not description.formed:
            self._progress("forming the cluster")
            await formation.form(description.ports, self.options.primaries, deadline)
        self._progress("waiting until every node sees every other")
        await formation.wait_until_ready(description.ports, deadline)
        self._running_folder().mark_formed(description)

    async def _spawn_until_answering(
        self, description: Description | None, deadline: formation.Deadline
    ) -> Description:
        attempts = 1
        while True:
            description = self._assign_ports(description)
            self._progress(f"starting {len(description.ports)} servers on ports {_listed(description.ports)}")
            await self._spawn(description)
            try:
                await formation.wait_until_answering(description.ports, deadline)
                return description
            except ServerEnded as error:
                if attempts == START_ATTEMPTS_MAX or is_free(error.port):
                    raise
            attempts += 1
            await asyncio.to_thread(self._running_keeper().ask, "halt")

    def _assign_ports(self, description: Description | None) -> Description:
        """Free ports for every node, those it had before where they still are free; all written down."""
        folder = self._running_folder()
        old_ports = description.ports if description else ()
        ports = _ports_to_use(self.options.node_count, old_ports)
        formed = description is not None and description.formed
        if formed:
            folder.move_to(ports)
        for index, port in enumerate(ports):
            node_folder = folder.node_folder(index)
            node_folder.mkdir(exist_ok=True)
            (node_folder / "server.conf").write_text(
                server_configuration(self.options, port), encoding="utf-8"
            )
        fresh = Description(
            self.options.primaries,
            self.options.replicas_per_primary,
            tuple(ports),
            formed,
        )
        folder.describe(fresh)
        return fresh

    async def _spawn(self, description: Description) -> None:
        answer = await asyncio.to_thread(self._running_keeper().ask, "start")
        folder = self._running_folder()
        self._nodes = [
            Node(index, port, state["pid"], folder.node_folder(index))
            for index, (port, state) in enumerate(zip(description.ports, answer["servers"], strict=True))
        ]

    async def _check_servers(self) -> None:
        """:raises ServerEnded: a server has ended"""
        answer = await asyncio.to_thread(self._running_keeper().ask, "state")
        for node, state in zip(self._nodes, answer["servers"], strict=True):
            if state["exit_code"] is not None:
                raise ServerEnded(node.name, node.port, state["exit_code"], _last_log_line(node.folder))

    # --- for tests and operations --------------------------------------------------------

    async def survey(self) -> list[NodeReport]:
        """What every server says at this moment, in the order of `nodes`."""
        return await survey([node.port for node in self._nodes])

    async def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until all slots are served, every node sees every other as it is, and replicas are linked.

        :raises ClusterStartFailed: not in time; the message says what was missing
        """

        async def no_check() -> None:
            return

        deadline = formation.Deadline(timeout_s, no_check)
        await formation.wait_until_ready([node.port for node in self._nodes], deadline)

    async def roles(self) -> dict[int, str]:
        """Port -> "primary", "replica" or "down", each by its own word."""
        return {report.port: report.role for report in await self.survey()}

    async def primary_of(self, key: str | bytes) -> Node:
        """The server that now serves the key's slot.

        :raises EmbeddedError: no server that answers knows one
        """
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        reports = await self.survey()
        owner = owner_of(slot, reports)
        if owner is None:
            answered = sum(report.error is None for report in reports)
            raise EmbeddedError(
                f"no server knows a primary of slot {slot}: {answered} of {len(reports)} answered"
            )
        ports = {report.myself.id: report.port for report in reports if report.myself}
        return self._node_on(ports.get(owner.id, owner.port))

    async def replicas_of(self, primary: Node) -> list[Node]:
        """The servers that now say they are its replicas."""
        reports = await self.survey()
        # By its id if it answers: the port that it announces may be another. By its port if it is down.
        own_ids = [report.myself.id for report in reports if report.myself and report.port == primary.port]
        return [
            self._node_on(report.port)
            for report in reports
            if report.primary_id in own_ids or report.primary_port == primary.port
        ]

    async def kill(self, node: Node, signal: int = signals.SIGKILL) -> None:
        """Send the server a signal; after SIGKILL it is gone when this returns. It is not restarted."""
        await asyncio.to_thread(self._running_keeper().ask, "signal", node=node.index, signal=int(signal))

    async def restart(self, node: Node) -> Node:
        """Start the server again on its port and data, after stopping it if it runs.

        Returns the node with its new process id as soon as the process is there; see `wait_until_ready`.
        """
        answer = await asyncio.to_thread(self._running_keeper().ask, "restart", node=node.index)
        fresh = Node(node.index, node.port, answer["pid"], node.folder)
        self._nodes[node.index] = fresh
        return fresh

    async def ended_nodes(self) -> list[Node]:
        """The servers whose processes are gone."""
        answer = await asyncio.to_thread(self._running_keeper().ask, "state")
        states = zip(self._nodes, answer["servers"], strict=True)
        return [node for node, state in states if state["exit_code"] is not None]

    def _node_on(self, port: int) -> Node:
        return next(node for node in self._nodes if node.port == port)

    def _running_keeper(self) -> Keeper:
        if self._keeper is None:
            raise self._not_started()
        return self._keeper

    def _running_folder(self) -> DataFolder:
        if self._folder is None:
            raise self._not_started()
        return self._folder

    def _not_started(self) -> EmbeddedError:
        return EmbeddedError(f"{self!r} is not started: start it first")


def _listed(ports: Sequence[int]) -> str:
    return ", ".join(map(str, ports))


def _ports_to_use(count: int, old_ports: Sequence[int]) -> list[int]:
    """The old ports that are free now, each in its place; the others replaced."""
    kept = [port if is_free(port) else None for port in old_ports] or [None] * count
    fresh = iter(free_ports(kept.count(None), excluded=old_ports) if None in kept else ())
    return [next(fresh) if port is None else port for port in kept]


def _last_log_line(folder: Path) -> str:
    """The last warning of a server's log, which says why it ended."""
    with contextlib.suppress(OSError):
        tail = (folder / "server.log").read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        warnings = [line for line in lines if " # " in line] or lines or ["its log is empty"]
        return warnings[-1]
    return "it left no log"
