"""The `tradewind` command. Each subcommand is a module of `ops`, imported only when it is called."""

import sys
from typing import TYPE_CHECKING

from tradewind import __version__

if TYPE_CHECKING:
    from cyclopts import App

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # as shells report a program that Ctrl-C ended

# name -> (module:attribute of its cyclopts App or function, its line in the list of commands)
COMMANDS = {
    "up": ("tradewind.ops.up_command:up", "Start everything on this machine, trade, and prove the result."),
    "worker": ("tradewind.ops.worker_command:worker", "Worker processes of the order engine."),
    "api": ("tradewind.ops.api_command:api", "Orders, accounts and events over HTTP."),
    "keys": ("tradewind.ops.keys_command:app", "API keys: create, list, revoke."),
    "rollout": ("tradewind.ops.rollout_command:rollout", "Replace all workers, one by one, under load."),
    "poison": ("tradewind.ops.poison_command:app", "Commands that were put aside: list, replay, drop."),
    "audit": ("tradewind.ops.audit_command:audit_command", "Prove that nothing was lost or doubled."),
    "export": ("tradewind.ops.export_command:export_command", "Events to Parquet files or to PostgreSQL."),
    "trading": (
        "tradewind.ops.trading_command:app",
        "Let trade, only reduce, or halt: the kill switch; hours.",
    ),
    "groups": ("tradewind.ops.groups_command:app", "Account groups: list, set."),
    "statement": ("tradewind.ops.statement_command:statement_command", "An account's money over a time."),
    "trim": ("tradewind.ops.trim_command:trim_command", "Take exported events out of the servers' memory."),
    "cluster": ("tradewind.ops.cluster_command:app", "A local cluster: start, stop, status."),
}

HELP = """Orders through a Redis or Valkey Cluster: none lost, none doubled.

Examples: `tradewind up`, `tradewind up --seconds 30 --crash-at 10 --json`, `tradewind cluster start`.
"""


def main() -> None:
    """Run the command line. Errors that are ours to explain are one line on stderr and exit code 1."""
    try:
        app = build_app()
    except ModuleNotFoundError as error:
        sys.exit(f"tradewind: {error}. The command line needs an extra: pip install 'tradewind[all]'")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if not explains_itself(error):
            raise
        print(f"tradewind: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


def build_app() -> "App":
    from cyclopts import App

    app = App(name="tradewind", help=HELP, version=__version__)
    for name, (target, summary) in COMMANDS.items():
        app.command(target, name=name, help=summary)
    return app


def explains_itself(error: BaseException) -> bool:
    """Whether the message is for people: an error class of ours lives in a module named `errors`."""
    modules = (kind.__module__ for kind in type(error).__mro__)
    return any(module.startswith("tradewind.") and module.endswith(".errors") for module in modules)
