"""`tradewind statement`: an account's money over a time, from the events."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.table import Table

from tradewind import clock
from tradewind.engine.opening import partitions_of
from tradewind.engine.statement import Statement
from tradewind.ops import console
from tradewind.ops.cluster_url import client_of
from tradewind.ops.errors import OptionRefused
from tradewind.ops.loop import run_loop
from tradewind.trail.statement import read_statement


def statement_command(
    account: Annotated[str, Parameter(help="The account.")],
    *,
    since: Annotated[
        str | None, Parameter(name="--from", help="From this day or time on (UTC): 2026-11-25.")
    ] = None,
    until: Annotated[str | None, Parameter(help="Before this day or time (UTC); else until now.")] = None,
    url: Annotated[str, Parameter(help="The cluster, as redis://HOST:PORT.")] = "redis://127.0.0.1:6379",
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="One JSON object on stdout.")
    ] = False,
) -> None:
    """What the balance was, what came and went, and what it is. Reads only."""
    from_ms = 0 if since is None else _milliseconds("--from", since)
    until_ms = clock.now_ms() if until is None else _milliseconds("--until", until)
    result = run_loop(_statement(url, account, from_ms, until_ms))
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        _show(result)


def _milliseconds(option: str, text: str) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise OptionRefused(f"{option} {text}: {error}; write 2026-11-25 or 2026-11-25T13:00") from error
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000)


async def _statement(url: str, account: str, from_ms: int, until_ms: int) -> Statement:
    client = client_of(url)
    try:
        return await read_statement(client, await partitions_of(client), account, from_ms, until_ms)
    finally:
        await client.aclose()


def _show(result: Statement) -> None:
    lines = Table("time (UTC)", "kind", "amount", "balance", "position", "cause")
    for line in result.lines:
        time = datetime.fromtimestamp(line.at_ms / 1_000, UTC).isoformat(" ", "milliseconds")[:23]
        amounts = (_money(line.amount), _money(line.balance))
        lines.add_row(time, line.kind.replace("_", " "), *amounts, line.position or "", line.cause)
    if result.lines:
        console.out.print(lines)
    sums = Table(f"account {result.account}", "", show_header=True)
    sums.add_row("opening balance", _money(result.opening_balance))
    for kind, amount in result.totals.items():
        sums.add_row(kind.replace("_", " "), _money(amount))
    sums.add_row("closing balance", _money(result.closing_balance))
    console.out.print(sums)


def _money(cents: int) -> str:
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100:,}.{abs(cents) % 100:02d}"
