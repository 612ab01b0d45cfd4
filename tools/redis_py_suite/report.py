"""The verdict as a table for people, as JSON for programs, and as the tables of docs/redis-py-suite.md."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from tools.redis_py_suite.listed import Exceptions, read_exceptions
from tools.redis_py_suite.verdict import SHARE_MIN, Difference, FileResult, Verdict

HEADER = ("servers", "file", "pass with redis-py", "set aside", "of the others, pass with Tradewind", "share")
Versions = Mapping[str, str]


def as_table(verdict: Verdict, versions: Versions) -> str:
    rows = [HEADER, *_rows(verdict)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_one_line(versions), "", *(_aligned(row, widths) for row in rows)]
    return "\n".join([*lines, *_differences(verdict), *_outlived(verdict), "", _conclusion(verdict)])


def as_json(verdict: Verdict, versions: Versions) -> str:
    files = [
        {"servers": file.kind, "file": file.file, "passed_redis_py": file.redis_py, "aside": file.aside,
         "passed_tradewind": file.tradewind, "passed_both": file.both}
        for file in verdict.files
    ]  # fmt: skip
    whole = {
        "versions": dict(versions),
        "share": round(verdict.share, 4),
        "holds": verdict.holds,
        "files": files,
        "only_redis_py": [dataclasses.asdict(difference) for difference in verdict.differences],
        "outlived": list(verdict.outlived),
    }
    return json.dumps(whole, indent=2)


def as_markdown(verdict: Verdict, versions: Versions) -> str:
    rows = markdown_table(HEADER, _rows(verdict))
    return "\n\n".join([f"{_one_line(versions)}:", rows, *exception_tables(read_exceptions())])


def exception_tables(listed: Sequence[Exceptions]) -> list[str]:
    """One table of the tests set aside, one of the differences that count; each that is not empty."""
    groups = ([one for one in listed if one.internals], [one for one in listed if not one.internals])
    return [
        markdown_table(("what such a test does", "tests"), [(one.reason, _names(one)) for one in group])
        for group in groups
        if group
    ]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def _names(group: Exceptions) -> str:
    """By class, so that a name is not said ten times."""
    split = [pattern.partition(".py::")[2].rpartition("::") for pattern in group.tests]
    classes = groupby(split, key=lambda parts: parts[0])
    return "; ".join(f"`{name}`: {', '.join(f'`{test}`' for *_, test in tests)}" for name, tests in classes)


def _one_line(versions: Versions) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, figures to the right."""
    cells = zip(row, widths, strict=True)
    return "  ".join(
        cell.ljust(width) if at < 2 else cell.rjust(width) for at, (cell, width) in enumerate(cells)
    )


def _rows(verdict: Verdict) -> list[tuple[str, ...]]:
    files = verdict.files
    rows = [(file.kind, file.file, *_figures([file])) for file in files]
    return [*rows, ("", "all", *_figures(files))]


def _figures(files: Sequence[FileResult]) -> tuple[str, ...]:
    both, counted = sum(file.both for file in files), sum(file.counted for file in files)
    figures = (sum(file.redis_py for file in files), sum(file.aside for file in files), both)
    return (*map(str, figures), f"{both / counted:.1%}" if counted else "-")


def _differences(verdict: Verdict) -> list[str]:
    """By reason; what is listed nowhere comes first, with its error."""
    lines = []
    for reason, members in groupby(sorted(verdict.differences, key=_order), key=lambda one: one.reason):
        lines += ["", f"passes with redis-py only: {reason or 'NOT LISTED'}"]
        for one in members:
            lines += [f"  {one.kind}: {one.test}", *([] if reason else [f"      {one.message}"])]
    return lines


def _order(difference: Difference) -> tuple[str, str, str]:
    return (difference.reason, difference.kind, difference.test)


def _outlived(verdict: Verdict) -> list[str]:
    if not verdict.outlived:
        return []
    return [
        "",
        "listed, but no such test fails: take it off the list",
        *(f"  {one}" for one in verdict.outlived),
    ]


def _conclusion(verdict: Verdict) -> str:
    says = "holds" if verdict.holds else "is MISSED"
    return f"{verdict.share:.2%} of what passes with redis-py passes: the bar of {SHARE_MIN:.0%} {says}"
