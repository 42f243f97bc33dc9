"""The proxy's process: it listens on this host's own address, and follows its file and its credential."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, cast

import structlog
from aiohttp.http import RawRequestMessage
from aiohttp.web import BaseRequest, RequestHandler, RequestPayloadError, Server, StreamResponse

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.credential import FILE_VARIABLE, RunCredential
from agent_sdk.errors import CredentialInvalid
from broker_worker.core.egress import EgressSettings
from broker_worker.core.errors import ConfigError, SetupError
from broker_worker.egress.addresses import Resolve, resolve_by_system
from broker_worker.egress.asking import Asker
from broker_worker.egress.connections import Connections
from broker_worker.egress.limits import InFlight
from broker_worker.egress.problems import Refusal
from broker_worker.egress.proxy import Proxy
from broker_worker.egress.recording import Recorder
from broker_worker.egress.values import Values
from broker_worker.files.egress import read_egress
from broker_worker.loopback import listening

LOOPBACK = ("127.0.0.1", "::1")
_PORT_HINT = "is another proxy running? `port` in egress.yaml chooses another port"
DRAIN_SECONDS = 20.0
"""How long calls that are in flight may take to end once the proxy is told to stop."""
_RECORD_SECONDS = 5.0
_IDLE_SECONDS = 60.0
_LINGER_SECONDS = 2.0
_LOOK_SECONDS = 1.0
_LAST_SECONDS = 5.0
_PIECE = 64 * 1024
_MAX_LINE, _MAX_FIELD, _MAX_HEADERS = 8190, 16 * 1024, 100
_MAX_CONNECTIONS = 1024
_log = structlog.get_logger(__name__)
_SILENT = logging.Logger("broker_worker.egress.http")  # noqa: LOG001  # aiohttp's words quote what was sent
_SILENT.disabled = True


class Watch(Protocol):
    """Sets an event whenever a file in one of some folders changed, until cancelled."""

    async def __call__(self, folders: Sequence[Path], changed: asyncio.Event, /) -> None:
        """Watch."""
        ...


class _Connection(RequestHandler):
    """aiohttp's side of a connection, whose own words for errors could repeat what was sent."""

    __slots__ = ()

    def close(self) -> None:
        """End an idle connection at once, which aiohttp leaves open and deaf, and any other after its call."""
        super().close()
        if not self._request_in_progress:
            self.force_close()

    def data_received(self, data: bytes) -> None:
        """Take what came; what is no HTTP ends the body that is waited for, for which aiohttp goes on waiting."""
        super().data_received(data)
        last = self._messages[-1][0] if self._messages else None  # of what waits to be handled
        if last is None or isinstance(last, RawRequestMessage):
            return
        contents = [content for _, content in self._messages]  # the request may still stand behind others
        if self._current_request is not None:
            contents.append(self._current_request.content)
        for content in contents:
            if not content.is_eof():
                content.set_exception(RequestPayloadError("the body is not well-formed"))

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """Answer what could not be read, or what our own code failed at."""
        if request.writer.output_size > 0:
            raise ConnectionError
        if status < 500:
            return Refusal(400, "malformed", "this is no well-formed HTTP/1.1 request", close=True).response()
        _log.error("egress_defect", exc_info=exc)
        return Refusal(500, "defect", "the proxy failed; its log says where", close=True).response()


