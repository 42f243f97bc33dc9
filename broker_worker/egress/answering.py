"""An upstream's answer on its way to the agent: within bounds, piece by piece, and without the value."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp.web import BaseRequest, Response, StreamResponse
from multidict import CIMultiDict

from broker_worker.core.egress import Route
from broker_worker.egress.decoding import Decoder, encoding_refused
from broker_worker.egress.headers import from_upstream
from broker_worker.egress.lending import LentValue
from broker_worker.egress.problems import Refusal
from broker_worker.egress.reading import Head
from broker_worker.egress.sending import SMALL_BYTES
from broker_worker.egress.upstream import UpstreamConnection

_WITHOUT_BODY = frozenset({204, 205, 304})
_IDENTITY = Decoder(None)
"""It keeps nothing of what it decodes, so all answers can share it."""


@dataclass(slots=True)
class Exchanged:
    """What came of a call so far; sizes are bodies in bytes, as they were on the upstream's side."""

    status: int | None = None
    fault: str | None = None
    sent: int = 0
    received: int = 0


class Answer:
    """Passes one answer on.

    Args:
        request: the agent's request.
        upstream: where the body of the answer comes from.
        head: what stands before it.
        path: what was called on the upstream.
        route: the route.
        loan: what the call was made with; once it is taken back, nothing more is passed on.
        exchanged: where what came is counted.

    Raises:
        Refusal: if it cannot be passed on.
    """

    def __init__(
        self,
        request: BaseRequest,
        upstream: UpstreamConnection,
        head: Head,
        path: str,
        route: Route,
        loan: LentValue,
        exchanged: Exchanged,
    ) -> None:
        self._request = request
        self._upstream = upstream
        self._status = head.status
        self._most = route.bounds.max_response
        self._loan = loan
        self._scrubber = loan.scrubber()
        self._exchanged = exchanged
        self._decoder = _decoder(head.headers)
        self._headers = from_upstream(head.headers, route, path, request.headers["Host"])
        if not self._decoder.is_identity:
            self._headers.popall("Content-Encoding", None)
            self._headers.popall("Content-MD5", None)
        self._length = head.length
        if self._length is not None and self._length > self._most and request.method != "HEAD":
            raise self._too_large()

    async def pass_on(self) -> StreamResponse:
        """Pass it on as a whole if it is small, else each piece as it comes.

        Raises:
            Refusal: if it turns out to be something that cannot be passed on.
        """
        status, length = self._status, self._length
        if self._request.method == "HEAD" or status in _WITHOUT_BODY:
            response = StreamResponse(status=status, headers=self._scrubber.headers(self._headers))
            if length is not None and self._request.method == "HEAD" and self._decoder.is_identity:
                response.content_length = length
            return response
        kind = self._headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if length is not None and length <= SMALL_BYTES and self._decoder.is_identity and kind != "text/event-stream":
            headers, body = self._scrubber.whole(self._headers, await self._whole())
            return Response(status=status, headers=headers, body=body)
        response = StreamResponse(status=status, headers=self._scrubber.headers(self._headers))
        await response.prepare(self._request)
        async for piece in self._pieces():
            await response.write(piece)
        await response.write_eof()
        return response

    async def _whole(self) -> bytes:
        """The body, as it is."""
        body = piece = await self._upstream.read()
        while piece:
            piece = await self._upstream.read()
            body += piece
        self._exchanged.received = len(body)
        self._loan.check_revoked()
        return body

    async def _pieces(self) -> AsyncIterator[bytes]:
        """The body without the value. What could be the beginning of the value waits for what follows it."""
        decoded, stream = 0, self._scrubber.stream()
        while chunk := await self._upstream.read():
            self._exchanged.received += len(chunk)
            if self._exchanged.received > 2 * self._most:  # a coding that makes nothing of much
                raise self._too_large()
            self._loan.check_revoked()
            for piece in self._decoder.decode(chunk):
                decoded += len(piece)
                if decoded > self._most:
                    raise self._too_large()
                if clean := stream.feed(piece):
                    yield clean
        self._decoder.finish()
        if rest := stream.flush():
            yield rest

    def _too_large(self) -> Refusal:
        return Refusal(502, "response_too_large", f"this route passes on bodies of at most {self._most} bytes")


def _decoder(headers: CIMultiDict[str]) -> Decoder:
    """What undoes the answer's coding, which may stand in several lines (RFC 9110, section 5.2).

    Raises:
        Refusal: if there is more than one, or one of the transfer: in either the value would not be found.
    """
    if "Transfer-Encoding" not in headers and "Content-Encoding" not in headers:
        return _IDENTITY
    transfer = [coding.strip().lower() for coding in headers.getall("Transfer-Encoding", ())]
    if transfer not in ([], ["chunked"]):
        raise encoding_refused()
    return Decoder(", ".join(headers.getall("Content-Encoding", ())))
