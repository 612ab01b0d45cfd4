"""`tradewind keys`: the API keys of a cluster."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from rich.table import Table

from tradewind.api.keys import EVERY_ACCOUNT, RATE_PER_S_DEFAULT, load_keys, make_key, revoke_key, store_key
from tradewind.ops import console
from tradewind.ops.cluster_url import client_of
from tradewind.ops.worker_command import URL_VARIABLE

app = App(
    name="keys",
    help="""API keys: who may ask what of `tradewind api`.

Examples: `tradewind keys create desk --scopes read,trade --accounts 'A*'`, `tradewind keys revoke ID`.
""",
)


@Parameter(name="*")
@dataclass(frozen=True)
class Cluster:
    """Where the keys are kept."""

    url: Annotated[str, Parameter(env_var=URL_VARIABLE, help="The cluster, as redis://HOST:PORT.")] = (
        "redis://127.0.0.1:6379"
    )


THERE = Cluster()


@app.command
async def create(
    name: str,
    *,
    scopes: Annotated[str, Parameter(help="Of read, trade, admin; with commas.")] = "read,trade",
    accounts: Annotated[
        str, Parameter(help="Account ids, or beginnings that end in `*`; with commas.")
    ] = EVERY_ACCOUNT,
    rate: Annotated[int, Parameter(help="Orders and other requests a second.")] = RATE_PER_S_DEFAULT,
    cluster: Cluster = THERE,
) -> int:
    """Make a key and print it, this once: the cluster keeps its hash alone."""
    key, token = make_key(name, _words(scopes), _words(accounts), rate)
    async with client_of(cluster.url) as client:
        await store_key(client, key)
    print(token)
    return 0


@app.command(name="list")
async def list_keys(
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="A JSON list on stdout.")] = False,
    cluster: Cluster = THERE,
) -> int:
    """What keys there are, without what makes them keys."""
    async with client_of(cluster.url) as client:
        keys = await load_keys(client)
    rows = [_shown(key) for key in sorted(keys.values(), key=lambda key: key.created_at_ms)]
    if as_json:
        print(json.dumps(rows))
        return 0
    table = Table("id", "name", "scopes", "accounts", "rate_per_s")
    for row in rows:
        table.add_row(row["id"], row["name"], ",".join(row["scopes"]), ",".join(row["accounts"]),
                      str(row["rate_per_s"]))  # fmt: skip
    console.out.print(table)
    return 0


@app.command
async def revoke(id: str, *, cluster: Cluster = THERE) -> int:
    """From a second later no request is answered with it."""
    async with client_of(cluster.url) as client:
        await revoke_key(client, id)
    return 0


def _shown(key: msgspec.Struct) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(key)
    del shown["digest"]
    return shown


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
