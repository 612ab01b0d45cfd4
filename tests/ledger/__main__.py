"""The ledger run as a program: see docs/ledger-run.md."""

import argparse
import sys
import time
import traceback
from pathlib import Path

from tests.ledger.clients import ClientFailed
from tests.ledger.plan import CALLERS, CLIENTS, plan
from tests.ledger.run import Report, run
from tradewind.ops.loop import run_loop

PARTITIONS = 64


def main() -> int:
    options = _options()
    failed = []
    for seed in range(options.seed, options.seed + options.seeds):
        report = _run(seed, options)
        if report is None or not report.verdict.clean:
            failed.append(seed)
    for seed in failed:
        print(f"FAILED: python -m tests.ledger {_words(options, seed)}")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.ledger", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--orders", type=int, default=50_000, help="answers until the end of a run")
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--partitions", type=int, default=PARTITIONS)
    parser.add_argument("--rounds", type=int, help="rounds of faults; by default one for 10,000 orders")
    parser.add_argument("--only", default="", help="of the servers' faults, those named so: F09")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="client processes")
    parser.add_argument("--callers", type=int, default=CALLERS, help="callers in each of them")
    parser.add_argument("--history", type=Path, help="keep what was asked and told in this folder")
    return parser.parse_args()


def _words(options: argparse.Namespace, seed: int) -> str:
    """What runs one seed of these options again."""
    given = {**vars(options), "seed": seed, "seeds": 1}
    return " ".join(f"--{name} {value}" for name, value in given.items() if value not in (None, ""))


def _run(seed: int, options: argparse.Namespace) -> Report | None:
    began_s = time.monotonic()

    def say(text: str) -> None:
        print(f"seed {seed} {time.monotonic() - began_s:7.1f} s  {text}", flush=True)

    made = plan(
        seed,
        options.orders,
        options.workers,
        rounds=options.rounds,
        only=options.only,
        clients=options.clients,
        callers=options.callers,
    )
    try:
        history = _folder(options.history, seed)
        report = run_loop(run(made, options.partitions, say, history))
    except Exception as error:  # the next seeds have their turn
        say(f"the run failed: {type(error).__name__}: {error}")
        if not isinstance(error, ClientFailed):
            traceback.print_exc()
        return None
    for line in lines(report):
        say(line)
    return report


def _folder(histories: Path | None, seed: int) -> Path | None:
    if histories is None:
        return None
    folder: Path = histories / f"seed-{seed}"
    folder.mkdir(parents=True)
    return folder


def lines(report: Report) -> list[str]:
    """The report for people."""
    verdict = report.verdict
    rate = verdict.told / report.seconds
    counts = (
        f"{verdict.askings} questions of {verdict.orders} orders, {verdict.told} answers ({rate:.0f}/s), "
        f"{verdict.repeats} of them repeats, {verdict.refused_bodies} to other bodies; "
        f"{verdict.audit.events} events"
    )
    last_s = max(0.0, verdict.slowest_s)
    waits = (
        f"longest wait for an answer {verdict.longest_s:.1f} s ({verdict.longest}), "
        f"{verdict.unanswered} waited in vain and asked again, "
        f"last unknown resolved {last_s:.2f} s after the last fault"
    )
    if verdict.clean:
        return [counts, waits, f"clean, {len(report.plan.rounds)} rounds of faults, {report.seconds:.0f} s"]
    found = dict(verdict.found)
    return [counts, waits, f"NOT clean: {found} {verdict.audit.as_dict()}", *verdict.sentences]


if __name__ == "__main__":
    sys.exit(main())
