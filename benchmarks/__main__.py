"""`python -m benchmarks [clients|orders|peers]`; without a name, as in `make bench`, clients and orders."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import clients, orders, peers
from benchmarks.clients import ClientsPlan
from benchmarks.contenders import CONTENDERS
from benchmarks.orders import OrdersPlan
from benchmarks.peers import CannotRun, PeersPlan
from tradewind.embedded import EmbeddedError

RUNS = 3
EXIT_INTERRUPTED = 130


def main() -> None:
    given = _parser().parse_args()
    try:
        asyncio.run(_measure(given))
    except (CannotRun, EmbeddedError) as error:
        sys.exit(f"benchmarks: {error}")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


async def _measure(given: argparse.Namespace) -> None:
    options = {name: value for name, value in vars(given).items() if name != "benchmark"}
    match given.benchmark:
        case "clients":
            await clients.compare(ClientsPlan(**options))
        case "orders":
            await orders.trade(OrdersPlan(**options))
        case "peers":
            await peers.outside(PeersPlan(**options))
        case _:
            await clients.compare(ClientsPlan(**options))
            await orders.trade(OrdersPlan(**options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Tradewind. Without a name: clients, then orders. Progress is on stderr.",
    )
    parser.set_defaults(runs=RUNS, save=False, server=None)
    _add_common(parser)
    named = parser.add_subparsers(dest="benchmark", metavar="NAME")
    _add_clients(named.add_parser("clients", help="clients side by side on SET and GET"))
    _add_orders(named.add_parser("orders", help="orders through `tradewind up`"))
    _add_peers(named.add_parser("peers", help="clients side by side by ../shared/bench/peers.py"))
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Without defaults of their own, so that they may stand before the name as well as behind it."""
    unset = argparse.SUPPRESS
    parser.add_argument("--runs", type=_count, default=unset, help=f"medians are of so many ({RUNS})")
    parser.add_argument("--save", action="store_true", default=unset, help="keep all in benchmarks/results/")
    parser.add_argument("--server", type=Path, default=unset, help="another redis-server or valkey-server")


def _add_clients(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument(
        "--clients", nargs="+", choices=CONTENDERS, default=tuple(CONTENDERS), metavar="NAME",
        help=f"of {', '.join(CONTENDERS)} (all that are installed)",
    )  # fmt: skip
    _add_load(parser, clients.TASKS, clients.OPS)
    parser.add_argument("--pool", type=_count, default=clients.POOL, help="max_connections (%(default)s)")


def _add_orders(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    _add_numbers(parser, "--workers", orders.WORKERS, "worker processes")
    _add_numbers(parser, "--rates", orders.RATES, "orders offered a second; 0: as fast as they are taken")
    parser.add_argument("--seconds", type=float, default=orders.SECONDS, help="of a run (%(default)s)")
    parser.add_argument("--faults", action="store_true", help="also runs with a crash and a killed primary")


def _add_peers(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    _add_load(parser, peers.TASKS, peers.OPS)
    parser.add_argument("--port", type=_count, default=peers.PORT, help="first of six (%(default)s)")


def _add_load(parser: argparse.ArgumentParser, tasks: Sequence[int], ops: int) -> None:
    _add_numbers(parser, "--tasks", tasks, "callers at once")
    parser.add_argument("--ops", type=_count, default=ops, help="commands of a run (%(default)s)")


def _add_numbers(parser: argparse.ArgumentParser, name: str, default: Sequence[int], what: str) -> None:
    shown = " ".join(map(str, default))
    kind = _count if min(default) else _count_or_zero
    parser.add_argument(name, type=kind, nargs="+", default=default, metavar="N", help=f"{what} ({shown})")


def _count(text: str) -> int:
    return _at_least(1, int(text))


def _count_or_zero(text: str) -> int:
    return _at_least(0, int(text))


def _at_least(least: int, number: int) -> int:
    if number < least:
        raise argparse.ArgumentTypeError(f"{number}: it must be {least} or more")
    return number


if __name__ == "__main__":
    main()
