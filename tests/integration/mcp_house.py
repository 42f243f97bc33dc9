"""What tests of the MCP server share: real processes of `secret-agent mcp`, and real clients whose wire is recorded."""

import asyncio
import os
import shlex
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types as types
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from redis import Redis
from sdk_responder import Letterbox, responding

from agent_sdk.credential import FILE_VARIABLE, RunCredential
from agent_sdk.testing import FakeDesk

COMMAND = (sys.executable, "-m", "agent_sdk.cli", "mcp")
PYTHON = f"{shlex.quote(sys.executable)} -c **"
CANARY = "sk-canary-4fJ8qLx2Zt7wRb9Kd3Vn6Yp1"
"""Stands in no message, whatever is done with it."""
VALUES: dict[str, str | bytes] = {
    "openai.api_key": CANARY,
    "github.read_token": f"ghp_{CANARY}",
    "prod.deploy_key": f"{CANARY}-prod",
    "binary.key": b"\xff\x00" + CANARY.encode(),
}


class House:
    """A desk behind a real queue, and the credential file of one run.

    Args:
        desk: who answers.
        folder: the server's own; its root.
        run: the run's credential.
    """

    def __init__(self, desk: FakeDesk, folder: Path, run: RunCredential) -> None:
        self.desk = desk
        self.folder = folder
        self.wire = bytearray()
        """Every byte that any server sent to its client, or wrote to standard error."""
        self.url = ""
        self.token_file = folder.parent / "mcp.token"
        path = folder.parent / "run.json"
        path.touch(mode=0o600)
        path.write_text(run.to_json())
        self.environ = {**os.environ, FILE_VARIABLE: str(path), "UNRELATED": "not passed on"}

    async def start(self, *options: str, pipe: int | None = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
        """Start `secret-agent mcp`."""
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *("--root", str(self.folder), "--allow-command", PYTHON, *options),
            env=self.environ,
            stdin=pipe,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=16 * 1024 * 1024,
        )

    def pending(self) -> list[str]:
        """The ids of the approvals that wait."""
        return [each.approval_id for each in self.desk.approvals if each.state == "waiting"]

    def check_wire(self) -> None:
        """No value was on it, in any of the forms in which a program is likely to write one."""
        assert len(self.wire) > 1000, "nothing was recorded"
        for name, value in self.desk.values.items():
            raw = value.encode() if isinstance(value, str) else value
            for form in (raw, raw.hex().encode(), b64encode(raw)[:-4]):
                assert form not in self.wire, name

    def stdio(self, process: asyncio.subprocess.Process) -> AbstractAsyncContextManager[Any]:
        """The client's transport over a process's pipes."""
        return _over_pipes(process, self.wire)

    def http(self, **headers: str) -> AbstractAsyncContextManager[Any]:
        """The client's transport over HTTP."""
        return _over_http(self, headers)

    def http_client(self, **headers: str) -> httpx2.AsyncClient:
        """A bare HTTP client whose answers are recorded."""
        return httpx2.AsyncClient(transport=_Recording(self.wire), headers=headers, timeout=30)


@asynccontextmanager
async def house(valkey_socket: Path, folder: Path) -> AsyncIterator[House]:
    """A house over the queue that the tests of this process share."""
    url = f"unix://{valkey_socket}"
    with Redis(unix_socket_path=str(valkey_socket)) as redis:
        redis.flushall()
    desk = FakeDesk(VALUES, needs_approval=["prod.deploy_key"])
    run = desk.credential("claude", queue_url=url)
    root = folder / "root"
    root.mkdir()
    async with responding(url, desk) as responder:
        letterbox = Letterbox(responder, run)
        yield House(desk, root, run)
        await asyncio.gather(*letterbox.letters)


@asynccontextmanager
async def held_open(manager: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
    """Enter and leave a context in one task of its own, as cancel scopes demand; fixtures use two."""
    entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def hold() -> None:
        try:
            async with manager as value:
                entered.set_result(value)
                await leave.wait()
        except BaseException as error:
            if not entered.done():
                entered.set_exception(error)
            raise

    task = asyncio.create_task(hold())
    yield await entered
    leave.set()
    await task


def client(transport: Any, mode: str = "legacy", elicit: Any = None) -> Client:
    """The package's own client."""
    return Client(transport, mode=mode, elicitation_callback=elicit, cache=None)


def text_of(result: Any) -> str:
    """What a model without structured results reads."""
    return "\n".join(block.text for block in result.content)


async def call(client: Client, tool: str, /, **arguments: Any) -> Any:
    """Call a tool."""
    return await client.call_tool(tool, arguments)


def python(code: str, **arguments: Any) -> dict[str, Any]:
    """Arguments of run_command for a piece of Python."""
    return {"argv": [sys.executable, "-c", code], "purpose": "a test", **arguments}


@asynccontextmanager
async def _over_pipes(process: asyncio.subprocess.Process, wire: bytearray) -> AsyncIterator[Any]:
    incoming, read = anyio.create_memory_object_stream[SessionMessage | Exception](100)
    write, outgoing = anyio.create_memory_object_stream[SessionMessage](100)
    # The names are the client's: it reads what comes in.
    to_client, from_server = incoming, read
    assert process.stdin
    assert process.stdout
    assert process.stderr

    async def receive() -> None:
        while line := await process.stdout.readline():  # type: ignore[union-attr]  # asserted above
            wire.extend(line)
            await to_client.send(SessionMessage(types.jsonrpc_message_adapter.validate_json(line, by_name=False)))

    async def listen() -> None:
        while chunk := await process.stderr.read(65536):  # type: ignore[union-attr]  # asserted above
            wire.extend(chunk)

    async def send() -> None:
        async for message in outgoing:
            line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            process.stdin.write(line.encode() + b"\n")  # type: ignore[union-attr]  # asserted above
            await process.stdin.drain()  # type: ignore[union-attr]  # asserted above

    tasks = [asyncio.create_task(each()) for each in (receive, listen, send)]
    try:
        yield from_server, write
    finally:
        process.stdin.close()
        for stream in (to_client, from_server, write, outgoing):
            stream.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 10)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _over_http(house: House, headers: dict[str, str]) -> AsyncIterator[Any]:
    headers = headers or {"Authorization": f"Bearer {house.token_file.read_text().strip()}"}
    async with house.http_client(**headers) as web, streamable_http_client(house.url, http_client=web) as streams:
        yield streams


class _Recording(httpx2.AsyncBaseTransport):
    def __init__(self, wire: bytearray) -> None:
        self._inner = httpx2.AsyncHTTPTransport()
        self._wire = wire

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        self._wire.extend(repr(response.headers).encode())
        response.stream = _RecordedStream(response.stream, self._wire)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _RecordedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: Any, wire: bytearray) -> None:
        self._inner = inner
        self._wire = wire

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._wire.extend(chunk)
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


class Person:
    """Who sits in front of the client: answers elicitations as a test says.

    Args:
        decides: what happens when a link is shown; returns `accept`, `decline` or `cancel`, or
            `refuse` for a client that cannot show it after all.
    """

    def __init__(self, decides: Callable[[], Awaitable[str] | str] = lambda: "accept") -> None:
        self.decides = decides
        self.shown: list[Any] = []

    async def __call__(self, context: Any, params: Any) -> types.ElicitResult | types.ErrorData:
        self.shown.append(params)
        answer = self.decides()
        if answer == "refuse":
            return types.ErrorData(code=types.INVALID_PARAMS, message="cannot show that")
        action: Any = answer if isinstance(answer, str) else await answer
        return types.ElicitResult(action=action)
