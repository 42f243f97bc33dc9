"""What a client is told when it gets nothing: `application/problem+json` (RFC 9457) with the broker's stable codes."""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from starlette.responses import JSONResponse

from agent_sdk.errors import NotGranted, Refusal, Unavailable
from agent_sdk.wire.errors import Code
from broker_worker.problem_details import MEDIA_TYPE, members, retry_header

APPROVAL_SECONDS: Final = 5
"""When to ask again for what people have to approve."""
UNAVAILABLE_SECONDS: Final = 1
CHALLENGE: Final = 'WPT, Bearer realm="secret-broker"'
"""What `WWW-Authenticate` says, whatever was wrong with what was shown (RFC 9110, section 11.6.1)."""

_STATUS: Final[Mapping[Code, int]] = {
    # Of several codes the first here decides: what asking again does not change comes before what it may.
    Code.INVALID: 400,
    Code.TOO_LARGE: 413,
    Code.UNAUTHENTICATED: 401,
    Code.EXPIRED: 401,
    Code.REVOKED: 403,
    Code.DENIED: 403,
    Code.APPROVAL_DENIED: 403,
    Code.APPROVAL_EXPIRED: 403,
    Code.CONFLICT: 409,
    Code.APPROVAL_PENDING: 409,
    Code.RATE_LIMITED: 429,
    Code.AUDIT_UNAVAILABLE: 503,
    Code.UNAVAILABLE: 503,
}
_DETAIL: Final[Mapping[Code, str]] = {
    Code.INVALID: "the broker found the request invalid",
    Code.TOO_LARGE: "the request or a value is too large",
    Code.UNAUTHENTICATED: "show a good token, the agent and run that it is for, and a proof where one is required",
    Code.EXPIRED: "what was shown is over: start the run again, rotate the token, or make a new proof",
    Code.REVOKED: "revoked; it is served no more",
    Code.DENIED: "the policy does not allow it, or there is no such name",
    Code.APPROVAL_DENIED: "a person refused it",
    Code.APPROVAL_EXPIRED: "nobody approved it in time; ask again",
    Code.CONFLICT: "the place does not hold what the request expects",
    Code.APPROVAL_PENDING: "a person has to approve it first; ask for the same again",
    Code.RATE_LIMITED: "too many requests",
    Code.AUDIT_UNAVAILABLE: "the broker cannot write its audit and releases nothing; tell its operator",
    Code.UNAVAILABLE: "the broker or its vault cannot serve now; ask again later",
}


class Problem(Exception):  # noqa: N818  # RFC 9457 calls it a problem
    """A request that gets no secret.

    Args:
        status: the HTTP status.
        code: a stable slug.
        detail: what was found and what to do; never anything of the request's own text.
        retry_after: seconds after which asking again may help.
        refusals: the names that were refused.
        headers: further header fields.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        retry_after: int | None = None,
        refusals: Sequence[Refusal] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.retry_after, self.refusals, self.headers = retry_after, tuple(refusals), dict(headers or {})

    def response(self, request_id: str) -> JSONResponse:
        """The answer."""
        content = {**members(self.status, self.code, self.detail), "requestId": request_id}
        if self.refusals:
            content["refusals"] = [_refusal(each) for each in self.refusals]
        headers = self.headers | retry_header(self.retry_after)
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = CHALLENGE
        return JSONResponse(content, self.status, headers, MEDIA_TYPE)


def unauthenticated() -> Problem:
    """The one answer to whoever shows nothing good."""
    return _of_code(Code.UNAUTHENTICATED, None, ())


def not_granted(error: NotGranted) -> Problem:
    """What the broker refused, or that there was no answer.

    The status is that of the refusal that asking again would help least.
    """
    if isinstance(error, Unavailable) and error.code != Code.AUDIT_UNAVAILABLE:
        return _of_code(Code.UNAVAILABLE, error.retry_after, error.refusals)
    codes = {refusal.code for refusal in error.refusals} or {error.code}
    decisive = next((code for code in _STATUS if code in codes), Code.UNAVAILABLE)
    return _of_code(decisive, error.retry_after, error.refusals)


def _of_code(code: Code, retry_after: float | None, refusals: Sequence[Refusal]) -> Problem:
    # An unknown token must look alike whatever names were asked for, so a refusal of who asks names none.
    shown = () if _STATUS[code] == HTTPStatus.UNAUTHORIZED else refusals
    return Problem(_STATUS[code], code, _DETAIL[code], retry_after=_seconds(code, retry_after), refusals=shown)


def _seconds(code: Code, retry_after: float | None) -> int | None:
    if code == Code.APPROVAL_PENDING:
        return APPROVAL_SECONDS
    if code == Code.RATE_LIMITED:
        return max(1, math.ceil(retry_after or 0))
    return UNAVAILABLE_SECONDS if _STATUS[code] == HTTPStatus.SERVICE_UNAVAILABLE else None


def _refusal(refusal: Refusal) -> dict[str, object]:
    shown: dict[str, object] = {"name": refusal.name, "code": refusal.code, "detail": _DETAIL[refusal.code]}
    if refusal.retry_after is not None:
        pending = refusal.code == Code.APPROVAL_PENDING  # then it is how long people can still decide
        shown["approvableForSeconds" if pending else "retryAfterSeconds"] = math.ceil(refusal.retry_after)
    if refusal.approval is not None:
        shown["approval"] = refusal.approval
    return shown
