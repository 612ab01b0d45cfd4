"""The application: all routes, health, and the description of it all."""

from typing import Any, Final

from litestar import Litestar, Request, Response, get
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from tradewind.api.backend import Backend
from tradewind.api.bodies import read_query
from tradewind.api.commands import CommandService
from tradewind.api.limits import BODY_BYTES_READ_MAX
from tradewind.api.openapi import OPENAPI_PATH, document
from tradewind.api.problems import RETRY_AFTER_S, Problem, problem
from tradewind.api.reads import NoQuery, ReadService
from tradewind.api.replies import defect_reply, http_reply, json_reply, problem_reply
from tradewind.api.stream import stream_handler

LIVE_PATH: Final = "/health/live"
READY_PATH: Final = "/health/ready"


def build_app(backend: Backend) -> Litestar:
    """The ASGI application over an open backend, whose life is the caller's affair."""
    reads = ReadService(backend)
    handlers = [*CommandService(backend).handlers(), *reads.handlers(), *_own_handlers(backend)]
    return Litestar(
        [*handlers, stream_handler(backend, reads)],
        exception_handlers={
            Problem: problem_reply,
            HTTPException: http_reply,
            Exception: defect_reply,
        },
        openapi_config=None,
        request_max_body_size=BODY_BYTES_READ_MAX,
        logging_config=None,
    )


def _own_handlers(backend: Backend) -> list[HTTPRouteHandler]:
    described = document()

    @get(LIVE_PATH, name=LIVE_PATH)
    async def live(request: Request[Any, Any, Any]) -> Response[bytes]:
        read_query(request, NoQuery)
        return json_reply({"status": "live"})

    @get(READY_PATH, name=READY_PATH)
    async def ready(request: Request[Any, Any, Any]) -> Response[bytes]:
        read_query(request, NoQuery)
        reasons = await backend.reasons_not_ready()
        if reasons:
            raise problem(503, "not_ready", "; ".join(reasons) + ".", retry_after_s=RETRY_AFTER_S)
        return json_reply({"status": "ready"})

    @get(OPENAPI_PATH, name=OPENAPI_PATH)
    async def openapi(request: Request[Any, Any, Any]) -> Response[bytes]:
        read_query(request, NoQuery)
        return json_reply(described)

    return [live, ready, openapi]
