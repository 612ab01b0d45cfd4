"""Commands over HTTP: one route for each kind, one table for all, and orders in bulk.

The client order id in the body makes every one of them safe to repeat: the same id and body get the same
answer, another body is a 409. Nothing of that is kept here; the engine keeps it.
"""

import asyncio
import types
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from litestar import Request, Response, post
from litestar.handlers import HTTPRouteHandler
from redis.exceptions import RedisError

from tradewind.api.backend import Backend
from tradewind.api.bodies import body_of, read_body, to_command
from tradewind.api.keys import ApiKey, Scope
from tradewind.api.limits import ANSWER_S_MAX, BULK_ORDERS_MAX
from tradewind.api.problems import (
    RETRY_AFTER_S,
    Problem,
    ProblemBody,
    malformed,
    of_cluster,
    problem,
    rejected,
)
from tradewind.api.replies import json_reply
from tradewind.engine import messages
from tradewind.engine.messages import Answer, CommandBase

BULK_PATH: Final = "/v1/orders/bulk"


@dataclass(frozen=True)
class CommandRoute:
    """`POST path` asks the engine for `command`, with a key of `scope`."""

    path: str
    command: type[CommandBase]
    scope: Scope
    summary: str

    @property
    def body(self) -> type[msgspec.Struct]:
        return _BODIES[self.path]


COMMAND_ROUTES: Final = (
    CommandRoute("/v1/orders", messages.Place, "trade", "Place an order"),
    CommandRoute("/v1/orders/amend", messages.Amend, "trade", "Change a resting order"),
    CommandRoute("/v1/orders/cancel", messages.Cancel, "trade", "Cancel a resting order"),
    CommandRoute("/v1/orders/cancel-all", messages.CancelAll, "trade", "Cancel all, or of a symbol or side"),
    CommandRoute("/v1/orders/cancel-after", messages.CancelAfter, "trade", "Cancel all if not renewed"),
    CommandRoute("/v1/positions/protect", messages.Protect, "trade", "Set stop-loss and take-profit"),
    CommandRoute("/v1/positions/close-by", messages.CloseBy, "trade", "Close against an opposite position"),
    CommandRoute("/v1/positions/close", messages.Close, "trade", "Close a position, or a part of it"),
    CommandRoute("/v1/positions/close-all", messages.CloseAll, "trade", "Close all, or of a symbol or side"),
    CommandRoute("/v1/accounts", messages.OpenAccount, "admin", "Open an account"),
    CommandRoute("/v1/accounts/deposit", messages.Deposit, "admin", "Deposit cents"),
    CommandRoute("/v1/accounts/withdraw", messages.Withdraw, "admin", "Withdraw cents that are free"),
    CommandRoute("/v1/accounts/group", messages.SetGroup, "admin", "Trade on the terms of a group"),
    CommandRoute("/v1/accounts/trading", messages.SetTrading, "admin", "Active, reducing or halted"),
)
_BODIES: Final = {route.path: body_of(route.command) for route in COMMAND_ROUTES}
PLACE_BODY: Final = _BODIES["/v1/orders"]

BulkRequest: Final = msgspec.defstruct(
    "BulkRequest",
    [("orders", types.GenericAlias(list, (PLACE_BODY,)))],
    frozen=True,
    forbid_unknown_fields=True,
)


class BulkItem(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What one order of a bulk would have got by itself."""

    status: int
    answer: Answer | None = None
    problem: ProblemBody | None = None


class BulkAnswer(msgspec.Struct, frozen=True):
    """In the order of the request."""

    answers: list[BulkItem]


class CommandService:
    """Hands commands to the desk. One per process."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._running: set[tuple[str, str]] = set()

    async def carry_out(self, command: Any) -> Answer:
        """The engine's answer, which is final and replicated.

        :raises Problem: the engine refused it; another request with the id runs; no answer came (504)
        """
        name = (command.account, command.id)
        if name in self._running:
            raise problem(409, "in_progress", retry_after_s=RETRY_AFTER_S)
        self._running.add(name)
        try:
            answer = await self._backend.desk.submit(command, deadline_s=ANSWER_S_MAX)
        except ValueError as error:  # a number that no message can carry
            raise malformed(f"{error}.") from error
        except (RedisError, OSError) as error:
            raise of_cluster(error, ask_for(command)) from error
        finally:
            self._running.discard(name)
        if answer.status == "rejected":
            raise Problem(rejected(answer))
        return answer

    async def carry_out_one(self, key: ApiKey, order: CommandBase) -> BulkItem:
        """One order of a bulk: what goes wrong with it is its own item."""
        try:
            self._backend.check_account(key, order.account)
            return BulkItem(status=200, answer=await self.carry_out(order))
        except Problem as error:
            return BulkItem(status=error.body.status, problem=error.body)

    def handler(self, route: CommandRoute) -> HTTPRouteHandler:
        decode = msgspec.json.Decoder(route.body).decode

        @post(route.path, name=route.path, status_code=200)
        async def handle(request: Request[Any, Any, Any]) -> Response[bytes]:
            key = self._backend.authenticate(request.headers.get("authorization"))
            self._backend.admit(key, route.scope)
            command = to_command(route.command, await read_body(request, decode))
            self._backend.check_account(key, command.account)
            return json_reply(await self.carry_out(command))

        return handle

    def bulk_handler(self) -> HTTPRouteHandler:
        decode = msgspec.json.Decoder(BulkRequest).decode

        @post(BULK_PATH, name=BULK_PATH, status_code=200)
        async def handle(request: Request[Any, Any, Any]) -> Response[bytes]:
            key = self._backend.authenticate(request.headers.get("authorization"))
            self._backend.admit(key, "trade", 0)
            bodies = (await read_body(request, decode)).orders  # type: ignore[attr-defined]  # of BulkRequest
            if not 1 <= len(bodies) <= BULK_ORDERS_MAX:
                raise malformed(f"{len(bodies)} orders: a bulk has 1 to {BULK_ORDERS_MAX}.")
            self._backend.admit(key, "trade", len(bodies))
            orders = [to_command(messages.Place, body) for body in bodies]
            answers = await asyncio.gather(*(self.carry_out_one(key, order) for order in orders))
            return json_reply(BulkAnswer(list(answers)))

        return handle

    def handlers(self) -> list[HTTPRouteHandler]:
        return [*map(self.handler, COMMAND_ROUTES), self.bulk_handler()]


def ask_for(command: CommandBase) -> str:
    """Where the outcome of a command is to be found once it is decided."""
    return "/v1/answers?" + urlencode({"account": command.account, "id": command.id})
