"""A call as it leaves: the value where the route says, and the body within the route's bounds."""

import asyncio
import base64
from collections.abc import AsyncIterator
from urllib.parse import quote

from aiohttp.web import BaseRequest, RequestPayloadError
from multidict import CIMultiDict

from broker_worker.core.egress import PLACE, Route
from broker_worker.egress.problems import Refusal

SMALL_BYTES = 64 * 1024
"""A body of at most so many bytes is read before it is sent, which is faster than passing it on in pieces."""
_IDLE_SECONDS = 30.0
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods whose requests have no length where they have no body (RFC 9110, section 8.6)."""


def add_value(route: Route, value: str, headers: CIMultiDict[str], query: str | None) -> str | None:
    """Put the value into the headers, or into the query, which is returned.

    Args:
        route: says where.
        value: the value.
        headers: those that go on; the one that the route names is not among them.
        query: the query as it goes on.
    """
    send = route.send
    if send.kind == "query":
        pair = f"{send.name}={quote(value, safe='')}"
        return pair if query is None else f"{query}&{pair}"
    if send.kind == "basic":
        headers["Authorization"] = "Basic " + base64.b64encode(f"{send.name}:{value}".encode()).decode("ascii")
    else:
        headers[send.name] = send.template.replace(PLACE, value)
    return query


def target_of(route: Route, segments: tuple[str, ...], query: str | None) -> str:
    """The target that is called: the upstream's prefix, the path that was matched, as it was matched, and the query."""
    path = "/".join(("", *route.upstream.prefix, *segments))
    return f"{path}?{query}" if query else path


def request_head(method: str, target: str, host: str, headers: CIMultiDict[str], framing: str | None) -> bytes:
    """All that stands before the body of a request (RFC 9112, section 3).

    Args:
        method: its method.
        target: its target.
        host: the upstream's host and port.
        headers: those that go on.
        framing: the line that says where its body ends.

    Raises:
        ValueError: if something in it would be read as a line of its own. It was all looked at before.
    """
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if framing is not None:
        lines.append(framing)
    text = "\r\n".join((*lines, "", ""))
    if text.count("\n") != len(lines) + 1 or text.count("\r") != len(lines) + 1 or not text.isascii():
        raise ValueError("a line of the request has characters that cannot be sent")
    return text.encode("ascii")


class Body:
    """The body of a request, counted while it is read.

    Args:
        request: the request.
        most: how many bytes it may have.

    Raises:
        Refusal: if it says that it has more.
    """

    def __init__(self, request: BaseRequest, most: int) -> None:
        self._request = request
        self._most = most
        self.bytes = 0
        self.problem: Refusal | None = None
        """What was wrong with it; whoever sends it sees some other error then."""
        length = request.content_length
        if length is not None and length > most:
            raise self._too_large()

    @property
    def framing(self) -> str | None:
        """The line that says where it ends; none for the methods that have no body unless they say so."""
        request = self._request
        if not request.body_exists:
            return None if request.method in _WITHOUT_BODY else "Content-Length: 0"
        length = request.content_length
        return "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"

    @property
    def is_chunked(self) -> bool:
        """Whether it goes in chunks, as nobody knows its length."""
        return self._request.body_exists and self._request.content_length is None

    async def data(self) -> bytes | AsyncIterator[bytes]:
        """What is to be sent: all of it at once if it is small, or piece by piece.

        Raises:
            Refusal: if a small body does not arrive whole.
        """
        if not self._request.body_exists:
            return b""
        length = self._request.content_length
        if length is None or length > SMALL_BYTES:
            return self._pieces()
        whole = piece = await self._next()
        while piece and len(whole) < length:
            piece = await self._next()
            whole += piece
        return whole

    async def _pieces(self) -> AsyncIterator[bytes]:
        while piece := await self._next():
            yield piece

    async def _next(self) -> bytes:
        """The next piece; none at the end."""
        content = self._request.content
        try:
            if content.is_eof():  # all of it has come, so this does not wait
                piece = await content.readany()
            else:
                async with asyncio.timeout(_IDLE_SECONDS):
                    piece = await content.readany()
        except TimeoutError:
            self.problem = Refusal(408, "request_timeout", "the body stopped coming", close=True)
            raise self.problem from None
        except (RequestPayloadError, ConnectionError):
            self.problem = Refusal(400, "body_broken", "the body did not arrive whole and well-formed", close=True)
            raise self.problem from None
        self.bytes += len(piece)
        if self.bytes > self._most:
            self.problem = self._too_large()
            raise self.problem
        return piece

    def _too_large(self) -> Refusal:
        detail = f"this route takes bodies of at most {self._most} bytes"
        return Refusal(413, "request_too_large", detail, close=True)
