"""`tradewind up`: the whole system on this machine, with a load on it and the audit at the end."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tradewind.feed.replay import TICK_FILES_MAX
from tradewind.feed.ticks import TickFileSummary, known_symbol, validate_ticks
from tradewind.ops.cluster_url import check_url
from tradewind.ops.errors import OptionRefused
from tradewind.ops.loop import run_loop
from tradewind.ops.report import Report, show
from tradewind.ops.system import UpOptions
from tradewind.ops.up import Up
from tradewind.ops.worker_command import WORKERS_MAX

ACCOUNTS_MAX = 999_999
RATE_MAX = 1_000_000
CRASH_AT_S_SHOWN = 20.0

EXIT_CLEAN = 0
EXIT_FINDINGS = 1


def up(
    *,
    workers: Annotated[int, Parameter(help="Worker processes.")] = 50,
    accounts: Annotated[int, Parameter(help="Funded accounts.")] = 5_000,
    rate: Annotated[int, Parameter(help="Orders offered a second; 0: as fast as they are taken.")] = 2_000,
    seconds: Annotated[float | None, Parameter(help="Stop after so long. Default: run until Ctrl-C.")] = None,
    ticks: Annotated[
        list[Path] | None,
        Parameter(
            negative="",
            help="Tick file to replay: HistData, TrueFX, or with a header timestamp,bid,ask; CSV or CSV.gz. "
            "May be given several times. Default: a simulated market.",
        ),
    ] = None,
    symbol: Annotated[
        str | None, Parameter(help="Symbol of the tick files, where neither lines nor name tell it.")
    ] = None,
    speed: Annotated[float, Parameter(help="Replay so many times as fast.")] = 1.0,
    crash_at: Annotated[
        float | None,
        Parameter(
            help="One symbol falls 3 % within a second, so many seconds after trading began. "
            "Default: off; 20 in a terminal without --seconds."
        ),
    ] = None,
    kill_primary_at: Annotated[
        float | None,
        Parameter(help="kill -9 of one primary, so many seconds after trading began. Default: off."),
    ] = None,
    data: Annotated[
        Path | None,
        Parameter(help="Folder for the servers' data; a second start goes on. Default: a temporary one."),
    ] = None,
    server: Annotated[Path | None, Parameter(help="Another redis-server or valkey-server binary.")] = None,
    url: Annotated[str | None, Parameter(help="Use this cluster instead of starting one.")] = None,
    api_port: Annotated[int, Parameter(help="Port of the HTTP API; 0: a free one, which is shown.")] = 0,
    no_api: Annotated[bool, Parameter(negative="", help="Without the HTTP API.")] = False,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="The report as one JSON object on stdout.")
    ] = False,
) -> int:
    """Start six servers, the workers and the quotes, offer orders, and audit the result.

    Ctrl-C stops in order. Exit code 0: nothing was lost, doubled or miscounted.
    """
    if crash_at is None and seconds is None and sys.stderr.isatty():
        crash_at = CRASH_AT_S_SHOWN
    options = UpOptions(
        workers=workers,
        accounts=accounts,
        rate=rate,
        seconds=seconds,
        tick_files=_validated(ticks or [], symbol),
        speed=speed,
        crash_at_s=crash_at,
        kill_primary_at_s=kill_primary_at,
        data=None if data is None else data.expanduser().resolve(),
        server=server,
        url=url,
        api_port=None if no_api else api_port,
    )
    _check(options)
    try:
        report = run_loop(Up(options, say=_say, live=_say).run())
    except asyncio.CancelledError:  # interrupted before it traded, or while it ended: all is undone
        raise KeyboardInterrupt from None
    _print(report, as_json)
    return EXIT_CLEAN if report["audit"]["clean"] else EXIT_FINDINGS


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _validated(paths: list[Path], symbol: str | None) -> list[TickFileSummary]:
    """Every line of every file is read before anything starts.

    :raises OptionRefused: more files than can be replayed together
    """
    if len(paths) > TICK_FILES_MAX:
        raise OptionRefused(f"--ticks is given {len(paths)} times: it must be {TICK_FILES_MAX} at most")
    if symbol is not None:
        known_symbol(symbol)
    summaries = []
    for path in paths:
        summary = validate_ticks(path, symbol)
        _say(f"{path}: {summary.lines:,} ticks of {summary.symbol}, {summary.form.value}")
        summaries.append(summary)
    return summaries


def _check(options: UpOptions) -> None:
    """:raises OptionRefused: a value out of range, or options that do not go together"""
    for name, value, least, most in (
        ("--workers", options.workers, 1, WORKERS_MAX),
        ("--accounts", options.accounts, 1, ACCOUNTS_MAX),
        ("--rate", options.rate, 0, RATE_MAX),
        ("--api-port", options.api_port or 0, 0, 65_535),
    ):
        if not least <= value <= most:
            raise OptionRefused(f"{name} {value}: it must be between {least} and {most}")
    times = {
        "--seconds": options.seconds,
        "--crash-at": options.crash_at_s,
        "--kill-primary-at": options.kill_primary_at_s,
    }
    for name, seconds in times.items():
        if seconds is not None and not 0 <= seconds < float("inf"):
            raise OptionRefused(f"{name} {seconds}: it must be a number of seconds, 0 or more")
    if not 0 < options.speed < float("inf"):  # "nan" is neither
        raise OptionRefused(f"--speed {options.speed}: it must be a number above 0")
    if options.url is not None:
        check_url(options.url)
        own = {
            "--data": options.data,
            "--server": options.server,
            "--kill-primary-at": options.kill_primary_at_s,
        }
        for name, given in own.items():
            if given is not None:
                raise OptionRefused(f"{name} is for servers that we start: leave it out, or leave out --url")


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report), flush=True)
    else:
        show(report)
