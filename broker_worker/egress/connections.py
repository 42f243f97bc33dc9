"""Connections to upstreams: each route and run has its own, so none serves a call of another."""

import asyncio
import ssl
from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import ClientRequest, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from broker_worker.core.egress import Route
from broker_worker.egress.addresses import Resolve, RouteResolver, resolve_by_system, socket_for, tls_for

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

_CONNECT_SECONDS = 10.0
_KEEP_SECONDS = 20.0
"""How long an idle connection is kept: less than servers do, so that a call seldom meets one that is just closed."""
_PIECE = 64 * 1024
_MAX_LINE, _MAX_HEADERS = 16 * 1024, 200
CALLING: ContextVar[str] = ContextVar("calling", default="")
"""The token of the run whose call is being made."""
_NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class _Request(ClientRequest):
    """A call, which only shares connections with others of its run.

    What an agent brings an upstream to say out of turn, such as by a body that it takes for a second request, would
    else be the answer to another run's call.
    """

    @property
    def connection_key(self) -> "ConnectionKey":
        """By what the pool tells connections apart; there is no proxy whose headers could stand in that place."""
        return super().connection_key._replace(proxy_headers_hash=hash(CALLING.get()))


class _Connector(TCPConnector):
    """aiohttp's pool of connections, without those on which something came that nobody asked for.

    aiohttp would take it for the answer to the next call.
    """

    async def _get(self, key: "ConnectionKey", traces: "list[Trace]") -> "Connection | None":
        """A connection that can be used again."""
        for protocol, _ in self._conns.get(key, ()):
            if protocol.should_close:
                protocol.close()  # one that is closed is passed over
        return await super()._get(key, traces)


def open_session(route: Route, resolve: Resolve, tls: ssl.SSLContext) -> ClientSession:
    """A session for one route: no proxies, cookies, redirects or credentials from anywhere else.

    Args:
        route: the route.
        resolve: gives the addresses of the upstream's name.
        tls: the route's TLS settings.
    """
    connector = _Connector(
        ssl=tls,
        resolver=RouteResolver(route, resolve),
        socket_factory=socket_for(route),
        use_dns_cache=False,
        limit=0,  # calls are counted before they get here
        keepalive_timeout=_KEEP_SECONDS,
    )
    return ClientSession(
        connector=connector,
        request_class=_Request,
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

    def replace(self, routes: Collection[Route], file: str) -> None:
        """Have a line for each of these routes and for no other; all of them, or none changes.

        Raises:
            ConfigError: if a route's certificates cannot be read.
        """
        before = self._lines
        fresh = {route.name: before[route.name] for route in routes if _is_same(before.get(route.name), route)}
        settings = [(route, tls_for(route, file)) for route in routes if route.name not in fresh]
        for route, tls in settings:
            fresh[route.name] = Line(route, open_session(route, self._resolve, tls))
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


def _is_same(line: Line | None, route: Route) -> bool:
    return line is not None and line.route == route
