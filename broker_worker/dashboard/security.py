"""Who may reach a page at all: the checks that hold for every route, before any of them runs.

- The Host header names this dashboard: another name that resolves to 127.0.0.1 (DNS rebinding) is refused.
- Whatever is not a plain read has an Origin header that is this very host, and a form token of the session (CSRF).
- Everything but the login and the static files needs a session.
- Every answer carries a policy under which a browser runs and shows nothing but what this package ships.
"""

import secrets
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send

from broker_worker.dashboard.context import Context, session_of

MAX_BODY: Final = 64 * 1024
"""Largest body of a request, bytes."""
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    # `no-referrer` would make browsers send `Origin: null` with forms (Fetch, "append a request Origin header").
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "publickey-credentials-get=(self), camera=(), microphone=(), geolocation=(), usb=()",
    "Cache-Control": "no-store",
}
_ADDRESSES: Final = frozenset({"127.0.0.1", "[::1]"})
_LOCAL_NAMES: Final = _ADDRESSES | {"localhost"}
_READS: Final = frozenset({"GET", "HEAD"})
_WITHOUT_LOGIN: Final = ("/login", "/static/")
BY_ITSELF: Final = frozenset({"/live/stream", "/approvals/stream"})
"""What a page asks for while nobody touches it: like whatever htmx fetches, it keeps no session alive."""


class Gate:
    """The ASGI application in front of all others.

    Args:
        app: the application behind it.
        context: who is logged in, and where browsers visit.
        ask_for_login: the page for somebody who is not.
    """

    def __init__(self, app: Starlette, context: Context, ask_for_login: Callable[[Request], Response]) -> None:
        self._app = app
        self._context = context
        self._ask_for_login = ask_for_login
        self._hosts = _LOCAL_NAMES | {_name_of(urlsplit(context.origin).netloc)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here (ASGI's protocol)."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":  # there is no web socket here: without an answer the server refuses it

            async def send_with_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    headers = MutableHeaders(scope=message)
                    for name, value in _HEADERS.items():
                        headers.setdefault(name, value)
                await send(message)

            scope["app"] = self._app
            request = Request(scope)
            await (self._refusal(request) or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        host, is_read = request.headers.get("host", ""), request.method in _READS
        name = _name_of(host)
        if name not in self._hosts or len(request.headers.getlist("host")) != 1:
            return _refused(f"this is not the dashboard of {name[:64]!r}; visit {self._context.origin}", 421)
        if not is_read and not self._is_own_origin(request.headers, host):
            return _refused("this was sent by another site, so it was not done", 403)
        if not is_read and not _has_short_body(request.headers):
            return _refused(f"a request says how long it is, and has at most {MAX_BODY} bytes", 413)
        if "\0" in request.scope["path"] or b"%00" in request.scope["query_string"]:
            return _refused("an address has no null character", 400)
        if name in _ADDRESSES and is_read:
            # WebAuthn knows host names only, and a cookie of one host is none of the other's.
            return RedirectResponse(str(request.url.replace(hostname="localhost")), 307)
        return self._without_login(request)

    def _without_login(self, request: Request) -> Response | None:
        cookie = request.cookies.get(self._context.cookie)
        is_use = request.url.path not in BY_ITSELF and "hx-request" not in request.headers
        session = self._context.sessions.find(cookie, self._context.clock(), is_use=is_use)
        request.state.session = session
        if session is not None or request.url.path.startswith(_WITHOUT_LOGIN):
            return None
        return self._ask_for_login(request)

    def _is_own_origin(self, headers: Headers, host: str) -> bool:
        own = f"http://{host}" if _name_of(host) in _LOCAL_NAMES else self._context.origin
        return headers.getlist("origin") == [own] and headers.get("sec-fetch-site", "same-origin") == "same-origin"


async def check_form_token(request: Request) -> None:
    """Refuse a post without the form token of its session, in the field `csrf`, and keep its form for the page.

    Raises:
        HTTPException: 403.
    """
    session = session_of(request)
    form = {name: value for name, value in (await request.form()).multi_items() if isinstance(value, str)}
    request.state.form = form
    given = form.pop("csrf", "")
    if session is None or not secrets.compare_digest(given.encode(), session.csrf.encode()):
        raise HTTPException(403, "the form is not one of this session; load the page again, then repeat what you did")


def form_of(request: Request) -> dict[str, str]:
    """The fields of a post whose form token was checked."""
    form: dict[str, str] = request.state.form
    return form


def _name_of(host: str) -> str:
    """The Host header without its port, in lower case."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _has_short_body(headers: Headers) -> bool:
    if "transfer-encoding" in headers:
        return False  # then the length would not count (RFC 9112, section 6.3)
    length = headers.get("content-length", "")
    return length.isdecimal() and len(length) <= 8 and int(length) <= MAX_BODY


def _refused(text: str, status: int) -> Response:
    return PlainTextResponse(text + "\n", status)
