"""What goes out: JSON, problems, and the problem for whatever was not foreseen."""

import logging
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from tradewind.api.problems import CODES, CONTENT_TYPE, Problem, ProblemBody, problem

_encode: Final = msgspec.json.Encoder().encode
_CODE_OF_STATUS: Final = {
    400: "malformed",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
}

logger = logging.getLogger(__name__)


def json_reply(body: object) -> Response[bytes]:
    """200 with the body, which is encoded once."""
    return Response(_encode(body), media_type="application/json", headers={"Cache-Control": "no-store"})


def problem_reply(_request: Request[Any, Any, Any], error: Problem) -> Response[bytes]:
    return _reply(error.body, error.headers)


def http_reply(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """What the framework refuses: no such path, another method, too large."""
    code = _CODE_OF_STATUS.get(error.status_code, "malformed")
    if error.status_code >= 500:
        code = "internal"
    return _reply(problem(error.status_code, code).body, dict(error.headers or {}))


def defect_reply(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """A defect of ours. The log has the path and the error, and nothing that the caller sent."""
    logger.error("%s %s: %s", request.method, request.url.path, type(error).__name__, exc_info=error)
    return _reply(problem(500, "internal", CODES["internal"]).body, {})


def _reply(body: ProblemBody, headers: dict[str, str]) -> Response[bytes]:
    return Response(_encode(body), status_code=body.status, media_type=CONTENT_TYPE, headers=headers)
