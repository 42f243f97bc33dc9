"""Approvals: what waits for a person, everything that the person signs, and the ceremony of signing it.

A decision is made by the person's own authenticator, over a challenge that is the decision's digest. This process
hands out the challenge and passes the signed decision on; it could not make one (docs/protocol.md, "Approvals").
"""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from typing import Any, Final, cast, get_args

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from broker_worker.core.approvals import (
    MAX_REASON,
    ApprovalRequest,
    Decision,
    Verdict,
    WebAuthnProof,
    decision_challenge,
    decode_decision,
    encode_decision,
)
from broker_worker.core.approvers import Approver, WebAuthnKey
from broker_worker.dashboard.context import Context, context_of, session_of
from broker_worker.dashboard.rendering import length, page, render
from broker_worker.dashboard.security import form_of
from broker_worker.dashboard.sessions import Asked, Session
from broker_worker.people.inbox import Item

CEREMONY_MS: Final = 3 * 60 * 1000
"""How long a person may take to sign, ms."""
SETTLED: Final = 30
"""How many settled requests the page shows."""
_POLL_SECONDS = 0.25
_RETRY_MS = 1000


def approvals(request: Request) -> Response:
    """The page: what waits, then what was settled lately."""
    feed = context_of(request).approvals
    items, version = feed.items, feed.version
    waiting = [item for item in items if item.state == "waiting"]
    settled = [item for item in items if item.state != "waiting"]
    return page(
        request,
        "approvals.html",
        waiting=[_card(request, item) for item in waiting],
        settled=[_card(request, item) for item in settled[:SETTLED]],
        more=max(0, len(settled) - SETTLED),
        version=version,
        problem=feed.problem,
        rp_id=_rp_id(context_of(request)),
    )


def one(request: Request) -> Response:
    """Where notifications lead: to the request's card on the page."""
    return RedirectResponse(f"/approvals#matter-{_item(request).approval_id}", 303)


def count(request: Request) -> Response:
    """How many wait, for the navigation of every page."""
    return page(request, "approvals_count.html")


def stream(request: Request) -> Response:
    """Requests that are new or have changed, each as its card, from the page's version on."""
    text = request.headers.get("last-event-id") or request.query_params.get("after", "")
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise HTTPException(400, "the stream begins at the version of a page; load the page again")
    return EventSourceResponse(_follow(request, int(text)), ping=15)


async def _follow(request: Request, version: int) -> AsyncIterator[ServerSentEvent]:
    context, session = context_of(request), session_of(request)
    feed = context.approvals
    version = min(version, feed.version)
    yield ServerSentEvent(comment="following", retry=_RETRY_MS)
    while session is not None and context.sessions.goes_on(session, context.clock()):
        if feed.version > version:
            changed, version = feed.changed_since(version), feed.version
            for item in changed:
                text = render(request, "approval.html", at="/approvals", card=_card(request, item))
                yield ServerSentEvent(text, event="matter", id=str(version))
        await asyncio.sleep(_POLL_SECONDS)


async def challenge(request: Request) -> Response:
    """What the person's authenticator is to sign for a verdict, and which credentials may."""
    context, session, form = context_of(request), _session(request), form_of(request)
    item = _item(request)
    verdict, reason = _verdict(form), form.get("reason", "").strip()
    if len(reason) > MAX_REASON or (verdict == "deny" and not reason):
        raise HTTPException(400, f"say why, in 1 to {MAX_REASON} characters")
    context.approvals.check(item, verdict)
    person = next((each for each in _deciders(context, item.request) if each.name == form.get("approver")), None)
    if person is None:
        raise HTTPException(403, f"{form.get('approver', '')[:64]!r} may not decide this; the policy names who may")
    keys = _keys(context, person)
    if not keys:
        raise HTTPException(
            409, f"{person.name} has no passkey for {_rp_id(context)}; `secret-broker approvers enrol` makes one"
        )
    asked = Asked(item.approval_id, item.request.digest(), verdict, person.name, context.clock(), reason)
    digest = decision_challenge(asked.request, verdict, asked.approver, asked.decided_at, reason)
    session.ask(digest, asked)
    session.approver = person.name
    return JSONResponse(
        {
            "challenge": _encode(digest),
            "rpId": _rp_id(context),
            "credentials": [_encode(key.credential_id) for key in keys],
            "timeout": CEREMONY_MS,
        }
    )


