"""`tradewind groups`: the groups whose terms accounts get when they are opened."""

import json
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from tradewind.engine.house import House
from tradewind.engine.house_store import load_house, set_group
from tradewind.engine.messages.groups import DEFAULT_TERMS, Terms, decode_terms
from tradewind.ops import console
from tradewind.ops.cluster_url import client_of
from tradewind.ops.errors import OptionRefused
from tradewind.ops.loop import run_loop

app = App(name="groups", help="Account groups: the terms that accounts get when they are opened.")

Url = Annotated[str, Parameter(help="The cluster, as redis://HOST:PORT.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="One JSON object on stdout.")]


@app.command(name="list")
def list_groups(*, url: Url = "redis://127.0.0.1:6379", as_json: AsJson = False) -> None:
    """Each group, and in which terms it differs from the built-in one."""
    groups = run_loop(_read(url))
    if as_json:
        print(json.dumps({name: msgspec.to_builtins(terms) for name, terms in groups.items()}))
        return
    default = msgspec.to_builtins(DEFAULT_TERMS)
    for name, terms in groups.items():
        own = {key: value for key, value in msgspec.to_builtins(terms).items() if value != default[key]}
        words = ", ".join(f"{key} {value}" for key, value in own.items() if key != "group")
        console.out.print(f"{name}: {words or 'as built in'}", highlight=False, markup=False)


@app.command(name="set")
def set_terms(
    name: Annotated[str, Parameter(help="The group.")],
    terms: Annotated[str, Parameter(help="""As JSON, e.g. '{"leverage": 30}'; the rest is as built in.""")],
    *,
    url: Url = "redis://127.0.0.1:6379",
) -> None:
    """Keep the terms of a group, for accounts that are opened or put into it from now on."""
    try:
        given = decode_terms(json.dumps({**json.loads(terms), "group": name}))
    except (ValueError, TypeError) as error:
        raise OptionRefused(f"group {name}: {error}") from error
    run_loop(_set(url, given))


async def _read(url: str) -> dict[str, Terms]:
    client = client_of(url)
    house = House()
    try:
        await load_house(client, house)
    finally:
        await client.aclose()
    return {DEFAULT_TERMS.group: DEFAULT_TERMS} | dict(sorted(house.groups.items()))


async def _set(url: str, terms: Terms) -> None:
    client = client_of(url)
    try:
        await set_group(client, terms)
    finally:
        await client.aclose()
