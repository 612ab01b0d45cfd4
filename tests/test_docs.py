"""What the documentation says is so: programs run, tables are the code's, links lead somewhere."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import redis.asyncio
import redis.exceptions

import tradewind
from tests.programs import ROOT, output_of
from tradewind.api import keys as api_keys
from tradewind.api import limits as api_limits
from tradewind.api import reads, stream, tail
from tradewind.api.app import LIVE_PATH, READY_PATH
from tradewind.api.commands import BULK_PATH, COMMAND_ROUTES
from tradewind.api.openapi import OPENAPI_PATH
from tradewind.api.problems import CODES
from tradewind.client import commit, errors, metrics, policy, standalone, subscription
from tradewind.client.cache import CacheOptions, CacheStats
from tradewind.client.stats import ClientStats, NodeStats
from tradewind.engine import book, desk, keys, lease, messages, partition, quotes, resting, risk
from tradewind.engine.deciders import placing
from tradewind.ops import load
from tradewind.ops.up_command import up

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("functions/*.md")])
CLIENT_PAGE = ROOT / "docs" / "client.md"
UP_PAGE = ROOT / "docs" / "up.md"

# A program is a python block that ends in asyncio.run; the block right behind it is its output.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _section(path: Path, heading: str) -> str:
    """What stands under a heading of the second level."""
    _, _, rest = _text(path).partition(f"\n## {heading}\n")
    assert rest, f"{_name(path)} has no section {heading!r}"
    return rest.partition("\n## ")[0]


def _rows(text: str, header: str) -> Iterator[list[str]]:
    """The cells of every row of every table whose first header cell is `header`."""
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif cells[0] == header:
            inside = True
        elif inside and not set(cells[0]) <= {"-"}:
            yield cells


# -- programs ------------------------------------------------------------------------------------------


def _blocks() -> Iterator[tuple[str, str, str | None]]:
    for page in PAGES:
        for number, found in enumerate(BLOCK.finditer(_text(page)), 1):
            yield f"{_name(page)}-{number}", found[1], found[2]


@pytest.mark.parametrize(
    ("program", "output"),
    [pytest.param(code, output, id=id) for id, code, output in _blocks() if "asyncio.run(" in code],
)
def test_programs_print_what_the_page_says(program: str, output: str | None) -> None:
    printed = output_of("-c", program)
    # A second connection is opened when a reply takes 0.1 s, which a busy machine may bring about.
    assert printed.replace("2 connection per node", "1 connection per node") == output


@pytest.mark.parametrize(
    "code", [pytest.param(code, id=id) for id, code, _ in _blocks() if "asyncio.run(" not in code]
)
def test_fragments_are_python(code: str) -> None:
    compile(code, "fragment", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_first_program_of_the_readme_is_short() -> None:
    code = next(code for id, code, _ in _blocks() if id == "README.md-1")
    assert len(code.splitlines()) < 15


# -- tables --------------------------------------------------------------------------------------------


NO_LITERAL = "a default that cannot be written down, such as redis-py's mark for an argument not given"


def _documented_options() -> dict[str, object]:
    """Name -> default, from the tables of docs/client.md."""
    options: dict[str, object] = {}
    for names, default, *_ in _rows(_section(CLIENT_PAGE, "Options"), "option"):
        value = ast.literal_eval(default.strip("`")) if default else NO_LITERAL
        options.update(dict.fromkeys(CODE.findall(names), value))
    return options


def _constructor_defaults() -> dict[str, object]:
    """Own arguments, and redis-py's where the client passes them on."""
    redis_py = inspect.signature(redis.asyncio.RedisCluster.__init__).parameters
    own = inspect.signature(tradewind.RedisCluster.__init__).parameters
    return {name: parameter.default for name, parameter in {**redis_py, **own}.items()}


@pytest.mark.parametrize("name", _documented_options())
def test_a_documented_default_is_the_constructors(name: str) -> None:
    default = _constructor_defaults()[name]
    is_literal = isinstance(default, str | int | float | None)
    assert _documented_options()[name] == (default if is_literal else NO_LITERAL)


def test_every_option_is_documented() -> None:
    assert _constructor_defaults().keys() - {"self", "args", "kwargs"} <= _documented_options().keys()


def test_every_argument_for_a_single_server_is_documented() -> None:
    page = ROOT / "docs" / "standalone.md"
    documented = {
        name for first, *_ in _rows(_section(page, "Arguments"), "argument") for name in CODE.findall(first)
    }
    redis_py = set(inspect.signature(redis.asyncio.Redis.__init__).parameters) - {"self"}
    assert redis_py <= documented
    assert documented <= standalone.KNOWN | {"maint_notifications_config"}


