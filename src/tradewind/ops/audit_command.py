"""`tradewind audit`: proves that a cluster lost nothing, doubled nothing and counted right."""

import itertools
import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from tradewind.engine.opening import partitions_of
from tradewind.ops import console
from tradewind.ops.audit import AuditResult, audit
from tradewind.ops.cluster_url import client_of
from tradewind.ops.journal import read_journal
from tradewind.ops.loop import run_loop
from tradewind.trail.places import target_of

EXIT_CLEAN = 0
EXIT_FINDINGS = 1


def audit_command(
    *,
    url: Annotated[str, Parameter(help="The cluster, as redis://HOST:PORT.")] = "redis://127.0.0.1:6379",
    journal: Annotated[
        list[Path] | None,
        Parameter(
            negative="",
            help="What callers were told, from `tradewind up --data`; may be given several times.",
        ),
    ] = None,
    archive: Annotated[
        str | None,
        Parameter(help="Where trimmed events are: a folder of `tradewind export`, or postgresql://..."),
    ] = None,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="One JSON object on stdout.")
    ] = False,
) -> int:
    """Replay all events and hold the accounts, the stored answers and the journals against them.

    Exit code 0: nothing is wrong. 1: something is; the output says what. Reads only; the load should be
    stopped.
    """
    result = run_loop(_audit(url, journal or [], archive))
    if as_json:
        print(json.dumps(result.as_dict()))
    else:
        show(result)
    return EXIT_CLEAN if result.clean else EXIT_FINDINGS


async def _audit(url: str, journals: list[Path], archive: str | None) -> AuditResult:
    client = client_of(url)
    try:
        partitions = await partitions_of(client)
        entries = itertools.chain.from_iterable(read_journal(path) for path in journals)
        with console.slow_progress("audit") as progress:
            return await audit(
                client,
                partitions,
                entries,
                archive=target_of(archive) if archive is not None else None,
                progress=lambda done: progress(f"{done} of {partitions} partitions"),
            )
    finally:
        await client.aclose()


def show(result: AuditResult) -> None:
    """The result as a table on stdout."""
    table = Table("audit", "", show_header=False)
    for name, value in result.as_dict().items():
        if name != "findings":
            table.add_row(name.replace("_", " "), f"{value:,}" if type(value) is int else str(value))
    console.out.print(table)
    for sentence in result.findings.sentences:
        console.out.print(sentence, soft_wrap=True, markup=False, highlight=False)