async def decide(request: Request) -> Response:
    """Take what the authenticator signed, check it as a worker will, and hand it over; the answer is the card."""
    context, session, form = context_of(request), _session(request), form_of(request)
    item = _item(request)
    asked = session.asked.pop(_decode(form, "challenge"), None)
    if asked is None or asked.approval_id != item.approval_id or asked.request != item.request.digest():
        raise HTTPException(409, "this session was not asked to sign that; begin again")
    if not 0 <= context.clock() - asked.decided_at <= CEREMONY_MS:
        raise HTTPException(409, "signing took too long; begin again")
    decision = Decision(
        request=asked.request,
        verdict=asked.verdict,
        approver=asked.approver,
        decided_at=asked.decided_at,
        reason=asked.reason,
        proof=WebAuthnProof(
            credential_id=_decode(form, "credential_id"),
            authenticator_data=_decode(form, "authenticator_data"),
            client_data_json=_decode(form, "client_data_json"),
            signature=_decode(form, "signature"),
        ),
    )
    # As workers will read it: a part that is too long is refused here already.
    item = await context.approvals.submit(decode_decision(encode_decision(decision)))
    return page(request, "approval.html", card=_card(request, item))


def _card(request: Request, item: Item) -> dict[str, Any]:
    """What a card shows: the request, what came of it, and who may decide it here."""
    context, session = context_of(request), session_of(request)
    deciders = _deciders(context, item.request)
    if item.state == "waiting":
        deciders = [person for person in deciders if person.name not in item.matter.decisions]
    with_passkey = [person.name for person in deciders if _keys(context, person)]
    return {
        "item": item,
        "request": item.request,
        "decisions": list(item.matter.decisions.values()),
        "deciders": with_passkey,
        "without": [person.name for person in deciders if person.name not in with_passkey],
        "chosen": session.approver if session is not None else "",
        "good_for": _good_for(item.request),
    }


def _good_for(request: ApprovalRequest) -> str:
    """What an approval would allow, in words."""
    if request.grant == "once":
        return "one release, once"
    if request.grant == "run":
        return "this run, as often as it asks, until it ends"
    return f"this run, as often as it asks, for {length((request.grant_ms or 0) // 1000)} from the approval on"


def _deciders(context: Context, request: ApprovalRequest) -> list[Approver]:
    people = context.configuration().approvers.people.values()
    return sorted((person for person in people if person.is_one_of(request.approvers)), key=lambda each: each.name)


def _keys(context: Context, person: Approver) -> list[WebAuthnKey]:
    rp_id = _rp_id(context)
    return [key for key in person.keys if isinstance(key, WebAuthnKey) and key.rp_id == rp_id]


def _rp_id(context: Context) -> str:
    return context.configuration().dashboard.rp_id


def _item(request: Request) -> Item:
    item = context_of(request).approvals.find(request.path_params["approval_id"])
    if item is None:
        raise HTTPException(404, "there is no such request for approval; it may be long over")
    return item


def _session(request: Request) -> Session:
    session = session_of(request)
    if session is None:
        raise HTTPException(401)
    return session


def _verdict(form: dict[str, str]) -> Verdict:
    for verdict in get_args(Verdict):
        if form.get("verdict") == verdict:
            return cast("Verdict", verdict)
    raise HTTPException(400, "the verdict is `approve` or `deny`")


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(form: dict[str, str], name: str) -> bytes:
    text = form.get(name, "")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise HTTPException(400, f"{name} is not base64url") from None


routes = [
    Route("/approvals", approvals, methods=["GET"]),
    Route("/approvals/count", count, methods=["GET"]),
    Route("/approvals/stream", stream, methods=["GET"]),
    Route("/approvals/{approval_id}", one, methods=["GET"]),
    Route("/approvals/{approval_id}/challenge", challenge, methods=["POST"]),
    Route("/approvals/{approval_id}/decision", decide, methods=["POST"]),
]
