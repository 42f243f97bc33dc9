"""Who may reach a route at all: the checks that hold for every request, before any of them is looked at further.

- The Host header is this gateway's own: another name that resolves to 127.0.0.1 (DNS rebinding) is refused.
- Nothing that a browser sends from a page is served: whatever has an Origin, or a Sec-Fetch-Site other than `none`.
  No answer ever has a header that would let a page read it.
- A body says how long it is (so that nothing before us can take its end for elsewhere) and is short.
- One connection carries one request, and no answer is kept.
"""

from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker_worker.gateway.problems import Problem

MAX_BODY: Final = 64 * 1024
"""Largest body of a request, bytes."""
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Gate:
    """The ASGI application in front of all others.

    Args:
        app: the application behind it.
        origins: what clients may call the gateway, such as `http://127.0.0.1:7700`.
        new_id: makes the id by which an answer can be found in the log.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str], new_id: Callable[[], str]) -> None:
        self._app, self._new_id = app, new_id
        self._hosts = frozenset(host for origin in origins for host in _hosts(origin))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here (ASGI's protocol)."""
        if scope["type"] != "http":  # there is no web socket here: without an answer the server refuses it
            return
        scope.setdefault("state", {})["request_id"] = request_id = self._new_id()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        problem = self._problem(Headers(scope=scope), scope)
        answer = self._app if problem is None else problem.response(request_id)
        await answer(scope, receive, send_with_headers)

    def _problem(self, headers: Headers, scope: Scope) -> Problem | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            return Problem(421, "misdirected", f"this is another server than the one that was asked for; it is {names}")
        if "origin" in headers or headers.getlist("sec-fetch-site") not in ([], ["none"]):
            return Problem(403, "from_a_browser", "web pages are not served; ask from a program")
        if "transfer-encoding" in headers:
            return Problem(411, "length_required", "a body says how long it is: send Content-Length and no chunks")
        length = headers.getlist("content-length")
        if len(length) > 1 or not (length or ["0"])[0].isdecimal():
            return Problem(400, "invalid", "Content-Length must be one number")
        if length and (len(length[0]) > len(str(MAX_BODY)) or int(length[0]) > MAX_BODY):
            return Problem(413, "too_large", f"a body has at most {MAX_BODY} bytes")
        if not length and scope["method"] == "POST":
            return Problem(411, "length_required", "a body says how long it is: send Content-Length")
        return None


def _hosts(origin: str) -> tuple[str, ...]:
    """How a client writes an origin into the Host header: without the port if it is the scheme's own."""
    netloc = urlsplit(origin).netloc
    return (netloc, netloc.removesuffix(":80")) if netloc.endswith(":80") else (netloc,)
