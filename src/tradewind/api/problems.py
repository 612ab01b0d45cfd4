"""What goes wrong, as problem+json (RFC 9457): a code for programs, a sentence with the numbers for people.

A problem says what the caller is to do: `status` 4xx, ask differently; 429 and 503, ask again after
`Retry-After` seconds, nothing was done; 504, the outcome is unknown, ask with the same id.
"""

from http import HTTPStatus
from typing import Final

import msgspec
from redis.exceptions import RedisError

from tradewind import ClientClosed, DeadlineExceeded, NodeUnavailable, OutcomeUnknown, Overloaded
from tradewind.engine.messages import Answer, RejectReason

CONTENT_TYPE: Final = "application/problem+json"


class ProblemBody(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`code` is a reason of the engine's or one of CODES; `ask` is where to learn the outcome."""

    status: int
    title: str
    code: str
    detail: str
    ask: str | None = None
    answer: Answer | None = None


CODES: Final = {
    "unauthorized": "No key was given, or none that is known.",
    "forbidden": "The key may not do this, or not for this account.",
    "trimmed": "The events behind this number have left the cluster; see the export.",
    "too_many_events": "More events would have to be read or answered than in one request.",
    "rate_limited": "The key has asked for too much; ask again after Retry-After seconds.",
    "malformed": "The request does not have the form that is asked for; nothing was done.",
    "unsupported_media_type": "The body must be application/json.",
    "too_large": "The body is larger than the limit; nothing was done.",
    "slow_body": "The body did not arrive in time; nothing was done.",
    "not_found": "There is nothing here under this name.",
    "no_answer": "No answer is kept under this id: it was not used, or is not decided yet.",
    "method_not_allowed": "The path does not take this method; see Allow.",
    "in_progress": "The same id is being worked on right now; ask again with the same body.",
    "outcome_unknown": "No answer came in time; the command may have taken effect, or may do so still.",
    "overloaded": "Too many commands wait; nothing was done, ask again after Retry-After seconds.",
    "unavailable": "The cluster cannot answer now; ask again after Retry-After seconds.",
    "not_ready": "The engine cannot take orders now; the detail says why.",
    "internal": "A defect of the server; it has been logged.",
}

NOT_FOUND_REASONS: Final = frozenset(
    {
        RejectReason.UNKNOWN_ACCOUNT,
        RejectReason.UNKNOWN_ORDER,
        RejectReason.UNKNOWN_POSITION,
        RejectReason.UNKNOWN_SYMBOL,
    }
)
CONFLICT_REASONS: Final = frozenset(
    {
        RejectReason.ACCOUNT_EXISTS,
        RejectReason.CANCEL_PENDING,
        RejectReason.DUPLICATE_ID,
        RejectReason.REPLACE_PENDING,
        RejectReason.TOO_LATE_TO_CANCEL,
    }
)
RETRY_AFTER_S: Final = 1


class Problem(Exception):
    """Ends a request with `body`."""

    def __init__(self, body: ProblemBody, headers: dict[str, str] | None = None) -> None:
        super().__init__(body.detail)
        self.body = body
        self.headers = headers or {}


def problem(
    status: int, code: str, detail: str = "", *, ask: str | None = None, retry_after_s: float | None = None
) -> Problem:
    """One of CODES. `retry_after_s` is rounded up to whole seconds, as the header wants them."""
    headers = {} if retry_after_s is None else {"Retry-After": str(max(1, int(-(-retry_after_s // 1))))}
    title = HTTPStatus(status).phrase
    body = ProblemBody(status=status, title=title, code=code, detail=detail or CODES[code], ask=ask)
    return Problem(body, headers)


def malformed(detail: str) -> Problem:
    """The caller's mistake; nothing was done."""
    return problem(HTTPStatus.BAD_REQUEST, "malformed", detail)


def rejected(answer: Answer) -> ProblemBody:
    """The engine's refusal: final, and the same for every repeat."""
    reason = answer.reason
    assert reason is not None
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    if reason in NOT_FOUND_REASONS:
        status = HTTPStatus.NOT_FOUND
    elif reason in CONFLICT_REASONS:
        status = HTTPStatus.CONFLICT
    detail = answer.text or reason.sentence
    return ProblemBody(status=status, title=status.phrase, code=str(reason), detail=detail, answer=answer)


def of_cluster(error: RedisError | OSError | TimeoutError, ask: str | None = None) -> Problem:
    """What the client's errors mean to somebody who asked over HTTP.

    1. Overloaded, ClientClosed: nothing was sent.
    2. OutcomeUnknown: of a command, never of a read.
    3. All others come from reads.
    """
    if isinstance(error, Overloaded | ClientClosed):
        return problem(503, "overloaded", str(error), retry_after_s=RETRY_AFTER_S)
    if isinstance(error, OutcomeUnknown) and ask is not None:
        return problem(504, "outcome_unknown", str(error), ask=ask)
    known = isinstance(error, NodeUnavailable | DeadlineExceeded)
    return problem(503, "unavailable", str(error) if known else "", retry_after_s=RETRY_AFTER_S)
