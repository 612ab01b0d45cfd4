"""docs/faults.md names a test for each fault that concerns the client, and each of them is there."""

import ast
import functools
import re

import pytest

from tests.programs import ROOT

PAGE = ROOT / "docs" / "faults.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ROW = re.compile(r"^\| (F\d\d) .*$", re.MULTILINE)
CLIENT_FAULTS = [f"F{number:02d}" for number in range(4, 40)]


@functools.cache
def _tests_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_fault_that_concerns_a_client_has_a_row_with_a_test() -> None:
    rows = {found[1]: found[0] for found in ROW.finditer(PAGE.read_text(encoding="utf-8"))}
    assert list(rows) == CLIENT_FAULTS
    assert [fault for fault, row in rows.items() if not TEST.search(row)] == []


@pytest.mark.parametrize(("file", "name"), sorted(set(TEST.findall(PAGE.read_text(encoding="utf-8")))))
def test_a_named_test_is_there(file: str, name: str) -> None:
    assert name in _tests_in(file)
