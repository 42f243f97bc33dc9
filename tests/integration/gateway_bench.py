"""A gateway on a free port, whose broker is a `FakeDesk` or a real one, and what a program sends to it."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import pytest_asyncio

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.credential import RunCredential
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk
from broker_worker.core.configuration import ServerSettings
from broker_worker.gateway.serving import serve_gateway

HEADERS = {"Authorization": "Bearer eyJ.e30.c2ln", "X-Agent-Id": "claude", "X-Agent-Run-Id": "run-1"}
BODY = {"secrets": ["openai_key"], "purpose": "summarise the ticket"}
VALUE = "sk-very-secret"
HEAD = b"POST /v1/secrets/resolve HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"


@dataclass
class Reached:
    """A gateway that runs.

    Args:
        origin: where.
        desk: who answers, if it is not a real broker.
    """

    origin: str
    desk: FakeDesk = field(default_factory=FakeDesk)

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.origin.rpartition(":")[2])

    async def ask(
        self, body: object = BODY, headers: dict[str, str] | list[tuple[str, str]] | None = None, **more: Any
    ) -> httpx.Response:
        """Ask for secrets, with good headers and a good body where nothing else is said; None takes a header away."""
        given = headers if isinstance(headers, list) else _merged(headers or {})
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with httpx.AsyncClient(base_url=self.origin, trust_env=False, verify=False) as client:
            return await client.post("/v1/secrets/resolve", content=content, headers=given, **more)

    async def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Any other request."""
        async with httpx.AsyncClient(base_url=self.origin, trust_env=False, verify=False) as client:
            return await client.request(method, path, **more)

    async def raw(self, *parts: bytes) -> bytes:
        """Write bytes to a connection, and read all that comes until the gateway closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _merged(headers: dict[str, Any]) -> list[tuple[str, str]]:
    given = {"Content-Type": "application/json", **HEADERS, **headers}
    return [(name, text) for name, text in given.items() if text is not None]


@asynccontextmanager
async def serving(
    load: Callable[[], RunCredential] | None = None, desk: FakeDesk | None = None
) -> AsyncIterator[Reached]:
    """A gateway: of a real broker if `load` gives its credential, else of a desk."""
    desk = desk or FakeDesk()
    stopping, address = asyncio.Event(), asyncio.get_running_loop().create_future()

    def fake(_credential: RunCredential) -> AsyncSecretBroker:
        return FakeAsyncSecretBroker(desk=desk, agent_id="gateway")

    task = asyncio.create_task(
        serve_gateway(
            ServerSettings(port=0),
            load or (lambda: desk.credential("gateway")),
            stopping,
            address.set_result,
            connect=None if load else fake,
        )
    )
    try:
        await asyncio.wait({task, address}, return_when=asyncio.FIRST_COMPLETED)
        yield Reached(await address if address.done() else "", desk)
    finally:
        stopping.set()
        await asyncio.wait_for(task, 20)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_gateway() -> AsyncIterator[Reached]:
    """One gateway for all tests of a module."""
    async with serving() as reached:
        yield reached


@pytest.fixture
def gateway(shared_gateway: Reached) -> Reached:
    """It, with a desk that has two secrets and was asked for nothing yet."""
    desk = shared_gateway.desk
    desk.values = {"openai_key": VALUE, "deploy.key": b"\xff\x00"}
    for what in (desk.requests, desk.refused, desk.rate_limited, desk.needs_approval):
        what.clear()
    return shared_gateway


def problem_of(response: httpx.Response) -> dict[str, object]:
    """The problem that was answered, checked for what every one has."""
    assert response.headers["content-type"] == "application/problem+json"
    content: dict[str, object] = response.json()
    assert content["status"] == response.status_code
    assert re.fullmatch("req-[0-9a-f]{16}", str(content["requestId"]))
    return content