@pytest.mark.parametrize(
    ("header", "kind"), [("`ClientStats`", ClientStats), ("`NodeStats`", NodeStats)], ids=["client", "node"]
)
def test_the_stats_table_has_every_field(header: str, kind: type) -> None:
    fields = {field.name for field in dataclasses.fields(kind)}
    properties = {name for name, value in vars(kind).items() if isinstance(value, property)}
    documented = {name for first, *_ in _rows(_text(CLIENT_PAGE), header) for name in CODE.findall(first)}
    assert documented == fields | properties


def test_the_table_of_metrics_is_complete() -> None:
    rows = _rows(_text(ROOT / "docs" / "observability.md"), "metric")
    documented = {
        name: (kind, tuple(CODE.findall(labels)))
        for names, kind, labels, *_ in rows
        for name in CODE.findall(names)
    }
    kinds = {item.name: (item.kind.name.lower(), item.labels) for item in metrics.METRICS}
    kinds.update({item.name: ("histogram", ("node",)) for item in metrics.DISTRIBUTIONS})
    assert documented == kinds


def test_the_tables_of_the_cache_are_complete() -> None:
    page = ROOT / "docs" / "caching.md"
    defaults = {field.name: field.default for field in dataclasses.fields(CacheOptions)}
    options = _rows(_section(page, "What is kept"), "option")
    documented = {CODE.findall(name)[0]: ast.literal_eval(default.strip("`")) for name, default, _ in options}
    assert documented == defaults
    stats = {name for first, *_ in _rows(_text(page), "`CacheStats`") for name in CODE.findall(first)}
    assert stats == {field.name for field in dataclasses.fields(CacheStats)}


def test_the_table_of_errors_is_complete() -> None:
    documented = {
        CODE.findall(name)[0]: CODE.findall(also)[0]
        for name, also, *_ in _rows(_section(ROOT / "docs" / "retries.md", "Errors"), "error")
    }
    assert documented.keys() == set(errors.__all__) - {"TradewindError"}
    for name, also in documented.items():
        assert issubclass(getattr(errors, name), getattr(redis.exceptions, also)), f"{name} is no {also}"


def test_the_options_of_up_are_those_of_the_page() -> None:
    documented = {
        CODE.findall(name)[0]: CODE.findall(default) for name, default, *_ in _rows(_text(UP_PAGE), "option")
    }
    parameters = inspect.signature(up).parameters
    names = {name: "--" + name.removeprefix("as_").replace("_", "-") for name in parameters}
    assert documented.keys() == set(names.values())
    for name, parameter in parameters.items():
        shown = [str(parameter.default)] if parameter.default not in (None, False) else []
        assert documented[names[name]] == shown, f"{names[name]} has another default"


LIMITS = policy.Limits()
TIMEOUTS = policy.Timeouts()


