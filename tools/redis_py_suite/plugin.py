"""A pytest plugin for redis-py's tests: puts Tradewind's classes in place, and writes down the outcomes.

Loaded with `-p`, it does so before redis-py's conftest and tests are imported, so that they import ours.
"""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

import tradewind
from tools.redis_py_suite.listed import read_exceptions

CLIENTS = ("redis-py", "tradewind")
MESSAGE_CHARACTERS_MAX = 400


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--client", choices=CLIENTS, default="redis-py")
    parser.addoption(
        "--outcomes", type=Path, required=True, help="a file to be written, one line of JSON a test"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    # redis-py's conftest traces every allocation, which takes five times the time of the tests.
    tracemalloc.start = lambda *_args: None
    if early_config.known_args_namespace.client == "tradewind":
        _replace("RedisCluster", redis.asyncio, redis.asyncio.cluster)
        _replace("Redis", redis.asyncio, redis.asyncio.client)
        early_config.pluginmanager.register(_LeftOut())


def _replace(name: str, *modules: Any) -> None:
    for module in modules:
        setattr(module, name, getattr(tradewind, name, getattr(module, name)))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Outcomes(config.getoption("outcomes")))


class _LeftOut:
    """Deselects the tests that are not to be run with Tradewind."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        groups = [group for group in read_exceptions() if not group.run]
        items[:] = [item for item in items if not any(group.pattern_for(item.nodeid) for group in groups)]


class _Outcomes:
    """Writes each test's outcome at once: a run that is ended leaves those it had."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._parts: list[pytest.TestReport] = []  # setup, call, teardown of the test that runs

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._parts.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        parts, self._parts = self._parts, []
        worst = max(parts, key=lambda part: ("passed", "skipped", "failed").index(part.outcome))
        record = {"test": nodeid, "outcome": worst.outcome, "message": _message(worst)}
        print(json.dumps(record), file=self._file, flush=True)

    def pytest_unconfigure(self) -> None:
        self._file.close()


def _message(report: pytest.TestReport) -> str:
    """What went wrong, in one line; the whole of it is in the log of the run."""
    if report.outcome != "failed":
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = report.longreprtext if crash is None else crash.message
    return " ".join(text.split())[:MESSAGE_CHARACTERS_MAX]
