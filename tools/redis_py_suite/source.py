"""redis-py's tests: part of its source distribution, which is fetched and never committed."""

import subprocess
import sys
import tarfile
from pathlib import Path

from tools.redis_py_suite.errors import CannotRun

FOR_BOTH = ("commands", "pubsub", "lock", "scripting", "pipeline", "hash", "encoding")
SUITES = {"cluster": ("cluster", "cluster_transaction", *FOR_BOTH), "single": FOR_BOTH}
DOWNLOAD_S_MAX = 300.0


def unpacked_tests(version: str, folder: Path, source: Path | None) -> Path:
    """A folder with the tests of that version of redis-py, and nothing else of it, so that they test what is
    installed. They are fetched into `folder`, or taken from the archive in `source`, and found next time.

    Raises CannotRun when there is no such archive, or it holds no tests.
    """
    target = folder / f"redis-{version}"
    if not (target / "tests").is_dir():
        archive_folder = source or _downloaded(version, folder)
        _unpack(archive_folder / f"redis-{version}.tar.gz", folder, target.name)
    if not suite_files(target):
        raise CannotRun(f"no tests of redis-py in {target}")
    return target


def suite_files(tests_folder: Path, kind: str = "cluster") -> list[str]:
    """The suites that this version has for that kind of servers, relative to the folder."""
    names = [f"tests/test_asyncio/test_{name}.py" for name in SUITES[kind]]
    return [name for name in names if (tests_folder / name).is_file()]


def _downloaded(version: str, folder: Path) -> Path:
    """pip asks the archive's build backend for its dependencies; that one is installed here already."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet")
    only_source = ("--no-binary", ":all:", "--no-deps", "--no-build-isolation")
    ended = subprocess.run(
        [*pip, *only_source, "--dest", folder, f"redis=={version}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DOWNLOAD_S_MAX, check=False,
    )  # fmt: skip
    if ended.returncode:
        raise CannotRun(
            f"pip could not fetch redis=={version}: {ended.stdout.strip()}\n"
            f"Without a network: --source DIR with redis-{version}.tar.gz in it."
        )
    return folder


def _unpack(archive: Path, folder: Path, name: str) -> None:
    if not archive.is_file():
        raise CannotRun(f"there is no {archive}")
    with tarfile.open(archive) as content:
        wanted = [
            member for member in content if member.name.startswith((f"{name}/tests/", f"{name}/pyproject"))
        ]
        content.extractall(folder, members=wanted, filter="data")
