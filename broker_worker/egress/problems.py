"""What an agent is told when its call is not made: problem details (RFC 9457) with a stable `code`."""

import math
from collections.abc import Mapping, Sequence

import msgspec
from aiohttp.web import Response

from agent_sdk.errors import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalPending,
    Expired,
    InvalidRequest,
    NotGranted,
    RateLimited,
    Revoked,
    Unauthenticated,
    Unavailable,
)
from broker_worker.problem_details import MEDIA_TYPE, members, retry_header

APPROVAL_AGAIN_SECONDS = 15
"""When to ask again while people have not decided: they were waited for already."""
_UNAVAILABLE_AGAIN_SECONDS = 2


class Refusal(Exception):  # noqa: N818  # what is refused is the call
    """A call that is not made, or whose answer is not passed on.

    Args:
        status: of the answer.
        code: a slug that stays the same; the audit has it as the call's `fault`.
        detail: a sentence for people, that repeats nothing of the request.
        retry_after: whole seconds after which trying again may help; None if it would not, or nobody knows.
        approvals: the ids of what people have to decide first.
        headers: of the answer.
        close: whether the connection cannot go on, because what follows on it would be misread.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        retry_after: int | None = None,
        *,
        approvals: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        self.approvals = tuple(approvals)
        self.headers = dict(headers or {})
        self.close = close

    def response(self) -> Response:
        """The answer."""
        document = members(self.status, self.code, self.detail)
        if self.approvals:
            document["approvals"] = self.approvals
        headers = {**self.headers, "Content-Type": MEDIA_TYPE, "Cache-Control": "no-store", "Server": "secret-broker"}
        headers |= retry_header(self.retry_after)
        response = Response(status=self.status, body=msgspec.json.encode(document), headers=headers)
        if self.close:
            response.force_close()
        return response


def unauthenticated(detail: str) -> Refusal:
    """The caller has to say who it is; git sends its password only after such a challenge (RFC 9110, 11.6.1)."""
    challenge = {"WWW-Authenticate": 'Bearer realm="secret-broker", Basic realm="secret-broker"'}
    return Refusal(401, "unauthenticated", detail, headers=challenge)


def refused_by_broker(error: NotGranted) -> Refusal:
    """What the broker's refusal is for the agent."""
    again = None if error.retry_after is None else max(1, math.ceil(error.retry_after))
    if isinstance(error, ApprovalPending):
        detail = "people have to approve this first and have not decided yet: ask again"
        ids = sorted({each.approval for each in error.refusals if each.approval is not None})
        return Refusal(403, "approval_pending", detail, APPROVAL_AGAIN_SECONDS, approvals=ids)
    if isinstance(error, RateLimited):
        return Refusal(429, "rate_limited", "too many requests for this secret", again or 1)
    if isinstance(error, Unavailable):
        detail = "the broker or its vault cannot serve now: try again later"
        return Refusal(503, str(error.code), detail, again or _UNAVAILABLE_AGAIN_SECONDS)
    if isinstance(error, Unauthenticated):
        return unauthenticated("the broker does not accept this identity token")
    if isinstance(error, Expired):
        return unauthenticated("this run's identity token is over: start the run again")
    return Refusal(*next((words for kind, words in _FINAL if isinstance(error, kind)), _DENIED))


_DENIED = (403, "denied", "the policy does not let this run use the secret of this route by the proxy")
_FINAL: tuple[tuple[type[NotGranted], tuple[int, str, str]], ...] = (
    (Revoked, (403, "revoked", "this run, or what it held, was revoked")),
    (ApprovalDenied, (403, "approval_denied", "people refused this")),
    (ApprovalExpired, (403, "approval_expired", "nobody approved this in time")),
    (InvalidRequest, (502, "invalid", "the broker found the proxy's request invalid")),
)