FIGURES = {
    "limits.md": (
        f"being opened at once | {LIMITS.dials_max} |",
        f"idle dedicated connection | {LIMITS.dedicated_idle_s_max:.0f} s |",
        f"one durable batch | {commit.BATCH_MAX}, {commit.BATCH_BYTES_MAX >> 20} MiB |",
        f"| {LIMITS.redirects_in_a_row_max} in a row, then with pauses, {LIMITS.redirects_max} in all |",
        f"channels of one subscription | {subscription.CHANNELS_MAX}, over all nodes |",
        f"one refresh in {TIMEOUTS.refresh_interval_s} s",
        f"own timeout plus {TIMEOUTS.blocking_margin_s:.0f} s",
    ),
    "retries.md": (f"from {policy.BACKOFF_BASE_S * 1000:.0f} ms to {policy.BACKOFF_CAP_S:.0f} s",),
    "durability.md": (f"barrier may take {commit.WAIT_MS / 1000:.0f} s at the server",),
    "client.md": (
        f"and {TIMEOUTS.refresh_period_s:.0f} s without a refresh",
        f"silent for {TIMEOUTS.suspect_s:.0f} s",
    ),
    "engine.md": (
        f"({keys.PARTITIONS_DEFAULT} unless another is asked for, at most {keys.PARTITIONS_MAX})",
        f"lease lasts {lease.LEASE_MS / 1000:.0f} s",
        f"commands in one commit | {partition.COMMANDS_PER_COMMIT_MAX} |",
        f"events in one commit | {partition.EVENTS_PER_COMMIT_MAX}, plus",
        f"positions of an account | {book.POSITIONS_PER_ACCOUNT_MAX} |",
        f"orders of an account | {placing.ORDERS_PER_ACCOUNT_MAX} |",
        f"leverage | 1 to {messages.LEVERAGE_MAX} |",
        f"deposit | 1 to {messages.DEPOSIT_CENTS_MAX:,} cents |",
        f"one `OrderDesk` | {desk.PENDING_MAX:,};",
        f"after {desk.RESEND_FIRST_S:.0f} s, then {2 * desk.RESEND_FIRST_S:.0f} s, "
        f"then every {desk.RESEND_S_MAX:.0f} s",
        f"until its deadline ({desk.DEADLINE_S:.0f} s)",
        f"older than {quotes.STALE_QUOTE_MS_MAX // 1000} s",
        f"not more than {quotes.QUOTE_AHEAD_MS_MAX // 1000} s ahead",
        f"| below {risk.MARGIN_CALL_PERCENT} % | margin call",
        f"| below {risk.STOP_OUT_PERCENT} % | stop-out",
        f"| {risk.MARGIN_RESTORED_PERCENT} % and more |",
    ),
    "orders.md": (
        f"orders of an account (`open_orders_limit`) | {placing.ORDERS_PER_ACCOUNT_MAX} |",
        f"an account remembers | {resting.ENDED_ORDERS_KEPT} |",
        f"price | 1 to {messages.PRICE_MAX:,} steps |",
        f"once it has {partition.EVENTS_PER_COMMIT_MAX} events",
    ),
    "up.md": (f"by {load.CALLERS:,} callers",),
    "api.md": (
        f"| body | {api_limits.BODY_BYTES_MAX >> 20} MiB, within {api_limits.BODY_S_MAX:.0f} s; above "
        f"{api_limits.BODY_BYTES_READ_MAX >> 20} MiB the connection is cut",
        f"| request head | within {api_limits.HEADER_S_MAX:.0f} s |",
        f"| orders in a bulk | {api_limits.BULK_ORDERS_MAX:,} |",
        f"| waiting for an answer | {api_limits.ANSWER_S_MAX:.0f} s,",
        f"| waiting for a read | {api_limits.READ_S_MAX:.0f} s,",
        f"| a statement | {api_limits.STATEMENT_EVENTS_MAX:,} events of its partition, "
        f"{api_limits.STATEMENT_LINES_MAX:,} lines, {api_limits.STATEMENT_S_MAX:.0f} s",
        f"| commands waiting in one process | {api_limits.PENDING_MAX:,};",
        f"| events in a page | {reads.EVENTS_PER_PAGE_MAX:,} |",
        f"| streams in one process | {tail.SUBSCRIBERS_MAX:,}, with {tail.EVENTS_WAITING_MAX:,} events",
        f"After {stream.HEARTBEAT_S:.0f} s without an event",
        f"| keys | {api_keys.KEYS_MAX:,} |",
    ),
}


@pytest.mark.parametrize(("page", "words"), [(page, words) for page in FIGURES for words in FIGURES[page]])
def test_a_figure_in_the_text_is_the_constant(page: str, words: str) -> None:
    assert words in " ".join(_text(ROOT / "docs" / page).split())


def test_every_reason_for_a_rejection_is_documented() -> None:
    text = "".join(_text(ROOT / "docs" / f"{page}.md") for page in ("engine", "accounts", "orders", "risk"))
    assert [reason for reason in messages.RejectReason if f"`{reason}`" not in text] == []


def test_every_route_and_problem_of_the_api_is_documented() -> None:
    text = _text(ROOT / "docs" / "api.md")
    paths = [route.path for route in (*COMMAND_ROUTES, *reads.READ_ROUTES)]
    paths += [BULK_PATH, OPENAPI_PATH, LIVE_PATH, READY_PATH]
    assert [path for path in paths if path not in text] == []
    assert [code for code in CODES if f"`{code}`" not in text] == []


# -- links ---------------------------------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        for heading in HEADING.findall(_text(page))
    }


def _local_links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in LINK.findall(_text(page)):
            if not re.match(r"\w+:", target):
                yield page, target


@pytest.mark.parametrize(
    ("page", "target"), [pytest.param(*link, id=f"{_name(link[0])}-{link[1]}") for link in _local_links()]
)
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    file, _, anchor = target.partition("#")
    path = (page.parent / file).resolve() if file else page
    assert path.exists(), f"{_name(page)}: there is no {file}"
    if anchor:
        assert anchor in _anchors(path), f"{_name(page)}: {file or 'the page'} has no heading #{anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, found = set(), [ROOT / "README.md"]
    while found:
        page = found.pop()
        seen.add(page)
        targets = [target for source, target in _local_links() if source == page]
        files = {(page.parent / target.partition("#")[0]).resolve() for target in targets}
        found += [file for file in files if file.suffix == ".md" and file not in seen]
    assert set(PAGES) <= seen, f"not linked: {[_name(page) for page in set(PAGES) - seen]}"


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/images/*.svg")), ids=lambda path: path.stem)
def test_a_picture_is_xml_with_a_title_and_a_description(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    names = {child.tag.rpartition("}")[2] for child in root}
    assert {"title", "desc"} <= names
