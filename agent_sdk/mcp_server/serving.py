"""Runs the server: over the process's standard streams, or over HTTP on the loopback interface."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import anyio
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend, RequireAuthMiddleware
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from msgspec import Struct
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import Route

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.credential import RunCredential
from agent_sdk.http_server import Connection
from agent_sdk.http_server import Server as HttpServer
from agent_sdk.mcp_server.access import Access
from agent_sdk.mcp_server.allowed_commands import AllowedCommands
from agent_sdk.mcp_server.commands import Commands
from agent_sdk.mcp_server.held_values import HeldValues
from agent_sdk.mcp_server.http_outlet import HttpOutlet
from agent_sdk.mcp_server.outlet import MaskedStream, Outlet
from agent_sdk.mcp_server.quiet_log import log_to_stderr
from agent_sdk.mcp_server.routes import Routes
from agent_sdk.mcp_server.server import make_server
from agent_sdk.mcp_server.storing import Storing
from agent_sdk.mcp_server.token_file import OneToken
from agent_sdk.mcp_server.tools import offered_tools
from agent_sdk.wire.messages import Notice

HOST: Final = "127.0.0.1"
PATH: Final = "/mcp"
_MAX_SESSIONS: Final = 64
_MAX_CONNECTIONS: Final = 256
_END_SECONDS: Final = 5.0


class Offer(Struct, frozen=True):
    """What the server offers.

    Args:
        allowed: the programs that may be run.
        root: the folder that commands and files are confined to.
        pass_env: variables of the server that commands get as well.
        dashboard_url: where people approve; empty if nobody said so.
        egress_url: the egress proxy; empty if there is none.
        egress_audience: whom proofs to it are made out to; empty if it takes none.
    """

    allowed: AllowedCommands
    root: Path
    pass_env: tuple[str, ...] = ()
    dashboard_url: str = ""
    egress_url: str = ""
    egress_audience: str = ""


@asynccontextmanager
async def _ready(credential: RunCredential, offer: Offer) -> AsyncIterator[tuple[Server[Any], HeldValues]]:
    """The server over the run's client; whatever is held is given back in the end."""
    held = HeldValues()
    log_to_stderr(held)
    held.add("run-token", credential.token.encode())
    held.add("run-key", credential.seed)
    if password := urlsplit(credential.queue_url).password:
        held.add("queue-password", unquote(password).encode())

    def heard(notice: Notice) -> None:
        access.heard(notice)

    client = AsyncSecretBroker(credential, on_notice=heard)
    access = Access(client, held)
    routes = Routes(offer.egress_url, credential, held, offer.egress_audience) if offer.egress_url else None
    commands = Commands(access, held, offer.allowed, offer.root, offer.pass_env)
    tools = offered_tools(access, commands, routes, Storing(access, held, commands))
    async with client:
        try:
            yield make_server(tools, held, offer.dashboard_url), held
        finally:
            await access.give_back()
            if routes is not None:
                await routes.close()


async def serve_stdio(credential: RunCredential, offer: Offer) -> None:
    """Serve one client over standard input and output, until it goes away or SIGTERM arrives.

    Args:
        credential: the run's.
        offer: what is offered.
    """
    # A thread that reads standard input cannot be ended, so where it may still read, the process ends at once. All that
    # has to be done by then has been: commands are ended, and what was held is given back.
    try:
        async with stdio_server() as (incoming, outgoing):
            try:
                is_stopped = await _serve_streams(credential, offer, incoming, outgoing)
            except asyncio.CancelledError:  # standard output is closed: the client reads no more
                os._exit(0)
            if is_stopped:
                os._exit(128 + signal.SIGTERM)
    except* (ConnectionError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # the same, and the client sends no more either


async def _serve_streams(credential: RunCredential, offer: Offer, incoming: Any, outgoing: Any) -> bool:
    """Serve until the input ends or a signal comes; whether it was a signal."""
    stopped = asyncio.Event()
    async with _ready(credential, offer) as (server, held):
        stream = MaskedStream(outgoing, Outlet(held))
        serving = asyncio.create_task(server.run(incoming, stream, server.create_initialization_options()))

        def stop() -> None:
            stopped.set()
            serving.cancel()

        with _on_signals(stop):
            try:
                await asyncio.wait({serving})
            finally:
                serving.cancel()
                with anyio.CancelScope(shield=True):  # commands are ended before what they had is given back
                    await asyncio.wait({serving}, timeout=_END_SECONDS)
        if serving.done() and not serving.cancelled():
            serving.result()
    return stopped.is_set()


async def serve_http(
    credential: RunCredential, offer: Offer, port: int, token: str, announce: Callable[[str], None]
) -> None:
    """Serve clients of this host over streamable HTTP, until SIGTERM or SIGINT arrives.

    Args:
        credential: the run's; all clients share it.
        offer: what is offered.
        port: where to listen, on 127.0.0.1; 0 for any free one.
        token: what a client must show.
        announce: told the address once it listens.

    Raises:
        OSError: if the port is taken.
    """
    with socket.create_server((HOST, port)) as listening:
        number = listening.getsockname()[1]
        async with _ready(credential, offer) as (server, held):
            held.add("mcp-token", token.encode())
            app = HttpOutlet(_http_app(server, number, token), Outlet(held))
            web = HttpServer(app, http=Connection, lifespan="on", limit_concurrency=_MAX_CONNECTIONS)
            announce(f"http://{HOST}:{number}{PATH}")
            with _on_signals(lambda: setattr(web, "should_exit", True)):
                await web.serve(sockets=[listening])


def _http_app(server: Server[Any], port: int, token: str) -> Starlette:
    """The application behind its bearer token; only this host's names, and no page of a browser, reach it."""
    own = [f"{HOST}:{port}", f"localhost:{port}"]
    security = TransportSecuritySettings(enable_dns_rebinding_protection=True, allowed_hosts=own, allowed_origins=[])
    manager = StreamableHTTPSessionManager(server, security_settings=security, max_sessions=_MAX_SESSIONS)
    return Starlette(
        routes=[Route(PATH, RequireAuthMiddleware(StreamableHTTPASGIApp(manager), []))],
        middleware=[
            Middleware(AuthenticationMiddleware, backend=BearerAuthBackend(OneToken(token))),
            Middleware(AuthContextMiddleware),
        ],
        lifespan=lambda _: manager.run(),
    )


@contextmanager
def _on_signals(stop: Callable[[], object]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    if sys.platform == "win32":  # its loop has no such handlers; the process just ends
        yield
        return
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
