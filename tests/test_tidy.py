"""House rules that no linter has, each with what to write instead."""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "tradewind"

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600
CLOCK = PACKAGE / "clock.py"

# Functions ("src/tradewind/file.py:name") that were longer when the rule came: shorten them, take them off.
# This list may only shrink.
LONG_FUNCTIONS: frozenset[str] = frozenset()

# A folder may import those to its left, and itself.
LAYERS = (
    "client",
    "threads",
    "embedded",
    "engine",
    "providers",
    "feed",
    "trail",
    "sessions",
    "api",
    "ops",
    "cli",
)

MACHINE_PATH = re.compile(r"(?<![\w.~$}])/(?:root|work|home/[a-z][\w-]*|Users/[A-Za-z][\w-]*)/")
TEXT_SUFFIXES = {
    ".py",
    ".md",
    ".toml",
    ".lua",
    ".yml",
    ".yaml",
    ".json",
    ".mjs",
    ".ts",
    ".js",
    ".sh",
    ".lock",
    "",
}

Rule = Callable[[Path, ast.AST], Iterator[tuple[ast.AST, str]]]


def _sources(*folders: Path) -> list[Path]:
    return sorted(file for folder in folders for file in folder.rglob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _dotted(node: ast.AST) -> str:
    """`asyncio.Queue` for that expression; empty for anything but names and attributes."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unbounded_queue(path: Path, tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _dotted(node.func) in ("asyncio.Queue", "queue.Queue"):
            bounded = node.args or any(keyword.arg == "maxsize" for keyword in node.keywords)
            if not bounded:
                yield node, "a queue without a maximum: pass maxsize=SOME_NAMED_MAX"


def unreferenced_task(path: Path, tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = _dotted(node.value.func) or getattr(node.value.func, "attr", "")
            owner, _, method = call.rpartition(".")
            if method in ("create_task", "ensure_future") and owner not in ("group", "task_group", "tasks"):
                yield (
                    node,
                    "a task nobody holds may be collected while it runs: keep it, or use a TaskGroup `group`",
                )


def return_in_finally(path: Path, tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Try | ast.TryStar):
            for statement in node.finalbody:
                for inner in _same_function(statement):
                    if isinstance(inner, ast.Return):
                        yield (
                            inner,
                            "`return` in `finally` drops the exception in flight: return after the block",
                        )


def _same_function(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what is in it, without the bodies of functions defined there."""
    yield node
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _same_function(child)


def wall_clock(path: Path, tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    banned = ("time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "datetime.utcnow")
    for node in ast.walk(tree):
        if path != CLOCK and isinstance(node, ast.Call) and _dotted(node.func) in banned:
            yield node, "the wall clock: call tradewind.clock.now_ms(), or time.monotonic() for a duration"


def long_function(path: Path, tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node, lines in _long_functions(tree):
        if f"{_name(path)}:{node.name}" not in LONG_FUNCTIONS:
            yield node, f"{node.name} has {lines} lines: split it to {FUNCTION_LINES_MAX} at most"


def _long_functions(tree: ast.AST) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node, lines


def upward_import(path: Path, tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    layer = _layer(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    for node in ast.walk(tree):
        for module in _imported_modules(node):
            target = module.removeprefix("tradewind.").partition(".")[0]
            if module.startswith("tradewind.") and layer is not None and (_layer(target) or 0) > layer:
                yield (
                    node,
                    f"{LAYERS[layer]} imports {target}, which stands above it: turn the dependency around",
                )


def _layer(name: str) -> int | None:
    return LAYERS.index(name) if name in LAYERS else None


def _imported_modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


def _breaches(rule: Rule, files: list[Path]) -> list[str]:
    found = []
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        found += [f"{_name(path)}:{getattr(node, 'lineno', 0)}: {why}" for node, why in rule(path, tree)]
    return found


@pytest.mark.parametrize(
    "rule",
    [unbounded_queue, unreferenced_task, return_in_finally, wall_clock, long_function, upward_import],
    ids=lambda rule: rule.__name__,
)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    assert not (found := _breaches(rule, _sources(PACKAGE))), "\n".join(found)


@pytest.mark.parametrize(
    "rule", [unreferenced_task, return_in_finally, long_function], ids=lambda rule: rule.__name__
)
def test_the_tests_keep_the_rule(rule: Rule) -> None:
    folders = (ROOT / "tests", ROOT / "benchmarks", ROOT / "tools")
    assert not (found := _breaches(rule, _sources(*folders))), "\n".join(found)


def test_the_list_of_long_functions_only_shrinks() -> None:
    long = {
        f"{_name(path)}:{node.name}"
        for path in _sources(PACKAGE)
        for node, _ in _long_functions(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert not (LONG_FUNCTIONS - long), "short now: take them off LONG_FUNCTIONS"


def test_files_are_short() -> None:
    lengths = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in _sources(PACKAGE)}
    long = [f"{name} has {lines} lines" for name, lines in lengths.items() if lines > FILE_LINES_MAX]
    assert not long, f"at most {FILE_LINES_MAX} lines a file, split by concept: {long}"


def test_no_machine_paths() -> None:
    found = [
        f"{_name(path)}:{number}: {line.strip()[:80]}"
        for path in _tracked_texts()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, "a path of somebody's machine: write it relative to the checkout\n" + "\n".join(found)


def test_the_lock_files_name_no_other_host() -> None:
    hosts = {
        host
        for name in ("uv.lock", "requirements.lock", "requirements-bench.lock")
        for host in re.findall(r"\w+://[^/\"\s]*", (ROOT / name).read_text(encoding="utf-8"))
    }
    assert hosts == {"https://pypi.org", "https://files.pythonhosted.org"}, "run `make lock`"


def _tracked_texts() -> Iterator[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listing.returncode:
        pytest.skip("not a git checkout")
    for name in listing.stdout.split("\0"):
        path = ROOT / name
        if name and path.is_file() and path.suffix in TEXT_SUFFIXES and path != Path(__file__).resolve():
            yield path


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (unbounded_queue, "asyncio.Queue()"),
        (unreferenced_task, "asyncio.create_task(work())"),
        (unreferenced_task, "asyncio.get_running_loop().create_task(work())"),
        (return_in_finally, "def f():\n try: pass\n finally: return 1"),
        (wall_clock, "time.time()"),
        (long_function, "def f():\n" + " pass\n" * 71),
        (upward_import, "from tradewind.ops import top"),
    ],
)
def test_the_rules_find_what_they_ban(rule: Rule, source: str) -> None:
    assert len(list(rule(PACKAGE / "client" / "example.py", ast.parse(source)))) == 1
