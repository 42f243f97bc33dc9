"""From cases to sealed replies. What leaves here was recorded before."""

from typing import Literal

from agent_sdk.wire.codec import MAX_PLAINTEXT
from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.messages import REPLY, Reply, Result
from broker_worker.pipeline.batch import Ask, Case


def _result(case: Case) -> Result:
    if case.code is not None:
        approval = None if case.approval is None else case.approval.request.digest()[:8]
        there = case.version if case.code is Code.CONFLICT else None  # what the writer may replace instead
        return Result(
            case.name, "refused", code=case.code, version=there, retry_after=case.retry_after, approval=approval
        )
    return Result(
        case.name,
        "granted",
        value=case.value,
        expires_at=case.expires_at,
        lease=None if case.holding is None else case.holding.lease.token,
        source=case.source,
        version=case.version,
        age_s=case.age_s,
    )


def encode_reply(ask: Ask) -> bytes:
    """The plaintext of the reply to an ask whose outcome is settled.

    Raises:
        WireError: code `too_large` if the values together do not fit.
    """
    plaintext = REPLY.encode(_reply(ask))
    if len(plaintext) >= MAX_PLAINTEXT:  # padding adds a byte at least
        raise WireError("the values together do not fit into a reply", code=Code.TOO_LARGE, reason="too_large")
    return plaintext


def _reply(ask: Ask) -> Reply:
    request_id = ask.request.request_id
    if ask.code is not None:
        return Reply(request_id, "refused", code=ask.code, retry_after=ask.retry_after)
    results = tuple([_result(case) for case in ask.cases])
    granted = [case.code for case in ask.cases].count(None)
    status: Literal["ok", "partial", "refused"] = "partial" if granted else "refused"
    if granted == len(results):
        status = "ok"
    return Reply(request_id, status, results=results, names=ask.names, ways=ask.ways)


def encode_refusal(ask: Ask, code: Code, retry_after: int | None = None) -> bytes:
    """The plaintext of a reply that says nothing but a code, and perhaps after how many ms to ask again."""
    return REPLY.encode(Reply(ask.request.request_id, "refused", code=code, retry_after=retry_after))