class _TooMany(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """End it."""
        transport.close()


class _Server(Server):
    """Makes connections of our kind, up to a number."""

    def __call__(self) -> RequestHandler:
        """A connection (the loop's protocol factory)."""
        if len(self._connections) >= _MAX_CONNECTIONS:
            return cast("RequestHandler", _TooMany())
        return _Connection(
            self,
            loop=self._loop,
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=_LINGER_SECONDS,
            logger=_SILENT,
            access_log=None,  # type: ignore[arg-type]  # its own default is a logger, its code takes None
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_FIELD,
            max_headers=_MAX_HEADERS,
            read_bufsize=_PIECE,
            auto_decompress=False,
        )


class Egress:
    """One proxy.

    Args:
        file: `egress.yaml`.
        credential: the proxy's own run; the one that this process was handed if not given.
        port: instead of the one that the file says; 0 for any free one.
        connect: makes the client of a credential.
        resolve: gives the addresses of a name.

    Raises:
        ConfigError: if the file, or certificates that it names, cannot be used.
        CredentialMissing: if the process was handed no credential.
    """

    def __init__(
        self,
        file: Path,
        credential: RunCredential | None = None,
        *,
        port: int | None = None,
        connect: Callable[[RunCredential], AsyncSecretBroker] = AsyncSecretBroker,
        resolve: Resolve = resolve_by_system,
    ) -> None:
        self._file = file
        self._settings = read_egress(file)
        self._port = self._settings.port if port is None else port
        self._credential_file = os.environ.get(FILE_VARIABLE) if credential is None else None
        self._credential = RunCredential.load() if credential is None else credential
        self._connect = connect
        self._connections = Connections(resolve)
        self._in_flight = InFlight(self._settings.max_calls, self._settings.max_calls_per_run)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Take no more calls, let those in flight end, and return from `run`."""
        self._stopping.set()

    async def run(self, ready: Callable[[str], None], watch: Watch | None = None) -> None:
        """Serve until `stop`, or until the proxy's own credential is over.

        Args:
            ready: called with the proxy's address.
            watch: tells of changes of the file.

        Raises:
            ConfigError: if certificates that the file names cannot be used.
            SetupError: if nothing can listen at the port, or the credential is over.
        """
        with listening(self._port, LOOPBACK, _PORT_HINT) as sockets:
            await self._serve(sockets, ready, watch)

    async def _serve(self, sockets: list[socket.socket], ready: Callable[[str], None], watch: Watch | None) -> None:
        self._connections.replace(self._settings.routes.values(), str(self._file))
        asker = Asker(self._credential, self._connect)
        values = Values(lambda: asker.client)
        recorder = Recorder(lambda: asker.client)
        port: int = sockets[0].getsockname()[1]
        proxy = Proxy(self._connections, values, recorder, self._in_flight, port)
        http = _Server(proxy.handle, handler_cancellation=True)
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(http, sock=each, backlog=256) for each in sockets]
        beside = [asyncio.create_task(self._keep_credential(asker, values))]
        if watch is not None:
            beside.append(asyncio.create_task(self._follow_file(watch)))
        for task in beside:
            task.add_done_callback(lambda _: self.stop())  # without it the proxy would go on with what is gone
        try:
            ready(f"http://{LOOPBACK[0]}:{port}")
            await self._stopping.wait()
        finally:
            for server in servers:
                server.close()
            http.pre_shutdown()  # idle connections end, the others after the call that they carry
            await self._drain()
            await recorder.close(_RECORD_SECONDS)
            await http.shutdown(1.0)
            for task in beside:
                task.cancel()
            self._connections.close()
            await asker.close()
        await asyncio.wait(beside)
        for task in beside:
            if not task.cancelled():
                task.result()  # what one of them failed at
        if _now() >= asker.expires_at - _LAST_SECONDS * 1000:
            raise SetupError(
                "the proxy's own run is over",
                hint="start it again with a new credential; `secret-broker up` does so by itself",
            )

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._in_flight.ended.wait(), DRAIN_SECONDS)
        if len(self._in_flight):
            _log.warning("egress_calls_cut_off", calls=len(self._in_flight), after_seconds=DRAIN_SECONDS)

    async def _keep_credential(self, asker: Asker, values: Values) -> None:
        """Take the new credential that is put into the file in time; without one, end just before ours does."""
        while _now() < asker.expires_at - _LAST_SECONDS * 1000:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._credential_file is None:
                continue
            try:
                fresh = await asyncio.to_thread(RunCredential.load, {FILE_VARIABLE: self._credential_file})
            except CredentialInvalid as error:
                _log.warning("egress_credential_unusable", error=str(error), in_force="the one before")
                continue
            if asker.replace(fresh):
                values.forget()
        self.stop()

    async def _follow_file(self, watch: Watch) -> None:
        """Take a valid change of the file at once; one that is not valid changes nothing and is logged."""
        changed = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(watch([self._file.parent], changed))
            while True:
                await changed.wait()
                changed.clear()
                try:
                    settings = await asyncio.to_thread(read_egress, self._file)
                    if settings != self._settings:
                        self._take(settings)
                except ConfigError as error:
                    _log.error("egress_config_rejected", error=str(error), hint=error.hint, in_force="the file before")

    def _take(self, settings: EgressSettings) -> None:
        self._connections.replace(settings.routes.values(), str(self._file))
        self._in_flight.most, self._in_flight.most_of_one = settings.max_calls, settings.max_calls_per_run
        if settings.port != self._settings.port:
            _log.warning("restart_needed", what="the proxy's port", hint="it holds from the next start on")
        self._settings = settings
        _log.info("egress_config_loaded", routes=len(settings.routes))


def _now() -> int:
    return time.time_ns() // 1_000_000
