"""What our HTTP servers on this host have in common, where uvicorn does otherwise. Only they load this module."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS: Final = 10.0
"""How long a client may take from connecting to the end of its first request's head."""
_GRACE_SECONDS = 2


class Server(uvicorn.Server):
    """A server that logs nothing, says nothing of itself, and ends within two seconds.

    It leaves signals to whoever runs it: uvicorn's own way ends the process before it has tidied up.

    Args:
        app: the ASGI application.
        options: what `uvicorn.Config` takes besides.
    """

    def __init__(self, app: Any, **options: Any) -> None:
        config = uvicorn.Config(
            app,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            **options,
        )
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class Connection(H11Protocol):
    """A connection that is cut when no request comes: uvicorn itself waits for a first one for ever."""

    head_seconds = HEAD_SECONDS

    def connection_made(self, transport: Any) -> None:
        """Begin to count (asyncio's protocol)."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(self.head_seconds, self._cut_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count no longer (asyncio's protocol)."""
        self._waiting.cancel()
        super().connection_lost(exc)

    def _cut_if_idle(self) -> None:
        if self.cycle is None:
            self.transport.abort()
