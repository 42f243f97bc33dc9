"""A dashboard for tests: its pages in this process, on a ledger in a file, with a clock that can be turned."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, create_engine

from agent_sdk.wire.audit import event_id
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import QueueError
from broker_worker.core.revocations import Kind, Revocation
from broker_worker.dashboard.app import make_app
from broker_worker.dashboard.context import Context
from broker_worker.dashboard.feed import Feed
from broker_worker.dashboard.links import Links
from broker_worker.dashboard.serving import read_only
from broker_worker.files.configuration import load_configuration
from broker_worker.ledger.schema import EVENTS, METADATA
from broker_worker.people.inbox import Inbox, open_inbox
from broker_worker.settings import Settings

NOW = 1_893_680_000_000
"""In the future: a real queue's ids that lie ahead of a clock are those of somebody who spoiled a stream."""
ORIGIN = "http://localhost:7710"
CHAIN = "00112233445566aa"


@cache
def made_ledger(fill: Callable[[Engine], object] = METADATA.create_all) -> bytes:
    """The file of a ledger that was made once in this process: its copies cost no time.

    Args:
        fill: makes it in an empty database.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite3"
        engine = create_engine(f"sqlite:///{path}")
        fill(engine)
        engine.dispose()
        return path.read_bytes()


@dataclass
class House:
    """One dashboard.

    Args:
        folder: its home.
        redis_url: its queue; None for none, so that approvals are never read.
        now: the time, ms since the epoch.
        revoked: the orders that its pages gave.
    """

    folder: Path
    redis_url: str | None = None
    now: int = NOW
    revoked: list[Revocation] = field(default_factory=list)
    sequence: int = 0

    def __post_init__(self) -> None:
        self.settings = Settings(home=self.folder, redis_url=self.redis_url)
        file = self.folder / "ledger.sqlite3"
        file.write_bytes(made_ledger())
        self.database = f"sqlite:///{file}"
        self.writer = create_engine(self.database)
        self.reader = read_only(self.database)
        self.context = Context(
            settings=self.settings,
            configuration=self.configuration,
            ledger=self.reader,
            approvals=Feed(self.inbox if self.redis_url else self.no_queue),
            revoke=self.revoke,
            revoke_all=self.revoke_all,
            clock=lambda: self.now,
            origin=ORIGIN,
            links=Links(self.settings.state_dir / "dashboard"),
        )
        self.app = make_app(self.context)

    def configuration(self) -> Configuration:
        """The operator's files."""
        return load_configuration(self.settings.config_dir)

    def inbox(self) -> AbstractAsyncContextManager[Inbox]:
        """What connects to the queue."""
        return open_inbox(self.settings, self.configuration, lambda: self.now)

    def no_queue(self) -> AbstractAsyncContextManager[Inbox]:
        """What connects to the queue, where a test has none."""
        raise QueueError("these tests have no queue")

    async def revoke(
        self, settings: Settings, kind: Kind, subject: str, *, version: str | None = None, reason: str, by: str
    ) -> Revocation:
        """Remember an order instead of publishing it."""
        order = Revocation(
            revocation_id="00" * 8,
            order="revoke",
            kind=kind,
            subject=subject,
            version=version,
            at=self.now,
            reason=reason,
            by=by,
        )
        self.revoked.append(order)
        return order

    async def revoke_all(
        self, settings: Settings, kind: Kind, subjects: Sequence[str], *, reason: str, by: str
    ) -> list[Revocation]:
        """Remember orders instead of publishing them."""
        return [await self.revoke(settings, kind, subject, reason=reason, by=by) for subject in subjects]

    def client(self, origin: str = ORIGIN) -> httpx.AsyncClient:
        """A browser that is not logged in."""
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url=origin, headers={"Origin": origin})

    async def log_in(self, client: httpx.AsyncClient) -> None:
        """Log a browser in with a fresh link."""
        token = self.context.links.make(self.now)
        answer = await client.post("/login", data={"token": token})
        assert answer.status_code == 303, answer.text

    @property
    def csrf(self) -> str:
        """The form token of the newest session."""
        return list(self.context.sessions._open.values())[-1].csrf

    def record(self, event: str = "access", *, at: int | None = None, **columns: Any) -> int:
        """Put an event into the ledger; its position is returned."""
        self.sequence += 1
        standard = {"outcome": None, "worker": "worker-1", "chain": CHAIN, "sequence": self.sequence, "line": "{}"}
        columns = standard | columns
        with self.writer.begin() as connection:
            made = connection.execute(
                EVENTS.insert().values(
                    event=event,
                    at=self.now if at is None else at,
                    event_id=event_id(columns["chain"], columns["sequence"]),
                    **columns,
                )
            )
        key = made.inserted_primary_key
        assert key is not None
        return int(key[0])

    async def follow(
        self, client: httpx.AsyncClient, address: str, *, last: str | None = None, enough: Callable[[str], bool]
    ) -> str:
        """What a browser receives of a stream until it has enough and leaves, or the stream ends."""
        headers = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": last})
        request = client.build_request("GET", address, headers=headers)
        client.cookies.set_cookie_header(request)
        url = request.url
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": url.path,
            "raw_path": url.raw_path,
            "query_string": url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": ("localhost", 7710),
            "client": ("127.0.0.1", 1),
        }
        got: list[bytes] = []
        leaving = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await leaving.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            got.append(message.get("body", b""))
            if message["type"] == "http.response.start":
                got.append(f"{message['status']}\n".encode())
            if enough(b"".join(got).decode()):
                leaving.set()

        async with asyncio.timeout(45):
            await self.app(scope, receive, send)
        return b"".join(got).decode()

    def close(self) -> None:
        """Let go of the database."""
        self.writer.dispose()
        self.reader.dispose()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A dashboard on an empty ledger."""
    made = House(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def browser(house: House) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that is logged in."""
    async with house.client() as client:
        await house.log_in(client)
        yield client
