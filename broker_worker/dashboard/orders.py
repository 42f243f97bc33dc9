"""Revoking from a page: the order, what is said about it afterwards, and where the browser goes then."""

import getpass
from typing import Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse

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
        HTTPException: 400 without a reason.
        BrokerError: if the order could not be made durable; it is then not in force.
    """
    reason = reason_of(request)
    problem = await _order(request, kind, subject, version, reason)
    what = f"{kind} {subject}" + ("" if version is None else f", version {version},")
    tell(request, f"Revoked {what}. {problem or _IN_FORCE}")


async def revoke_leases(request: Request, lease_ids: list[str], more: int) -> None:
    """End leases for the reason in the form, each by an order of its own.

    Args:
        request: the post.
        lease_ids: which.
        more: how many there are besides.

    Raises:
        HTTPException: 400 without a reason.
        BrokerError: if an order could not be made durable; those before it are in force.
    """
    reason = reason_of(request)
    problem = ""
    for lease_id in lease_ids:
        problem = await _order(request, "lease", lease_id, None, reason) or problem
    rest = f" {more} more are held: repeat it." if more else ""
    tell(request, f"Ended {len(lease_ids)} leases.{rest} {problem or _IN_FORCE}")


async def _order(request: Request, kind: Kind, subject: str, version: str | None, reason: str) -> str:
    """Give one order; what is to be said if other hosts did not hear of it."""
    context = context_of(request)
    try:
        await context.revoke(context.settings, kind, subject, version=version, reason=reason, by=_operator())
    except NotAnnouncedError as error:
        return f"{error}; {error.hint}."
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
