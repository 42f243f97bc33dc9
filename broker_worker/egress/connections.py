"""Connections to upstreams: each route and run has its own, so none serves a call of another."""

import asyncio
import ssl
from collections.abc import Collection

from aiohappyeyeballs import start_connection

from broker_worker.core.egress import Route
from broker_worker.egress.addresses import Resolve, look_up, resolve_by_system, socket_for, tls_for
from broker_worker.egress.upstream import UpstreamConnection

_CONNECT_SECONDS = 10.0
_NEXT_ADDRESS_SECONDS = 0.25
"""When another address is tried as well (RFC 8305, section 5)."""
KEEP_SECONDS = 20.0
"""How long an idle connection is kept: less than servers do, so that a call seldom meets one that is just closed."""


class Line:
    """A route and the connections that its calls go by.

    A run has its own. What an agent brings an upstream to say out of turn, such as by a body that it takes for a second
    request, would else be the answer to another run's call.

    Args:
        route: the route.
        resolve: gives the addresses of the upstream's name.
        tls: the route's TLS settings.
    """

    def __init__(self, route: Route, resolve: Resolve, tls: ssl.SSLContext) -> None:
        self.route = route
        self._resolve = resolve
        self._tls = tls
        self._idle: dict[str, list[UpstreamConnection]] = {}
        self._look: asyncio.TimerHandle | None = None
        self._is_closed = False

    def take(self, run: str) -> UpstreamConnection | None:
        """A connection that calls of a run went by and another can; None if there is none.

        Args:
            run: what only calls of that run have: its token.
        """
        kept = self._idle.get(run)
        now = asyncio.get_running_loop().time()
        while kept:
            connection = kept.pop()
            if connection.is_open and now - connection.idle_since < KEEP_SECONDS:
                return connection
            connection.close()
        self._idle.pop(run, None)
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection.

        Raises:
            AddressRefusedError: if the upstream's name leads to where the route may not connect.
            TimeoutError: if that takes too long.
            ssl.SSLError: if the upstream is not who it should be.
            OSError: if it cannot be reached.
        """
        loop, upstream = asyncio.get_running_loop(), self.route.upstream
        is_tls = upstream.scheme == "https"
        async with asyncio.timeout(_CONNECT_SECONDS):
            sock = await start_connection(
                await look_up(self.route, self._resolve),
                happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS,
                socket_factory=socket_for(self.route),
            )
            _, connection = await loop.create_connection(
                UpstreamConnection,
                sock=sock,
                ssl=self._tls if is_tls else None,
                server_hostname=upstream.host if is_tls else None,
            )
        return connection

    async def put_back(self, run: str, connection: UpstreamConnection) -> None:
        """End a call, and keep its connection if another can go by it."""
        if not await connection.finish():
            return
        if self._is_closed:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault(run, []).append(connection)
        if self._look is None:
            self._look = loop.call_later(KEEP_SECONDS, self._close_old, loop)

    def _close_old(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what was idle for long enough, and look again when the next one will have been."""
        oldest, now = loop.time(), loop.time()
        for run, kept in list(self._idle.items()):
            left = [each for each in kept if each.is_open and now - each.idle_since < KEEP_SECONDS]
            for each in kept:
                if each not in left:
                    each.close()
            if left:
                self._idle[run] = left
                oldest = min(oldest, *(each.idle_since for each in left))
            else:
                del self._idle[run]
        self._look = loop.call_at(oldest + KEEP_SECONDS, self._close_old, loop) if self._idle else None

    def close(self) -> None:
        """End idle connections now, and the others after their calls."""
        self._is_closed = True
        if self._look is not None:
            self._look.cancel()
        for kept in self._idle.values():
            for connection in kept:
                connection.close()
        self._idle.clear()


class Connections:
    """The lines of all routes.

    Args:
        resolve: gives the addresses of a name.
    """

    def __init__(self, resolve: Resolve = resolve_by_system) -> None:
        self._resolve = resolve
        self._lines: dict[str, Line] = {}

    def replace(self, routes: Collection[Route], file: str) -> None:
        """Have a line for each of these routes and for no other; all of them, or none changes.

        Raises:
            ConfigError: if a route's certificates cannot be read.
        """
        before = self._lines
        fresh = {route.name: before[route.name] for route in routes if _is_same(before.get(route.name), route)}
        settings = [(route, tls_for(route, file)) for route in routes if route.name not in fresh]
        for route, tls in settings:
            fresh[route.name] = Line(route, self._resolve, tls)
        for name, line in before.items():
            if fresh.get(name) is not line:
                line.close()
        self._lines = fresh

    def get(self, name: str) -> Line | None:
        """The line of a route; None if there is no such route."""
        return self._lines.get(name)

    def close(self) -> None:
        """Close them all."""
        for line in self._lines.values():
            line.close()


def _is_same(line: Line | None, route: Route) -> bool:
    return line is not None and line.route == route
