"""`tradewind trading`: what may trade. With `halted` and nothing named it is the kill switch."""

import asyncio
import json
import secrets
from typing import Annotated, Literal

from cyclopts import App, Parameter
from redis.exceptions import RedisError

from tradewind import RedisCluster, clock
from tradewind.engine.desk import OrderDesk
from tradewind.engine.house import House, Ruling
from tradewind.engine.house_store import load_house, set_ruling
from tradewind.engine.instruments import INSTRUMENTS
from tradewind.engine.keys import PartitionKeys
from tradewind.engine.messages import (
    HALTED,
    REDUCING,
    TRADING_REASON_CHARACTERS_MAX,
    Answer,
    CancelAll,
    CloseAll,
    SetTrading,
    TradingState,
)
from tradewind.engine.opening import partitions_of
from tradewind.ops import console
from tradewind.ops.cluster_url import client_of
from tradewind.ops.errors import OptionRefused
from tradewind.ops.loop import run_loop

ACCOUNTS_AT_ONCE = 200
EXIT_REJECTED = 1

app = App(name="trading", help="What may trade, and when.")
app.command("tradewind.ops.hours_command:hours_command", name="hours", help="When a symbol is traded.")


@app.default
def trading(
    state: Annotated[
        Literal["active", "reducing", "halted", "show"], Parameter(help="`show` changes nothing.")
    ] = "show",
    *,
    reason: Annotated[str, Parameter(help="Why; kept with the state, and told to who is refused.")] = "",
    symbol: Annotated[str | None, Parameter(help="Only this symbol.")] = None,
    account: Annotated[str | None, Parameter(help="Only this account.")] = None,
    cancel_all: Annotated[
        bool,
        Parameter(negative="", help="Also cancel the resting orders, of all accounts or of the one named."),
    ] = False,
    close_all: Annotated[
        bool, Parameter(negative="", help="Also close the positions, of all accounts or of the one named.")
    ] = False,
    url: Annotated[str, Parameter(help="The cluster, as redis://HOST:PORT.")] = "redis://127.0.0.1:6379",
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="One JSON object on stdout.")
    ] = False,
) -> int:
    """Let everything trade (active), only what opens no position (reducing), or nothing but cancels (halted).

    Of the whole system, or of a symbol or an account. Effective for orders that wait in line, too. Exit code
    0: done. 1: an account refused it or gave no answer, or positions are left open: without a fresh quote, or
    outside the hours of their symbol.
    """
    _check(state, reason, symbol, account, close_all or cancel_all)
    result = run_loop(_trading(url, state, reason, symbol, account, cancel_all, close_all))
    if as_json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            console.out.print(f"{name}: {value}", highlight=False, markup=False)
    return EXIT_REJECTED if result.get("refused") or result.get("left") else 0


def _check(state: str, reason: str, symbol: str | None, account: str | None, ends: bool) -> None:
    if state != "show" and not reason.strip():
        raise OptionRefused("--reason is missing: say why trading changes; whoever is refused is told")
    if len(reason) > TRADING_REASON_CHARACTERS_MAX:
        raise OptionRefused(f"--reason has more than {TRADING_REASON_CHARACTERS_MAX} characters")
    if symbol is not None and account is not None:
        raise OptionRefused("--symbol and --account: name one of them, or none for the whole system")
    if symbol is not None and symbol not in INSTRUMENTS:
        raise OptionRefused(f"--symbol {symbol} is not one of {', '.join(INSTRUMENTS)}")
    if ends and state not in (REDUCING, HALTED):
        raise OptionRefused(
            "--close-all and --cancel-all go with reducing and halted: else new ones come meanwhile"
        )


