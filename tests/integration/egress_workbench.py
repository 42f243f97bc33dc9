"""A proxy of this process between an agent of the tests and an upstream of theirs; the broker is a `FakeDesk`."""

import asyncio
import textwrap
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from desk_workbench import until
from egress_upstream import Authority, Upstream
from yarl import URL

from agent_sdk.credential import RunCredential
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk
from agent_sdk.wire.messages import Call
from broker_worker.egress.addresses import Resolve, resolve_by_system
from broker_worker.egress.serving import Egress

VALUE = "sk-canary-7Q2hVbT0pXw9"
SECRET = "openai.api_key"
ROUTE = """\
egress:
  routes:
    openai:
      upstream: https://localhost:{port}
      secret: openai.api_key
      send: {{header: Authorization, value: "Bearer {{secret}}"}}
      allow:
        - {{method: POST, path: /v1/**}}
        - {{method: GET, path: /v1/**}}
        - {{method: HEAD, path: /v1/**}}
      ca_file: {ca}
      allow_private: [127.0.0.0/8, "::1/128"]
"""


@dataclass
class Bench:
    """All that a test needs. `address` is the proxy's."""

    desk: FakeDesk
    upstream: Upstream
    egress: Egress
    file: Path
    address: str
    agent: aiohttp.ClientSession
    run: RunCredential
    authority: Authority
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to have the proxy look at its file, if it watches."""

    @property
    def port(self) -> int:
        """The proxy's port."""
        return int(self.address.rpartition(":")[2])

    def auth(self, run: RunCredential | None = None) -> dict[str, str]:
        """What an SDK sends that takes the run's token for its key."""
        return {"Authorization": f"Bearer {(run or self.run).token}"}

    async def call(
        self,
        path: str = "/openai/v1/models",
        method: str = "GET",
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | AsyncIterator[bytes] | None = None,
    ) -> "Got":
        """Call the proxy as the run, and read the whole answer."""
        sent = {**self.auth(), **(headers or {})}
        url = URL(self.address + path, encoded=True)
        async with self.agent.request(method, url, headers=sent, data=data, allow_redirects=False) as r:
            return Got(r.status, dict(r.headers), await r.read())

    async def raw(self, *pieces: bytes) -> bytes:
        """Send bytes on a connection of their own, and read until it ends or nothing comes for a moment."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        found = b""
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            while chunk := await asyncio.wait_for(reader.read(65536), 0.5):
                found += chunk
        except TimeoutError:
            pass
        finally:
            writer.close()
        return found

    async def recorded(self, number: int) -> Sequence[Call]:
        """The calls in the broker's audit, once there are so many."""
        await until(lambda: len(self.desk.calls) >= number)
        return self.desk.calls


@dataclass
class Got:
    """An answer as the agent got it."""

    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the upstreams' certificates."""
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def open_bench(
    folder: Path,
    authority: Authority,
    *,
    text: str = ROUTE,
    watch: bool = False,
    resolve: Resolve = resolve_by_system,
) -> AsyncIterator[Bench]:
    """Run an upstream and a proxy with these routes."""
    desk = FakeDesk({SECRET: VALUE})
    file = folder / "egress.yaml"
    async with Upstream(authority.server("localhost")) as upstream:
        file.write_text(textwrap.dedent(text).format(port=upstream.port, ca=authority.file))
        egress = Egress(
            file,
            desk.credential("egress"),
            port=0,
            connect=lambda _: FakeAsyncSecretBroker(desk=desk, agent_id="egress"),
            resolve=resolve,
        )
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        written = asyncio.Event()

        async def tell(_folders: Sequence[Path], changed: asyncio.Event) -> None:
            while await written.wait():
                written.clear()
                changed.set()

        running = asyncio.create_task(egress.run(address.set_result, tell if watch else None))
        await asyncio.wait((running, asyncio.ensure_future(address)), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        try:
            async with aiohttp.ClientSession() as agent:
                run = desk.credential("claude")
                yield Bench(desk, upstream, egress, file, await address, agent, run, authority, written)
        finally:
            egress.stop()
            await running


@pytest.fixture
async def bench(tmp_path: Path, authority: Authority) -> AsyncIterator[Bench]:
    """A proxy with one route, `openai`."""
    async with open_bench(tmp_path, authority) as found:
        yield found
