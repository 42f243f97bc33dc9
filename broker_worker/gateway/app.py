"""The application: three routes behind their guards."""

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agent_sdk.errors import LeaseExpired, NotGranted, Unavailable
from agent_sdk.secret import Secret
from broker_worker.core.configuration import ServerSettings
from broker_worker.core.shown_proofs import ShownProofs
from broker_worker.gateway.asking import Clients
from broker_worker.gateway.guards import MAX_BODY, Gate
from broker_worker.gateway.problems import UNAVAILABLE_SECONDS, Problem, not_granted, unauthenticated
from broker_worker.gateway.reading import check_media_type, read_subject, read_wanted

RESOLVE_PATH: Final = "/v1/secrets/resolve"
MAX_UNDER_WAY: Final = 64
"""How many requests may wait for the broker at once."""
BODY_SECONDS: Final = 10.0
"""How long a client may take to send its body."""
_log = structlog.get_logger(__name__)


class Gateway:
    """What the routes do.

    Args:
        clients: with whom the broker is asked.
        server: where clients of this host find us.
    """

    def __init__(self, clients: Clients, server: ServerSettings, body_seconds: float = BODY_SECONDS) -> None:
        self._clients, self._server, self._body_seconds = clients, server, body_seconds
        self._under_way = 0
        self._proofs = ShownProofs()

    def app(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route(RESOLVE_PATH, self._answering(self.resolve), methods=["POST"]),
            Route("/healthz", self._answering(self.healthz), methods=["GET"]),
            Route("/openapi.json", self._answering(self.openapi), methods=["GET"]),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: _unrouted})
        app.router.redirect_slashes = False
        return Gate(app, self._server.origins, lambda: f"req-{secrets.token_hex(8)}")

    async def resolve(self, request: Request) -> Response:
        """Serve all the names that were asked for, or none.

        Raises:
            Problem: what to answer in their place.
        """
        if request.scope["query_string"]:
            raise Problem(400, "invalid", "this takes no query: what is asked stands in the body")
        subject = read_subject(request.headers)
        check_media_type(request.headers)
        wanted = read_wanted(await self._body(request))
        if self._under_way >= MAX_UNDER_WAY:
            raise Problem(503, "unavailable", "too many requests are under way", retry_after=UNAVAILABLE_SECONDS)
        proof = subject.proof
        if proof is not None and not self._proofs.take(proof, time.time_ns() // 1_000_000):
            raise unauthenticated()
        self._under_way += 1
        try:
            client = await self._clients.current()
            found = await client.get_many(
                wanted.secrets,
                purpose=wanted.purpose,
                ttl=wanted.ttl_seconds,
                wait_for_approval=False,
                on_behalf_of=subject,
            )
            answer = _resolved(found, request.state.request_id)
        except NotGranted as error:
            if proof is not None:
                self._proofs.give_back(proof, error.code)
            raise not_granted(error) from None
        except LeaseExpired:  # revoked, or over, in the moment between
            raise not_granted(Unavailable("what was granted is over already")) from None
        finally:
            self._under_way -= 1
        request.state.leases = [secret.lease_id.hex() for secret in found.values() if secret.lease_id is not None]
        return answer

    async def _body(self, request: Request) -> bytes:
        raw = bytearray()
        try:
            async with asyncio.timeout(self._body_seconds):
                async for chunk in request.stream():
                    raw += chunk
                    if len(raw) > MAX_BODY:
                        raise Problem(413, "too_large", f"a body has at most {MAX_BODY} bytes")
        except TimeoutError:
            raise Problem(408, "timeout", "the body did not come in time") from None
        return bytes(raw)

    async def healthz(self, _request: Request) -> Response:
        """Whether the gateway may ask the broker; nothing is asked for that.

        Raises:
            Problem: if its own credential is over.
        """
        if not self._clients.is_good:
            raise Problem(503, "unavailable", "the gateway's own credential is over", retry_after=UNAVAILABLE_SECONDS)
        return JSONResponse({"status": "ok"})

    async def openapi(self, _request: Request) -> Response:
        """The description of this interface (OpenAPI 3.1)."""
        return JSONResponse({**description(), "servers": [{"url": origin} for origin in self._server.origins]})

    def _answering(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Any]:
        """The endpoint, whose problems are answered and whose defects show nothing of the request."""

        async def answer(request: Request) -> Response:
            request_id = request.state.request_id
            try:
                response = await endpoint(request)
            except Problem as problem:
                _log.info("refused", request_id=request_id, status=problem.status, code=problem.code)
                return problem.response(request_id)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody is there to read it
            except Exception as error:  # noqa: BLE001  # its text, and a traceback's, could repeat what was sent
                _log.error("defect", request_id=request_id, kind=type(error).__name__)
                return Problem(500, "internal", "a defect of the gateway; its log names it").response(request_id)
            if leases := getattr(request.state, "leases", None):
                _log.info("resolved", request_id=request_id, leases=leases)
            return response

        return answer


def _resolved(found: Mapping[str, Secret], request_id: str) -> Response:
    return JSONResponse(
        {
            "resolved": {name: _shown(secret) for name, secret in found.items()},
            "cached": all(secret.source in ("cache", "stale") for secret in found.values()),
            "requestId": request_id,
        }
    )


def _shown(secret: Secret) -> dict[str, str]:
    """A value as JSON can hold it: text, or bytes in base64 where they are no text."""
    raw = secret.reveal_bytes()
    try:
        shown = {"value": raw.decode()}
    except UnicodeDecodeError:
        shown = {"value": base64.b64encode(raw).decode("ascii"), "encoding": "base64"}
    if secret.expires_at is not None:
        shown["expiresAt"] = _moment(secret.expires_at)
    return shown


def _moment(moment: datetime) -> str:
    """RFC 3339, in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _unrouted(request: Request, error: Exception) -> Response:
    """Another path, or another method than a path has."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = error.headers or {}
        problem = Problem(405, "method_not_allowed", "this path takes another method", headers=allowed)
    else:
        problem = Problem(404, "not_found", f"there is POST {RESOLVE_PATH}, GET /healthz and GET /openapi.json")
    return problem.response(request.state.request_id)


@cache
def description() -> dict[str, Any]:
    """The interface's description as it is kept beside this module, without where it is served."""
    text = (files("broker_worker.gateway") / "openapi.json").read_text(encoding="utf-8")
    parsed: dict[str, Any] = json.loads(text)
    return parsed
