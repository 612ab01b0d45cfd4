"""`tradewind trim`: takes events out of the servers' memory that are kept elsewhere, or wanted no more."""

import json
import sys
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from tradewind import RedisCluster
from tradewind.engine.opening import partitions_of
from tradewind.ops import console
from tradewind.ops.cluster_url import client_of
from tradewind.ops.errors import OptionRefused
from tradewind.ops.loop import run_loop
from tradewind.trail.positions import all_registered
from tradewind.trail.trim import KEEP_DEFAULT, TrimPlan, TrimRequest, plan_trim, trim

EXIT_DONE = 0
EXIT_NOT_CONFIRMED = 1


def trim_command(
    *,
    exported: Annotated[
        bool, Parameter(negative="", help="Events that every registered export target has.")
    ] = False,
    before: Annotated[
        int | None,
        Parameter(help="Events with lower numbers than this, in each partition, exported or not."),
    ] = None,
    partition: Annotated[int | None, Parameter(help="Only of this partition.")] = None,
    keep: Annotated[
        int, Parameter(help="The newest events of each partition stay in any case: so many.")
    ] = KEEP_DEFAULT,
    url: Annotated[str, Parameter(help="The cluster, as redis://HOST:PORT.")] = "redis://127.0.0.1:6379",
    dry_run: Annotated[bool, Parameter(negative="", help="Only say what would go.")] = False,
    yes: Annotated[bool, Parameter(negative="", help="Do not ask.")] = False,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="One JSON object on stdout.")
    ] = False,
) -> int:
    """Trim old events. The accounts as they were then stay as a checkpoint, from which the audit goes on.

    Exit code 0: done, or there was nothing to do. 1: not confirmed, or refused; the output says why.
    """
    if exported == (before is not None):
        raise OptionRefused("one of --exported and --before NUMBER is needed")
    if keep < 0 or (before is not None and before < 1):
        raise OptionRefused("--keep must be 0 or more, --before 1 or more")
    return run_loop(_Trim(TrimRequest(before, keep), partition, dry_run, yes, as_json).run(url))


class _Trim:
    """One call of the command."""

    def __init__(
        self, request: TrimRequest, partition: int | None, dry_run: bool, yes: bool, as_json: bool
    ) -> None:
        self._request = request
        self._partition = partition
        self._dry_run = dry_run
        self._yes = yes
        self._as_json = as_json

    async def run(self, url: str) -> int:
        client = client_of(url)
        try:
            chosen = self._chosen(await partitions_of(client))
            targets = await all_registered(client, chosen)
            if self._request.before is None and not targets:
                raise OptionRefused(
                    "--exported: no export target is registered; run `tradewind export`, or name --before"
                )
            plans = [await plan_trim(client, partition, self._request) for partition in chosen]
            events = sum(plan.events for plan in plans)
            is_wanted = not self._dry_run and events > 0
            if is_wanted and not self._is_confirmed(events, targets):
                print("tradewind: nothing was trimmed", file=sys.stderr)
                return EXIT_NOT_CONFIRMED
            if is_wanted:
                await self._trim(client, plans)
            self._show(plans, events if is_wanted else 0)
            return EXIT_DONE
        finally:
            await client.aclose()

    def _chosen(self, partitions: int) -> range:
        if self._partition is None:
            return range(partitions)
        if not 0 <= self._partition < partitions:
            raise OptionRefused(f"--partition {self._partition}: there are 0 to {partitions - 1}")
        return range(self._partition, self._partition + 1)

    def _is_confirmed(self, events: int, targets: dict[str, int]) -> bool:
        if self._yes:
            return True
        if not sys.stdin.isatty():
            raise OptionRefused("nobody is there to be asked: say --yes, or look first with --dry-run")
        kept = f"kept in {', '.join(targets)}" if self._request.before is None else "EXPORTED OR NOT"
        return input(f"Trim {events:,} events, {kept}? [y/N] ").strip().lower() in ("y", "yes")

    async def _trim(self, client: RedisCluster, plans: list[TrimPlan]) -> None:
        with console.slow_progress("trim") as step:
            for done, plan in enumerate(plans, 1):
                await trim(client, plan, self._request)
                step(f"{done} of {len(plans)} partitions")

    def _show(self, plans: list[TrimPlan], trimmed: int) -> None:
        until = {plan.partition: plan.until for plan in plans}
        found = sum(plan.events for plan in plans)
        if self._as_json:
            print(json.dumps({"may_go": found, "trimmed": trimmed, "until": until}))
            return
        table = Table("trim", "", show_header=False)
        table.add_row("events that may go", f"{found:,}")
        table.add_row("trimmed", f"{trimmed:,}")
        console.out.print(table)
