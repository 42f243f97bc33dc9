"""One call that may be made: with the value to the upstream, and back without it."""

import asyncio
from dataclasses import dataclass

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorSSLError,
    ClientError,
    ClientPayloadError,
    ClientResponse,
    ClientSession,
    HttpVersion11,
)
from aiohttp.web import BaseRequest, StreamResponse
from multidict import CIMultiDict
from yarl import URL

from broker_worker.core.egress import Route
from broker_worker.egress.addresses import AddressRefusedError
from broker_worker.egress.answering import Answer, Exchanged
from broker_worker.egress.lending import LentValue
from broker_worker.egress.problems import Refusal
from broker_worker.egress.sending import Body, add_value, address_of

_FINAL = 200
"""The least status of an answer (RFC 9110, section 15). aiohttp passes those over that are said before it, but 101."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A call that the route allows, ready to leave.

    Args:
        request: the agent's request.
        route: its route.
        session: what the route's calls go by.
        segments: the path behind the route's name.
        query: the query without the caller's credential.
        headers: those that go on, without the value.
        loan: what goes with it.
    """

    request: BaseRequest
    route: Route
    session: ClientSession
    segments: tuple[str, ...]
    query: str | None
    headers: CIMultiDict[str]
    loan: LentValue


async def forward(passage: Passage, exchanged: Exchanged) -> StreamResponse:
    """Make a call.

    Args:
        passage: the call.
        exchanged: where what came of it is noted.

    Returns:
        The answer; a long one was passed on already.

    Raises:
        Refusal: if the call could not be made, or its answer not be passed on.
    """
    route, request = passage.route, passage.request
    value = passage.loan.value()
    query = add_value(route, value, passage.headers, passage.query)
    address = address_of(route, passage.segments, query)
    body = Body(request, route.bounds.max_request)
    _say_go_on(request)
    try:
        upstream = await _ask(passage, address, body)
        _end_with_connection(upstream)
        try:
            if upstream.status < _FINAL:
                raise Refusal(502, "upstream_broken", "the upstream changed the protocol, or its answer has no status")
            exchanged.status = upstream.status
            return await Answer(request, upstream, route, passage.loan, exchanged).pass_on()
        except ClientError:
            raise Refusal(502, "upstream_broken", "the upstream's answer ended before it was whole") from None
        finally:
            if upstream.content.is_eof():
                upstream.release()
            else:
                upstream.close()
    finally:
        exchanged.sent = body.bytes


async def _ask(passage: Passage, address: URL, body: Body) -> ClientResponse:
    """Send the call, and wait for the head of the answer."""
    request = passage.request
    if body.length is not None:
        passage.headers["Content-Length"] = str(body.length)
    try:
        return await passage.session.request(
            request.method, address, headers=passage.headers, data=await body.data(), allow_redirects=False
        )
    except (ClientError, OSError) as error:
        refusal = body.problem or _why_not(error)
    raise refusal  # out here, away from an exception whose text has the whole address


def _end_with_connection(upstream: ClientResponse) -> None:
    """Have the body end in an error when its connection ends before it does.

    aiohttp closes the connection of a body that is badly chunked, and leaves whoever reads the body waiting.
    """
    connection, content = upstream.connection, upstream.content
    closed = None if connection is None or connection.protocol is None else connection.protocol.closed
    if closed is None:
        return

    def end(future: "asyncio.Future[None]") -> None:
        if not future.cancelled():
            future.exception()  # seen
        if not content.is_eof() and content.exception() is None:
            content.set_exception(ClientPayloadError())

    closed.add_done_callback(end)


def _why_not(error: Exception) -> Refusal:
    if isinstance(error, ClientConnectorCertificateError | ClientConnectorSSLError):
        return Refusal(502, "upstream_not_trusted", "the upstream's certificate or its TLS could not be verified")
    causes = (error, error.__cause__, getattr(error, "os_error", None))
    if any(isinstance(cause, AddressRefusedError) for cause in causes):
        return Refusal(502, "address_refused", "the upstream's name leads to an address that is not public")
    if isinstance(error, asyncio.TimeoutError):
        return Refusal(504, "upstream_timeout", "the upstream did not answer in time")
    return Refusal(502, "upstream_failed", "the upstream could not be reached, or broke off")


def _say_go_on(request: BaseRequest) -> None:
    """Have the agent send the body that it holds back (RFC 9110, section 10.1.1)."""
    if request.headers.get("Expect", "").lower() != "100-continue" or request.version < HttpVersion11:
        return
    if request.transport is not None and request.body_exists:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
