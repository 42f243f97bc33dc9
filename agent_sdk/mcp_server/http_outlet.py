"""The outlet for HTTP: every body that leaves, whole or as server-sent events, passes `Outlet` first.

It is ASGI middleware around everything else, so it sees the same bytes that a client gets, whichever part of the MCP
package wrote them.
"""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_sdk.mcp_server.outlet import Outlet

_DATA = b"data: "


class HttpOutlet:
    """ASGI middleware.

    Args:
        app: what answers.
        outlet: what each message passes.
    """

    def __init__(self, app: ASGIApp, outlet: Outlet) -> None:
        self._app = app
        self._outlet = outlet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI 3.0)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(self._outlet, send)
        await self._app(scope, receive, answer.send)


class _Answer:
    """One answer on its way out."""

    def __init__(self, outlet: Outlet, send: Send) -> None:
        self._outlet = outlet
        self._send = send
        self._start: Message | None = None
        self._kept = b""
        self._streams = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            self._streams = headers.get("content-type", "").startswith("text/event-stream")
            if self._streams:
                await self._send(message)
            else:
                self._start = message  # its length is known when the body is
        elif message["type"] == "http.response.body" and self._streams:
            await self._send({**message, "body": self._events(message)})
        elif message["type"] == "http.response.body":
            await self._body(message)
        else:
            await self._send(message)

    async def _body(self, message: Message) -> None:
        self._kept += message.get("body", b"")
        if message.get("more_body") or self._start is None:
            return
        body = self._outlet.masked_json(self._kept) if self._kept else b""
        headers = MutableHeaders(raw=self._start["headers"])
        if "content-length" in headers:
            headers["content-length"] = str(len(body))
        await self._send({**self._start, "headers": headers.raw})
        await self._send({**message, "body": body})

    def _events(self, message: Message) -> bytes:
        """The lines that are whole by now; a line is a field of an event (WHATWG HTML, 9.2.5)."""
        self._kept += message.get("body", b"")
        *lines, rest = self._kept.split(b"\n")
        self._kept = rest if message.get("more_body") else b""
        if not message.get("more_body") and rest:
            lines.append(rest)
            return b"\n".join(self._line(line) for line in lines)
        return b"".join(self._line(line) + b"\n" for line in lines)

    def _line(self, line: bytes) -> bytes:
        if not line.startswith(_DATA):
            return line
        text = line.removeprefix(_DATA)
        body = text.rstrip(b"\r")
        return _DATA + self._outlet.masked_json(body) + text[len(body) :] if body else line
