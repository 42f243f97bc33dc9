"""One person's enrolment in the browser: a server for one link, which ends when it was used.

The process that serves the link made the challenge, verifies the answer and writes `approvers.yaml`. The dashboard,
which many look at, can therefore not make anybody an approver.
"""

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from html import escape
from importlib.resources import files
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from broker_worker.core.approvers import Key, WebAuthnKey
from broker_worker.core.configuration import Dashboard
from broker_worker.core.errors import ApprovalError, SetupError
from broker_worker.people.ceremonies import registration_options, verify_registration

_MAX_ANSWER = 64 * 1024
_MOST_ATTEMPTS = 5
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "publickey-credentials-create=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_PARTS: Final = {"enrol.js": "text/javascript", "enrol.css": "text/css"}


class Enrolment:
    """What one link is for.

    Args:
        name: the person, in canonical form.
        dashboard: where the person will decide; it must be visited as `localhost`, like the link.
        known: the keys that the person has.

    Raises:
        SetupError: if a credential made here could not be used at the dashboard.
    """

    def __init__(self, name: str, dashboard: Dashboard, known: Sequence[Key] = ()) -> None:
        if dashboard.rp_id != "localhost":
            raise SetupError(
                f"the dashboard is visited at {dashboard.origin}, where a credential made at localhost does not count",
                hint="leave `origin` out of the dashboard's section, or let the person approve in the terminal",
            )
        self.name = name
        self.token = secrets.token_urlsafe(32)
        self.challenge = secrets.token_bytes(32)
        self.known = [key for key in known if isinstance(key, WebAuthnKey)]
        self.key: WebAuthnKey | None = None
        self.attempts = 0
        self.ended = asyncio.Event()

    def options(self) -> str:
        """What the browser needs to make the credential, as JSON."""
        return registration_options(self.name, "localhost", self.challenge, self.known)

    def finish(self, answer: str, origin: str) -> None:
        """Take the browser's answer; the link then works no more.

        Raises:
            ApprovalError: if it is not the credential that was asked for; after a few of those the link ends as well.
                Or if the link has ended, also while this answer was on its way.
        """
        if self.ended.is_set():
            raise ApprovalError("the link was used already, or its time is over")
        self.attempts += 1
        try:
            self.key = verify_registration(answer, self.challenge, "localhost", origin)
        finally:
            if self.key is not None or self.attempts >= _MOST_ATTEMPTS:
                self.ended.set()


def enrolment_app(enrolment: Enrolment, origin: str) -> Starlette:
    """The pages of one link.

    Args:
        enrolment: what the link is for.
        origin: where they are visited, such as `http://localhost:41234`; under any other name nothing is served.
    """
    pages = files("broker_worker.people") / "pages"

    def guarded(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            """Whoever does not know the link learns nothing, under whichever host name the page was reached."""
            knows = secrets.compare_digest(request.path_params["token"].encode(), enrolment.token.encode())
            if f"http://{request.headers.get('host', '')}" != origin or not knows or enrolment.ended.is_set():
                response: Response = PlainTextResponse("there is nothing here\n", 404)
            else:
                response = await answer(request)
            response.headers.update(_HEADERS)
            return response

        return endpoint

    async def page(_: Request) -> Response:
        text = (pages / "enrol.html").read_text("utf-8").replace("{{name}}", escape(enrolment.name))
        return Response(text, media_type="text/html")

    async def part(request: Request) -> Response:
        name = request.path_params["part"]
        if name not in _PARTS:
            return PlainTextResponse("there is nothing here\n", 404)
        return Response((pages / name).read_text("utf-8"), media_type=_PARTS[name])

    async def options(_: Request) -> Response:
        return Response(enrolment.options(), media_type="application/json")

    async def finish(request: Request) -> Response:
        if request.headers.get("origin") != origin or request.headers.get("content-type") != "application/json":
            return PlainTextResponse("this did not come from the page\n", 403)
        answer = await _body(request)
        if answer is None:
            return PlainTextResponse("the answer is too long\n", 413)
        try:
            enrolment.finish(answer.decode("utf-8", "replace"), origin)
        except ApprovalError as error:
            return PlainTextResponse(f"{error}\n", 400)
        return PlainTextResponse("registered\n")

    return Starlette(
        routes=[
            Route("/enrol/{token}/", guarded(page)),
            Route("/enrol/{token}/options", guarded(options)),
            Route("/enrol/{token}/finish", guarded(finish), methods=["POST"]),
            Route("/enrol/{token}/{part}", guarded(part)),
        ]
    )


async def _body(request: Request) -> bytes | None:
    """The body; None if it is longer than any credential."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_ANSWER:
            return None
    return body


async def serve_enrolment(enrolment: Enrolment, show: Callable[[str], None], *, seconds: float) -> WebAuthnKey:
    """Serve the link on a port of 127.0.0.1 until it was used, the time is over, or too many answers were wrong.

    Args:
        enrolment: what the link is for.
        show: is given the link.
        seconds: how long it may be used.

    Returns:
        The person's new key.

    Raises:
        SetupError: if nobody enrolled.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = f"http://localhost:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            enrolment_app(enrolment, origin),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        show(f"{origin}/enrol/{enrolment.token}/")
        ended = asyncio.create_task(enrolment.ended.wait())
        try:
            await asyncio.wait({serving, ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            enrolment.ended.set()
            server.should_exit = True
            await asyncio.gather(serving, ended)
    if enrolment.key is None:
        why = "too many answers were wrong" if enrolment.attempts >= _MOST_ATTEMPTS else "nobody used the link in time"
        raise SetupError(f"{enrolment.name} is not enrolled: {why}", hint="run the command again for a new link")
    return enrolment.key
