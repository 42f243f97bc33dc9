"""One call that may be made: with the value to the upstream, and back without it."""

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import HttpVersion11
from aiohttp.web import BaseRequest, StreamResponse
from multidict import CIMultiDict

from broker_worker.egress.addresses import AddressRefusedError
from broker_worker.egress.answering import Answer, Exchanged
from broker_worker.egress.connections import Line
from broker_worker.egress.lending import LentValue
from broker_worker.egress.problems import Refusal
from broker_worker.egress.reading import AnswerBroken, Head
from broker_worker.egress.sending import Body, add_value, request_head, target_of
from broker_worker.egress.upstream import UpstreamConnection

_FINAL = 200
"""The least status of an answer (RFC 9110, section 15)."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods of requests that may be made again, as they change nothing (RFC 9110, section 9.2.1).

PUT and DELETE may not: by then somebody else can have changed what they change.
"""


@dataclass(frozen=True, slots=True)
class Passage:
    """A call that the route allows, ready to leave.

    Args:
        request: the agent's request.
        line: what the route's calls go by.
        run: the token of the run that calls.
        segments: the path behind the route's name.
        query: the query without the caller's credential.
        headers: those that go on, without the value.
        loan: what goes with it.
    """

    request: BaseRequest
    line: Line
    run: str
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
    call = _Call(passage, exchanged)
    if "Expect" in passage.request.headers:
        _say_go_on(passage.request)
    try:
        data = await call.body.data()
        connection = passage.line.take(passage.run) or await _connect(passage.line)
        while (response := await call.make(connection, data)) is None:
            connection = await _connect(passage.line)
        return response
    finally:
        exchanged.sent = call.body.bytes


class _Call:
    """What is sent, and what is done with what comes."""

    def __init__(self, passage: Passage, exchanged: Exchanged) -> None:
        route, request = passage.line.route, passage.request
        query = add_value(route, passage.loan.value(), passage.headers, passage.query)
        target = target_of(route, passage.segments, query)
        self.body = Body(request, route.bounds.max_request)
        self._head = request_head(request.method, target, route.upstream.authority, passage.headers, self.body.framing)
        self._path = target.partition("?")[0]
        self._passage = passage
        self._exchanged = exchanged

    async def make(self, connection: UpstreamConnection, data: bytes | AsyncIterator[bytes]) -> StreamResponse | None:
        """Make it by a connection.

        Returns:
            The answer; None if the upstream was just closing the connection, and the call can be made again.
        """
        passage, route = self._passage, self._passage.line.route
        try:
            head = await self._ask(connection, data)
            if head is None:
                return None
            self._exchanged.status = head.status
            answer = Answer(passage.request, connection, head, self._path, route, passage.loan, self._exchanged)
            return await answer.pass_on()
        except AnswerBroken:
            raise self.body.problem or _broken("the upstream's answer ended before it was whole") from None
        except TimeoutError:
            raise _too_late() from None
        finally:
            await passage.line.put_back(passage.run, connection)

    async def _ask(self, connection: UpstreamConnection, data: bytes | AsyncIterator[bytes]) -> Head | None:
        """Send it, and wait for the head of the answer."""
        method, idle = self._passage.request.method, self._passage.line.route.bounds.idle_seconds
        is_chunked, to_head = self.body.is_chunked, method == "HEAD"
        self._passage.loan.check_revoked()  # the body, or a connection, may have been long in coming
        try:
            head = await connection.ask(self._head, data, is_chunked=is_chunked, to_head=to_head, idle=idle)
        except AnswerBroken:
            if connection.was_stale and not data and method in _SAFE:
                return None
            raise self.body.problem or _failed() from None
        if head.status < _FINAL:
            raise _broken("the upstream changed the protocol, or its answer has no status")
        return head


async def _connect(line: Line) -> UpstreamConnection:
    """A new connection to the upstream."""
    try:
        return await line.connect()
    except ssl.SSLError:
        refusal = Refusal(502, "upstream_not_trusted", "the upstream's certificate or its TLS could not be verified")
    except AddressRefusedError:
        refusal = Refusal(502, "address_refused", "the upstream's name leads to an address that is not public")
    except TimeoutError:
        refusal = _too_late()
    except OSError:
        refusal = _failed()
    raise refusal  # out here, away from an exception whose text may have an address


def _failed() -> Refusal:
    return Refusal(502, "upstream_failed", "the upstream could not be reached, or broke off")


def _broken(detail: str) -> Refusal:
    return Refusal(502, "upstream_broken", detail)


def _too_late() -> Refusal:
    return Refusal(504, "upstream_timeout", "the upstream did not answer in time")


def _say_go_on(request: BaseRequest) -> None:
    """Have the agent send the body that it holds back (RFC 9110, section 10.1.1)."""
    if request.headers["Expect"].lower() != "100-continue" or request.version < HttpVersion11:
        return
    if request.transport is not None and request.body_exists:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
