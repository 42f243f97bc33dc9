"""Connections to upstreams: each route has its own, with its own trust, so none serves another route's call."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from broker_worker.core.egress import Route
from broker_worker.egress.addresses import Resolve, RouteResolver, resolve_by_system, socket_for, tls_for

_CONNECT_SECONDS = 10.0
_KEEP_SECONDS = 20.0
"""How long an idle connection is kept: less than servers do, so that a call seldom meets one that is just closed."""
_PIECE = 64 * 1024
_MAX_LINE, _MAX_HEADERS = 16 * 1024, 200
_NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


def open_session(route: Route, resolve: Resolve, file: str) -> ClientSession:
    """A session for one route: no proxies, cookies, redirects or credentials from anywhere else.

    Args:
        route: the route.
        resolve: gives the addresses of the upstream's name.
        file: the operator's file, for errors.

    Raises:
        ConfigError: if the route's certificates cannot be read.
    """
    connector = TCPConnector(
        ssl=tls_for(route, file),
        resolver=RouteResolver(route, resolve),
        socket_factory=socket_for(route),
        use_dns_cache=False,
        limit=0,  # calls are counted before they get here
        keepalive_timeout=_KEEP_SECONDS,
    )
    return ClientSession(
        connector=connector,
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        requote_redirect_url=False,
        skip_auto_headers=_NOT_ADDED,
        read_bufsize=_PIECE,
        max_line_size=_MAX_LINE,
        max_field_size=_MAX_LINE,
        max_headers=_MAX_HEADERS,
        timeout=ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=route.bounds.idle_seconds),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A route and the session that its calls go by."""

    route: Route
    session: ClientSession


class Connections:
    """The lines of all routes; those of routes that changed are closed when their calls are over.

    Args:
        resolve: gives the addresses of a name.
    """

    def __init__(self, resolve: Resolve = resolve_by_system) -> None:
        self._resolve = resolve
        self._lines: dict[str, Line] = {}
        self._retired: dict[asyncio.Task[None], Line] = {}

    def replace(self, routes: Iterable[Route], file: str) -> None:
        """Have a line for each of these routes and for no other; all of them, or none changes.

        Raises:
            ConfigError: if a route's certificates cannot be read.
        """
        fresh: dict[str, Line] = {}
        for route in routes:
            line = self._lines.get(route.name)
            if line is None or line.route != route:
                line = Line(route, open_session(route, self._resolve, file))
            fresh[route.name] = line
        for name, line in self._lines.items():
            if fresh.get(name) is not line:
                task = asyncio.create_task(self._retire(line))
                self._retired[task] = line
        self._lines = fresh

    def get(self, name: str) -> Line | None:
        """The line of a route; None if there is no such route."""
        return self._lines.get(name)

    async def _retire(self, line: Line) -> None:
        await asyncio.sleep(line.route.bounds.timeout_seconds)
        await line.session.close()
        task = asyncio.current_task()
        if task is not None:
            self._retired.pop(task, None)

    async def close(self) -> None:
        """Close them all."""
        retired = dict(self._retired)
        for task in retired:
            task.cancel()
        for line in (*retired.values(), *self._lines.values()):
            await line.session.close()