async def _trading(
    url: str,
    state: Literal["active", "reducing", "halted", "show"],
    reason: str,
    symbol: str | None,
    account: str | None,
    cancel_all: bool,
    close_all: bool,
) -> dict[str, object]:
    client = client_of(url)
    try:
        partitions = await partitions_of(client)
        if state == "show":
            return await _shown(client)
        desk = OrderDesk(client, partitions)
        await desk.start()
        try:
            switch = _Switch(client, desk, partitions, reason, symbol, account)
            return await switch.turn(state, cancel_all=cancel_all, close_all=close_all)
        finally:
            await desk.aclose()
    finally:
        await client.aclose()


async def _shown(client: RedisCluster) -> dict[str, object]:
    house = House()
    await load_house(client, house)
    states: dict[str, object] = {
        "system": _words(house.system),
        **{name: _words(each) for name, each in house.symbols.items()},
    }
    return states | {f"hours {symbol}": each.text for symbol, each in sorted(house.hours.items())}


def _words(ruling: Ruling) -> str:
    return f"{ruling.state} ({ruling.why})" if ruling.why else ruling.state


class _Switch:
    """Sets the state of one scope. What is to be closed is closed while it may only be reduced."""

    def __init__(
        self,
        client: RedisCluster,
        desk: OrderDesk,
        partitions: int,
        reason: str,
        symbol: str | None,
        account: str | None,
    ) -> None:
        self._client = client
        self._desk = desk
        self._partitions = partitions
        self._reason = reason
        self._symbol = symbol
        self._account = account
        self._run = f"trading-{secrets.token_hex(4)}"
        self._refused: list[str] = []

    async def turn(self, state: TradingState, *, cancel_all: bool, close_all: bool) -> dict[str, object]:
        result: dict[str, object] = {"scope": self._symbol or self._account or "system", "state": state}
        await self._set(REDUCING if close_all else state)
        names = await self._names() if cancel_all or close_all else []
        if cancel_all:
            answers = await self._for_each(names, CancelAll, "cancel")
            result["canceled"] = sum(answer.canceled or 0 for answer in answers)
        if close_all:
            answers = await self._for_each(names, CloseAll, "close")
            result["closed"] = sum(answer.closed or 0 for answer in answers)
            result["left"] = sum(answer.left or 0 for answer in answers)
            if state != REDUCING:
                await self._set(state)
        if self._refused:
            result["refused"] = self._refused
        return result

    async def _set(self, state: TradingState) -> None:
        if self._account is None:
            await set_ruling(self._client, self._symbol, Ruling(state, self._reason, clock.now_ms()))
        else:
            id = f"{self._run}-{state}"
            command = SetTrading(account=self._account, id=id, state=state, why=self._reason)
            self._note(await self._desk.submit(command))

    async def _for_each(
        self, names: list[str], kind: type[CancelAll] | type[CloseAll], what: str
    ) -> list[Answer]:
        found = []
        for at in range(0, len(names), ACCOUNTS_AT_ONCE):
            asked = [
                kind(account=name, id=f"{self._run}-{what}", symbol=self._symbol)
                for name in names[at : at + ACCOUNTS_AT_ONCE]
            ]
            answers = await asyncio.gather(*map(self._answer, asked))
            found += [answer for answer in answers if answer is not None]
        for answer in found:
            self._note(answer)
        return found

    async def _answer(self, command: CancelAll | CloseAll) -> Answer | None:
        """None, and noted as refused: there is no answer. The others are asked all the same, and the state is
        set.
        """
        try:
            return await self._desk.submit(command)
        except (RedisError, OSError) as error:
            self._refused.append(f"{command.account}: {error}")
            return None

    def _note(self, answer: Answer) -> None:
        if answer.status == "rejected":
            self._refused.append(f"{answer.account}: {answer.text}")

    async def _names(self) -> list[str]:
        """The account that was named, or every account there is."""
        if self._account is not None:
            return [self._account]
        keys = [PartitionKeys(partition).accounts for partition in range(self._partitions)]
        found = await asyncio.gather(*(self._client.execute_command("SMEMBERS", key) for key in keys))
        return sorted(name.decode() for members in found for name in members)
