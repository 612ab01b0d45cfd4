"""`tradewind trading hours`: when a symbol is traded."""

import json
from typing import Annotated

from cyclopts import Parameter

from tradewind import clock
from tradewind.engine.hours import HoursRuling, parse_hours
from tradewind.engine.house_store import set_hours
from tradewind.engine.instruments import INSTRUMENTS
from tradewind.engine.messages import TRADING_REASON_CHARACTERS_MAX
from tradewind.engine.opening import partitions_of
from tradewind.ops import console
from tradewind.ops.cluster_url import client_of
from tradewind.ops.errors import OptionRefused
from tradewind.ops.loop import run_loop


def hours_command(
    symbol: Annotated[str, Parameter(help="The symbol.")],
    hours: Annotated[str, Parameter(help='In UTC: "mon 00:00-fri 22:00", several with commas; or `always`.')],
    *,
    reason: Annotated[str, Parameter(help="Why; kept with the hours.")] = "",
    url: Annotated[str, Parameter(help="The cluster, as redis://HOST:PORT.")] = "redis://127.0.0.1:6379",
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="One JSON object on stdout.")
    ] = False,
) -> None:
    """Trade a symbol at these hours of the week alone. Effective for orders that wait in line, too.

    Outside them nothing is opened, closed or stopped out; resting orders wait, and cancels pass.
    """
    if symbol not in INSTRUMENTS:
        raise OptionRefused(f"{symbol} is not one of {', '.join(INSTRUMENTS)}")
    if len(reason) > TRADING_REASON_CHARACTERS_MAX:
        raise OptionRefused(f"--reason has more than {TRADING_REASON_CHARACTERS_MAX} characters")
    try:
        parse_hours(hours)
    except ValueError as error:
        raise OptionRefused(f"hours of {symbol}: {error}") from error
    run_loop(_set(url, symbol, HoursRuling(hours, reason, clock.now_ms())))
    if as_json:
        print(json.dumps({"symbol": symbol, "hours": hours}))
    else:
        console.out.print(f"{symbol}: {hours}", highlight=False, markup=False)


async def _set(url: str, symbol: str, ruling: HoursRuling) -> None:
    client = client_of(url)
    try:
        await partitions_of(client)
        await set_hours(client, symbol, ruling)
    finally:
        await client.aclose()
