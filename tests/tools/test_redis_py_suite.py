"""The judge itself: it counts right, sets aside what is listed and nothing else, and swaps the classes."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.programs import ROOT
from tools.redis_py_suite.errors import CannotRun
from tools.redis_py_suite.listed import Exceptions, read_exceptions
from tools.redis_py_suite.report import as_table, exception_tables
from tools.redis_py_suite.runs import Outcome, read_outcomes
from tools.redis_py_suite.source import suite_files, unpacked_tests
from tools.redis_py_suite.verdict import judge

PASSED, FAILED, SKIPPED = Outcome("passed", ""), Outcome("failed", "it broke"), Outcome("skipped", "")
FILE = "tests/test_asyncio/test_lock.py"
MOCKS = Exceptions("patches a mock", ("test_lock.py::TestLock::test_mock_*",), internals=True, run=True)
PAGE = ROOT / "docs" / "redis-py-suite.md"


def test_only_what_passes_with_redis_py_is_counted() -> None:
    redis_py = {f"{FILE}::a": PASSED, f"{FILE}::b": PASSED, f"{FILE}::c": FAILED, f"{FILE}::d": SKIPPED}
    tradewind = {f"{FILE}::a": PASSED, f"{FILE}::b": FAILED, f"{FILE}::c": PASSED, f"{FILE}::d": PASSED}
    verdict = judge({"cluster": (redis_py, tradewind)}, [])
    assert (verdict.share, verdict.holds) == (0.5, False)
    assert [difference.test for difference in verdict.differences] == [f"{FILE}::b"]


def test_a_listed_test_is_set_aside_and_its_reason_is_told() -> None:
    mock = f"{FILE}::TestLock::test_mock_it[pool]"
    verdict = judge({"single": ({f"{FILE}::a": PASSED, mock: PASSED}, {f"{FILE}::a": PASSED})}, [MOCKS])
    assert (verdict.share, verdict.files[0].aside, verdict.outlived) == (1.0, 1, [])
    assert "patches a mock" in as_table(verdict, {"redis-py": "8"})


def test_a_listed_difference_counts_all_the_same() -> None:
    on_purpose = Exceptions("waits instead", MOCKS.tests, internals=False, run=True)
    mock = f"{FILE}::TestLock::test_mock_it"
    verdict = judge({"single": ({mock: PASSED}, {mock: FAILED})}, [on_purpose])
    assert (verdict.share, verdict.files[0].aside) == (0.0, 0)


def test_a_listed_test_that_passes_is_reported() -> None:
    mock = {f"{FILE}::TestLock::test_mock_it": PASSED}
    verdict = judge({"single": (mock, mock)}, [MOCKS])
    assert verdict.outlived == ["test_lock.py::TestLock::test_mock_*"]


def test_a_pattern_means_every_parameter_unless_it_names_one() -> None:
    listed = Exceptions("why", ("test_a.py::T::one", "test_a.py::T::two[pool]"), internals=True, run=True)
    assert listed.pattern_for("tests/test_asyncio/test_a.py::T::one[single]") == "test_a.py::T::one"
    assert listed.pattern_for("tests/test_asyncio/test_a.py::T::two[pool]") == "test_a.py::T::two[pool]"
    assert listed.pattern_for("tests/test_asyncio/test_a.py::T::two[single]") is None


def test_the_tests_come_from_an_archive_and_nothing_else_of_it(tmp_path: Path) -> None:
    _make_archive(tmp_path / "redis-9.9.9.tar.gz", tmp_path / "content")
    folder = unpacked_tests("9.9.9", tmp_path / "kept", tmp_path)
    assert suite_files(folder) == [FILE]
    assert sorted(path.name for path in folder.iterdir()) == ["tests"]


def test_a_folder_without_the_archive_says_which_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match=r"redis-9\.9\.9\.tar\.gz"):
        unpacked_tests("9.9.9", tmp_path / "kept", tmp_path)


def _make_archive(archive: Path, content: Path) -> None:
    for name in (FILE, "redis/__init__.py"):
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (content / name).write_text("", encoding="utf-8")
    with tarfile.open(archive, "w:gz") as file:
        file.add(content, "redis-9.9.9")


@pytest.mark.parametrize(
    ("client", "module"), [("redis-py", "redis.asyncio.cluster"), ("tradewind", "tradewind.client.cluster")]
)
def test_the_suite_gets_the_class_of_the_client_under_test(client: str, module: str, tmp_path: Path) -> None:
    (tmp_path / "test_class.py").write_text(
        "from redis.asyncio import RedisCluster\n"
        "from redis.asyncio.cluster import RedisCluster as same\n"
        f"def test_class(): assert RedisCluster is same and same.__module__ == {module!r}\n",
        encoding="utf-8",
    )
    words = (
        "-p",
        "tools.redis_py_suite.plugin",
        f"--client={client}",
        f"--outcomes={tmp_path / 'all.jsonl'}",
    )
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), "-c", os.devnull, *words]
    subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True
    )
    assert read_outcomes(tmp_path / "all.jsonl") == {"test_class.py::test_class": PASSED}


def test_the_page_lists_every_exception_with_its_reason() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table in exception_tables(read_exceptions()):
        assert table in page, "run `python -m tools.redis_py_suite --markdown` and copy its tables"
