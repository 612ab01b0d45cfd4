"""The data folder of an embedded cluster: its lock, its description and the folders of its nodes.

DIR/cluster.lock    held by the guardian and its servers as long as one of them lives
DIR/cluster.json    the shape of the cluster and the ports its nodes had last
DIR/guardian.log    what the guardian had to say
DIR/node-1/ ...     one server each: server.conf, nodes.conf, server.log, appendonlydir/
"""

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tradewind.embedded.errors import DataFolderInUse, DataFolderUnusable
from tradewind.embedded.options import ClusterOptions
from tradewind.embedded.ports import BUS_PORT_OFFSET

TEMPORARY_PREFIX = "tradewind-cluster-"
FORMAT_VERSION = 1

# The address of a node in nodes.conf: `127.0.0.1:7000@17000`, followed by a comma or a space.
_ADDRESS = re.compile(r":\d+@\d+(?=[, ])")


@dataclass(frozen=True, slots=True)
class Description:
    """What cluster.json holds. `formed` is false until the cluster was ready for the first time."""

    primaries: int
    replicas_per_primary: int
    ports: tuple[int, ...]
    formed: bool = False


class DataFolder:
    """One data folder, created if need be; locked between `lock` and `unlock`."""

    def __init__(self, path: Path | None) -> None:
        self.temporary = path is None
        self._lock_descriptor: int | None = None
        try:
            if path is None:
                self.path = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
            else:
                self.path = path.expanduser().resolve()
                self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataFolderUnusable(
                f"data folder {str(path)!r} cannot be created: {error.strerror}"
            ) from error

    def __repr__(self) -> str:
        kind = "temporary" if self.temporary else "kept"
        return f"<DataFolder {self.path} {kind} {'locked' if self._lock_descriptor else 'unlocked'}>"

    def node_folder(self, index: int) -> Path:
        return self.path / f"node-{index + 1}"

    # --- the lock -----------------------------------------------------------------

    def lock(self) -> int:
        """Take the lock and return its file descriptor, for the guardian to inherit.

        A `flock` belongs to the open file: it is released when the last process that inherited
        it has ended, whatever way it ended.

        :raises DataFolderInUse: a cluster runs on this folder
        """
        path = self.path / "cluster.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DataFolderUnusable(
                f"data folder {self.path} cannot be written: {error.strerror}"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            owner = owner_pid(self.path)
            raise DataFolderInUse(
                f"data folder {self.path} is in use by the cluster of process {owner}: "
                f"stop it with `tradewind cluster stop --data {self.path}` or choose another folder"
            ) from None
        os.ftruncate(descriptor, 0)  # the guardian writes its process id
        self._lock_descriptor = descriptor
        return descriptor

    @property
    def lock_descriptor(self) -> int:
        if self._lock_descriptor is None:
            raise RuntimeError(f"{self!r}: lock it first")
        return self._lock_descriptor

    def unlock(self) -> None:
        """Close our own copy; the lock lasts while the guardian has one."""
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    def remove(self) -> None:
        """Delete a temporary folder; a kept one stays."""
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)

    # --- the description ----------------------------------------------------------

    def description(self) -> Description | None:
        """See `read_description`."""
        return read_description(self.path)

    def describe(self, description: Description) -> None:
        """Replace cluster.json in one step."""
        text = json.dumps({"format": FORMAT_VERSION, **asdict(description)}) + "\n"
        _replace(self.path / "cluster.json", text)

    def mark_formed(self, description: Description) -> None:
        self.describe(replace(description, formed=True))

    # --- the nodes' folders --------------------------------------------------------

    def clear_nodes(self, count: int) -> None:
        """Remove the node folders of a cluster that never became ready, so never took a write."""
        for index in range(count):
            shutil.rmtree(self.node_folder(index), ignore_errors=True)

    def move_to(self, ports: Sequence[int]) -> None:
        """Write the port of each node, by its index, into every nodes.conf, while no server runs.

        Otherwise the nodes would look for each other at ports that belong to strangers now. Goes by
        the nodes' ids, so that it makes no difference what was written there before.

        :raises DataFolderUnusable: a node has lost its nodes.conf
        """
        files = [self.node_folder(index) / "nodes.conf" for index in range(len(ports))]
        texts = [_nodes_conf(file) for file in files]
        port_by_id = {own_id(text): port for text, port in zip(texts, ports, strict=True)}
        for file, text in zip(files, texts, strict=True):
            _replace(file, with_ports(text, port_by_id))


def _nodes_conf(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
        own_id(text)
    except (OSError, ValueError) as error:
        raise DataFolderUnusable(
            f"{file} is missing or damaged ({error}): without it {file.parent.name} is not part "
            "of the cluster; choose another folder"
        ) from error
    return text


def _replace(file: Path, text: str) -> None:
    """Write the file in one step: a crash leaves the old one or the new one."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(file)


def own_id(nodes_conf: str) -> str:
    """The id of the node whose nodes.conf this is."""
    for line in nodes_conf.splitlines():
        words = line.split()
        if len(words) > 2 and "myself" in words[2].split(","):
            return words[0]
    raise ValueError("no line with the flag myself")


def with_ports(nodes_conf: str, port_by_id: Mapping[str, int]) -> str:
    """The text of nodes.conf with the client port and the bus port of each node that is listed."""

    def moved(line: str) -> str:
        port = port_by_id.get(line.partition(" ")[0])
        if port is None:
            return line
        return _ADDRESS.sub(f":{port}@{port + BUS_PORT_OFFSET}", line, count=1)

    return "".join(map(moved, nodes_conf.splitlines(keepends=True)))


def read_description(path: Path) -> Description | None:
    """What runs, or ran, in the data folder; None for a folder that holds no cluster yet.

    :raises DataFolderUnusable: cluster.json is not ours, or node folders stand there without it
    """
    file = path / "cluster.json"
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        if fields.pop("format") != FORMAT_VERSION:
            raise ValueError("another format version")
        return Description(**{**fields, "ports": tuple(fields["ports"])})
    except FileNotFoundError:
        if (path / "node-1").exists():
            raise DataFolderUnusable(
                f"data folder {path} holds node-1 but no cluster.json: choose another folder"
            ) from None
        return None
    except OSError as error:
        raise DataFolderUnusable(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataFolderUnusable(
            f"{file} is not a cluster description ({error}): choose another folder"
        ) from error


def check_shape(path: Path, description: Description, options: ClusterOptions) -> None:
    """:raises DataFolderUnusable: the folder's cluster has another shape than the one asked for"""
    held = (description.primaries, description.replicas_per_primary)
    asked = (options.primaries, options.replicas_per_primary)
    if held != asked:
        raise DataFolderUnusable(
            f"data folder {path} holds a cluster of {held[0]} primaries with {held[1]} replicas each, "
            f"not {asked[0]} with {asked[1]}: ask for the same or choose another folder"
        )


def owner_pid(path: Path) -> int | None:
    """The guardian's process id while the folder's cluster runs (0 while it starts), else None."""
    try:
        with (path / "cluster.lock").open("r+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = lock.read().strip()
                return int(text) if text.isdigit() else 0
    except OSError:
        pass
    return None
