"""`call_route`: a request through the egress proxy, which adds the credential; it never comes here."""

import secrets
from functools import partial
from typing import Annotated, Final

import anyio
import httpx2
import msgspec
from msgspec import Meta, Struct

from agent_sdk.credential import RunCredential
from agent_sdk.errors import InvalidRequest
from agent_sdk.mcp_server.arguments import CallRoute
from agent_sdk.mcp_server.asking import Asking
from agent_sdk.mcp_server.clipping import READ, shown
from agent_sdk.mcp_server.held_values import HeldValues
from agent_sdk.mcp_server.results import ADVICE, RouteResult, ToolRefused
from agent_sdk.secret import wall_clock
from agent_sdk.wire.errors import Code
from agent_sdk.wire.proof import sign_proof

PROOF_HEADER: Final = "workload-proof-token"
PROOF_LIFETIME: Final = 2 * 60 * 1000
"""How long a proof is good, in ms: longer than a proxy may hold a call back before it asks the broker."""
_OURS: Final = frozenset(
    {
        PROOF_HEADER,
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_HIDDEN: Final = frozenset({"set-cookie", "set-cookie2", "www-authenticate", "proxy-authenticate"})
_MOST_HEADERS: Final = 64
_MOST_TEXT: Final = 1024
_AGAIN_SECONDS: Final = 2.0


class _Problem(Struct):
    code: Annotated[str, Meta(pattern=r"^[a-z_]{1,64}\Z")]
    approvals: Annotated[list[Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]], Meta(max_length=64)] = []


_NO_PROBLEM: Final = _Problem("")


class Routes:
    """Calls routes of an egress proxy.

    Args:
        url: the proxy's address.
        credential: the run's; the proxy knows the run by its token.
        held: what must not be in an answer.
        audience: whom proofs of possession are made out to; empty if none are sent.
        transport: how requests travel, if not by HTTP.
    """

    def __init__(
        self,
        url: str,
        credential: RunCredential,
        held: HeldValues,
        audience: str = "",
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._credential = credential
        self._audience = audience
        self._held = held
        # No redirect is followed and no proxy of the environment used: the token is for this address only.
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {credential.token}"},
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def call(self, call: CallRoute, asking: Asking) -> RouteResult:
        """Make one request; once more and again while people decide whether the proxy may make it.

        Raises:
            InvalidRequest: if a header or the path cannot be sent.
            ToolRefused: if the proxy did not answer.
            InputNeeded: if the client has to be asked by the call's result.
        """
        result = await self._once(call)
        seconds = asking.seconds(call.wait_seconds)
        if result.refused == Code.APPROVAL_PENDING and seconds:
            work = partial(self._until_decided, call, seconds)
            result = await asking.meanwhile(work, result.approvals, call.purpose, seconds) or result
        if result.refused == Code.APPROVAL_PENDING:
            result.link = asking.link(result.approvals)
        return result

    async def _until_decided(self, call: CallRoute, seconds: float) -> RouteResult:
        """The proxy holds a call back while people decide, so this rarely asks more than twice."""
        until = anyio.current_time() + seconds
        while True:
            result = await self._once(call)
            if result.refused != Code.APPROVAL_PENDING or anyio.current_time() + _AGAIN_SECONDS > until:
                return result
            await anyio.sleep(_AGAIN_SECONDS)

    async def _once(self, call: CallRoute) -> RouteResult:
        request = self._client.build_request(
            call.method,
            f"{self._url}/{call.route}{_checked_path(call.path)}",
            headers=_checked_headers(call.headers) | self._proof(),
            content=call.body.encode() or None,
            timeout=call.timeout_seconds,
        )
        try:
            answer = await self._client.send(request, stream=True)
            try:
                data, total = await _read(answer)
            finally:
                await answer.aclose()
        except httpx2.HTTPError as error:
            raise ToolRefused(Code.UNAVAILABLE, f"the egress proxy did not answer ({type(error).__name__})") from None
        body, left_out = shown(data, total, self._held)
        headers = {
            name: self._held.mask_text(value)[:_MOST_TEXT]
            for name, value in list(answer.headers.items())[:_MOST_HEADERS]
            if name.lower() not in _HIDDEN
        }
        problem = _problem(answer, data)
        advice = _advice(problem.code)
        return RouteResult(answer.status_code, headers, body, left_out, problem.code, advice, problem.approvals)

    def _proof(self) -> dict[str, str]:
        """A proof that this process holds the run's key, good for one request (draft-ietf-wimse-wpt)."""
        if not self._audience:
            return {}
        run, jti = self._credential, secrets.token_urlsafe(16)
        return {PROOF_HEADER: sign_proof(run.seed, run.token, self._audience, wall_clock(), PROOF_LIFETIME, jti)}


def _advice(code: str) -> str:
    if not code:
        return ""
    return ADVICE[Code(code)] if code in list(Code) else "read the body: correct the call, or tell the user"


def _problem(answer: httpx2.Response, data: bytes) -> _Problem:
    """A refusal of the proxy's (RFC 9457), without a code if it is none.

    A service that writes the same is only misunderstood as one.
    """
    if answer.headers.get("content-type", "").partition(";")[0] != "application/problem+json":
        return _NO_PROBLEM
    try:
        return msgspec.json.decode(data, type=_Problem)
    except (msgspec.MsgspecError, ValueError):
        return _NO_PROBLEM


async def _read(answer: httpx2.Response) -> tuple[bytes, int]:
    data, total = bytearray(), 0
    async for chunk in answer.aiter_bytes():
        total += len(chunk)
        data += chunk[: READ - len(data)]
        if total > READ:
            break
    return bytes(data), total


def _checked_path(path: str) -> str:
    """The path, if it stays behind the route.

    Raises:
        InvalidRequest: if it could be read as another one.
    """
    parts = path.partition("?")[0].lower().replace("%2e", ".").replace("%2f", "/").replace("\\", "/").split("/")
    if ".." in parts or "." in parts or not path.isprintable():
        raise InvalidRequest("the path has a part '.' or '..', or a character that cannot stand in it")
    return path


def _checked_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if name.lower() in _OURS or name.lower().startswith("proxy-"):
            raise InvalidRequest(f"the header {name} is set by the server or the proxy: leave it out")
        if not value.isprintable() or not name.isprintable():
            raise InvalidRequest("a header has a character that cannot stand in it")
    return headers
