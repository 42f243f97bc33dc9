"""A call as it leaves: the value where the route says, and the body within the route's bounds."""

import asyncio
import base64
from collections.abc import AsyncIterator
from urllib.parse import quote

from aiohttp.web import BaseRequest, RequestPayloadError
from multidict import CIMultiDict
from yarl import URL

from broker_worker.core.egress import PLACE, Route
from broker_worker.egress.problems import Refusal

SMALL_BYTES = 64 * 1024
"""A body of at most so many bytes is read before it is sent, which is faster than passing it on in pieces."""
_IDLE_SECONDS = 30.0


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


def address_of(route: Route, segments: tuple[str, ...], query: str | None) -> URL:
    """The URL that is called: the upstream's origin, its prefix, and the path that was matched, as it was matched."""
    path = "/".join(("", *route.upstream.prefix, *segments))
    upstream = (
        route.upstream
    )  # built from parts, as what parses whole addresses remembers them, and the value with them
    return URL.build(
        scheme=upstream.scheme, authority=upstream.authority, path=path, query_string=query or "", encoded=True
    )


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
    def length(self) -> int | None:
        """How long it says that it is; None if it does not say, or there is none."""
        return self._request.content_length if self._request.body_exists else None

    async def data(self) -> bytes | AsyncIterator[bytes] | None:
        """What is to be sent: nothing, all of it at once if it is small, or piece by piece.

        Raises:
            Refusal: if a small body does not arrive whole.
        """
        request = self._request
        if not request.body_exists:
            return None
        if request.content_length is not None and request.content_length <= SMALL_BYTES:
            return b"".join([piece async for piece in self._pieces()])
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        try:
            while piece := await self._next():
                self.bytes += len(piece)
                if self.bytes > self._most:
                    raise self._too_large()
                yield piece
        except Refusal as refusal:
            self.problem = refusal
            raise
        except TimeoutError:
            self.problem = Refusal(408, "request_timeout", "the body stopped coming", close=True)
            raise self.problem from None
        except (RequestPayloadError, ConnectionError):
            self.problem = Refusal(400, "body_broken", "the body did not arrive whole and well-formed", close=True)
            raise self.problem from None

    async def _next(self) -> bytes:
        """The next piece; none at the end."""
        content = self._request.content
        if content.is_eof():
            return await content.readany()  # it is all here
        async with asyncio.timeout(_IDLE_SECONDS):
            return await content.readany()

    def _too_large(self) -> Refusal:
        detail = f"this route takes bodies of at most {self._most} bytes"
        return Refusal(413, "request_too_large", detail, close=True)
