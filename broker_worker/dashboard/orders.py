"""Revoking from a page: the order, what is said about it afterwards, and where the browser goes then."""

import getpass
from collections.abc import Awaitable
from typing import Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse

from agent_sdk.wire.errors import WireError
from broker_worker.core.revocations import Kind
from broker_worker.dashboard.context import context_of, session_of
from broker_worker.dashboard.security import form_of
from broker_worker.people.revoking import NotAnnouncedError

MAX_REASON: Final = 256
_IN_FORCE = "Workers refuse it from now on; this page shows that as soon as the ledger has read it."
_BACK: Final = ("/runs/", "/secrets/", "/agents/", "/leases")


def reason_of(request: Request) -> str:
    """Why, in the words of whoever revokes.

    Raises:
        HTTPException: 400 if nothing was written, or too much.
    """
    reason = form_of(request).get("reason", "").strip()
    if not 0 < len(reason) <= MAX_REASON:
        raise HTTPException(400, f"nothing was revoked: write a reason of 1 to {MAX_REASON} characters")
    return reason


async def revoke(request: Request, kind: Kind, subject: str, *, version: str | None = None) -> None:
    """Revoke a subject for the reason in the form, and note it for the page that is shown next.

    Raises:
        HTTPException: 400 without a reason, or for what cannot be a subject.
        BrokerError: if the order could not be made durable; it is then not in force.
    """
    reason, context = reason_of(request), context_of(request)
    order = context.revoke(context.settings, kind, subject, version=version, reason=reason, by=_operator())
    problem = await _given(order)
    what = f"{kind} {subject}" + ("" if version is None else f", version {version},")
    tell(request, f"Revoked {what}. {problem or _IN_FORCE}")


async def revoke_leases(request: Request, lease_ids: list[str], more: int) -> None:
    """End leases for the reason in the form, all by one write.

    Args:
        request: the post.
        lease_ids: which.
        more: how many there are besides.

    Raises:
        HTTPException: 400 without a reason.
        BrokerError: if the orders could not be made durable; none need be in force then.
    """
    reason, context = reason_of(request), context_of(request)
    problem = await _given(context.revoke_all(context.settings, "lease", lease_ids, reason=reason, by=_operator()))
    count = "1 lease" if len(lease_ids) == 1 else f"{len(lease_ids)} leases"
    rest = f" {more} more are held: repeat it." if more else ""
    tell(request, f"Ended {count}.{rest} {problem or _IN_FORCE}")


async def _given(order: Awaitable[object]) -> str:
    """Wait until an order was given; what is to be said if other hosts did not hear of it.

    Raises:
        HTTPException: 400 for what cannot be a subject.
        BrokerError: if it could not be made durable.
    """
    try:
        await order
    except NotAnnouncedError as error:
        return f"{error}; {error.hint}."
    except WireError as error:
        raise HTTPException(400, f"nothing was revoked: {error}") from None
    return ""


def tell(request: Request, notice: str) -> None:
    """Have the next page of this session say something, once."""
    session = session_of(request)
    if session is not None:
        session.notice = notice


def notice_of(request: Request) -> str:
    """What the page is to say about what was done just now; only once."""
    session = session_of(request)
    if session is None:
        return ""
    notice, session.notice = session.notice, ""
    return notice


def back(request: Request, otherwise: str) -> RedirectResponse:
    """To the page that the form names in `back`, if it is one of ours that can revoke."""
    wanted = form_of(request).get("back", "")
    parts = urlsplit(wanted)
    is_ours = not parts.scheme and not parts.netloc and wanted.startswith(_BACK) and wanted.isprintable()
    return RedirectResponse(wanted if is_ours and "\\" not in wanted else otherwise, 303)


def _operator() -> str:
    """Who gives the order, as far as the program knows: whoever's login this process has."""
    try:
        return f"{getpass.getuser()} (dashboard)"
    except (OSError, KeyError, ImportError):  # no such user on this host; what is raised depends on the version
        return "dashboard"
