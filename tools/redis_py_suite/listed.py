"""The tests that need not pass with Tradewind, each with its reason: exceptions.toml."""

import fnmatch
import tomllib
from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).with_name("exceptions.toml")


@dataclass(frozen=True)
class Exceptions:
    """A group of tests with one reason. `internals`: they test how redis-py is built, and are set aside; the
    others test what it does, where Tradewind does something else on purpose, and count. Those that must not
    be `run` would do to the real servers what they do to a mock.
    """

    reason: str
    tests: tuple[str, ...]
    internals: bool
    run: bool

    def pattern_for(self, test: str) -> str | None:
        """The pattern that names the test: `test_file.py::Class::test_name`, with `*` for any characters.

        All parameters of a test are meant when the pattern names none.
        """
        name = test.removeprefix("tests/test_asyncio/")
        plain = name.partition("[")[0]
        for pattern in self.tests:
            if "[" in pattern and pattern == name:
                return pattern
            if "[" not in pattern and fnmatch.fnmatchcase(plain, pattern):
                return pattern
        return None


def read_exceptions(path: Path = LIST) -> list[Exceptions]:
    groups = tomllib.loads(path.read_text(encoding="utf-8"))
    unknown = set(groups) - {"internals", "differences"}
    if unknown:
        raise ValueError(f"{path.name} has {unknown}: write [[internals]] or [[differences]]")
    return [
        Exceptions(group["reason"], tuple(group["tests"]), kind == "internals", group.get("run", True))
        for kind, members in groups.items()
        for group in members
    ]
