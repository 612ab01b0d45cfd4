"""redis-py's outcomes beside Tradewind's: what passes with both, what with redis-py alone, and why."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tools.redis_py_suite.listed import Exceptions
from tools.redis_py_suite.runs import Outcome

SHARE_MIN = 0.98


@dataclass(frozen=True)
class Difference:
    """A test that passes with redis-py alone; `reason` is empty when it is not listed."""

    kind: str
    test: str
    message: str
    reason: str
    internals: bool


@dataclass
class FileResult:
    """The tests of one file against one kind of servers. `aside` are not counted in the share."""

    kind: str
    file: str
    redis_py: int = 0
    both: int = 0
    tradewind: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def aside(self) -> int:
        return sum(difference.internals for difference in self.differences)

    @property
    def counted(self) -> int:
        return self.redis_py - self.aside


@dataclass(frozen=True)
class Verdict:
    """All files, and the patterns of the list that name no difference any more."""

    files: Sequence[FileResult]
    outlived: Sequence[str]

    @property
    def share(self) -> float:
        counted = sum(file.counted for file in self.files)
        return sum(file.both for file in self.files) / counted if counted else 0.0

    @property
    def holds(self) -> bool:
        return self.share >= SHARE_MIN

    @property
    def differences(self) -> list[Difference]:
        return [difference for file in self.files for difference in file.differences]


Outcomes = Mapping[str, Outcome]


def judge(
    runs: Mapping[str, tuple[Outcomes, Outcomes]], listed: Sequence[Exceptions], complete: bool = True
) -> Verdict:
    """`runs`: by kind of servers, the outcomes with redis-py and with Tradewind; `complete`: of all tests."""
    files: dict[tuple[str, str], FileResult] = {}
    for kind, (redis_py, tradewind) in runs.items():
        for test, outcome in redis_py.items():
            name = test.partition("::")[0].rpartition("/")[2]
            file = files.setdefault((kind, name), FileResult(kind, name))
            _add(file, test, outcome, tradewind.get(test, Outcome("failed", "it was not run")), listed)
    return Verdict(list(files.values()), _outlived(files.values(), listed) if complete else [])


def _add(file: FileResult, test: str, ours: Outcome, theirs: Outcome, listed: Sequence[Exceptions]) -> None:
    """`ours` with redis-py, `theirs` with Tradewind."""
    file.redis_py += ours.outcome == "passed"
    file.tradewind += theirs.outcome == "passed"
    if ours.outcome != "passed":
        return
    if theirs.outcome == "passed":
        file.both += 1
        return
    group = next((group for group in listed if group.pattern_for(test)), None)
    reason, internals = (group.reason, group.internals) if group else ("", False)
    message = theirs.message or theirs.outcome
    file.differences.append(Difference(file.kind, test, message, reason, internals))


def _outlived(files: Iterable[FileResult], listed: Sequence[Exceptions]) -> list[str]:
    """The patterns of the list that name no test that fails."""
    failing = {difference.test for file in files for difference in file.differences}
    used = {(group, group.pattern_for(test)) for group in listed for test in failing}
    return [
        pattern for group in listed if group.run for pattern in group.tests if (group, pattern) not in used
    ]
