"""What tests in a real browser share: Chromium, a dashboard that is served to it, and a page that is being watched."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import pytest_asyncio
from dashboard_house import CHAIN, NOW
from desk_workbench import write_files
from sqlalchemy import create_engine

from agent_sdk.http_server import Server
from agent_sdk.wire.audit import event_id
from broker_worker.dashboard import serving
from broker_worker.dashboard.context import Context
from broker_worker.ledger.schema import EVENTS, METADATA
from broker_worker.settings import Settings

if TYPE_CHECKING:  # loaded by those tests alone that need a browser
    from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_DRAWN_HERE = ["--disable-gpu"]
"""Without it Chromium emulates the graphics processor that a test machine does not have, which costs more time."""
DEADLINE_MS = 30_000.0
"""How long a test waits for what must happen; only a failing test waits that long."""
SCHEMES = ("light", "dark")
CONTRAST = Path(__file__).with_name("contrast.js").read_text()
"""Looks at every text of a page."""
WIDE, NARROW = (1280, 800), (390, 844)


def free_port() -> int:
    """A port of this host that nobody uses."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


@dataclass
class Site:
    """A dashboard as its own process serves it, but in this one, with a clock that can be turned.

    Args:
        settings: the installation.
        clock: tells the time, ms since the epoch.
        port: where it listens; 0 for any free one.
    """

    settings: Settings
    clock: Callable[[], int]
    port: int = 0
    origin: str = ""
    sequence: int = 0

    def __post_init__(self) -> None:
        self.settings.home.mkdir(mode=0o700, exist_ok=True)
        if self.settings.ledger_url is None:
            Path(self.settings.ledger_address.removeprefix("sqlite:///")).parent.mkdir(mode=0o700, exist_ok=True)
        self.writer = create_engine(self.settings.ledger_address)

    @asynccontextmanager
    async def served(self) -> AsyncIterator["Site"]:
        """Serve until the block ends."""
        server: list[Server] = []

        class Seen(Server):
            def __init__(self, app: Any, **options: Any) -> None:
                super().__init__(app, **options)
                server.append(self)

        up = asyncio.Event()

        def ready(origin: str) -> None:
            self.origin = origin
            up.set()

        with patch.object(serving, "Server", Seen), patch.object(serving, "_now", lambda: self.clock()):
            dashboard = serving.Dashboard(self.settings, self.port)
            running = asyncio.create_task(dashboard.run(ready))
            waiting = asyncio.create_task(up.wait())
            await asyncio.wait({running, waiting}, timeout=45, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            assert up.is_set(), running
            (self.server,) = server
        try:
            yield self
        finally:
            dashboard.stop()
            await running

    @property
    def context(self) -> Context:
        """What the pages of the dashboard work with."""
        gate: Any = self.server.config.app
        context: Context = gate._context
        return context

    def record(self, event: str = "access", **columns: Any) -> int:
        """Put an event into the ledger; its position is returned."""
        self.sequence += 1
        known = {"at": self.clock(), "outcome": None, "worker": "worker-1", "chain": CHAIN, "sequence": self.sequence}
        columns = known | {"event_id": event_id(CHAIN, self.sequence), "line": "{}"} | columns
        with self.writer.begin() as connection:
            made = connection.execute(EVENTS.insert().values(event=event, **columns))
        key = made.inserted_primary_key
        assert key is not None
        return int(key[0])

    def grant(self, purpose: str = "call the model", **columns: Any) -> int:
        """Put a release into the ledger."""
        known = {"agent_id": "claude", "run_id": "run-1", "secret_name": "openai.api_key", "outcome": "granted"}
        return self.record(**{**known, "action": "resolve", "purpose": purpose, "latency_us": 900, **columns})

    def break_connections(self) -> int:
        """Cut every connection as a network that went away would; how many there were is returned."""
        cut = list(self.server.server_state.connections)
        for each in cut:
            each.transport.abort()
        return len(cut)

    async def log_in(self, context: "BrowserContext") -> None:
        """Give a browser a session, as a used link would."""
        _, cookie = self.context.sessions.begin(self.clock())
        await context.add_cookies(
            [{"name": self.context.cookie, "value": cookie, "url": self.origin, "httpOnly": True, "sameSite": "Strict"}]
        )


@dataclass
class Visitor:
    """A browser at a site, and what went wrong in it: errors of scripts, refusals of the policy, dialogs.

    Args:
        site: where it is.
        page: its one page.
        troubles: what a page in order never has.
    """

    site: Site
    page: "Page"
    troubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.troubles.append(f"exception: {error}"))
        self.page.on("dialog", self._asked)

    def _said(self, message: "ConsoleMessage") -> None:
        if message.type in {"error", "warning"}:
            self.troubles.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    async def _asked(self, dialog: Any) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def forgive(self, *texts: str) -> None:
        """Forget the troubles that a test provokes itself, and a browser may write down: those with one of these."""
        self.troubles = [trouble for trouble in self.troubles if not any(text in trouble for text in texts)]

    async def go(self, path: str) -> int:
        """Visit a page of the site; the status of the answer is returned."""
        answer = await self.page.goto(self.site.origin + path)
        assert answer is not None
        return answer.status

    async def is_overflowing(self) -> str:
        """What sticks out of the page to the side; empty if nothing does."""
        found = await self.page.evaluate(
            """() => {
                const width = document.documentElement.clientWidth;
                if (document.documentElement.scrollWidth <= width) return "";
                const scrolls = (each) => getComputedStyle(each).overflowX !== "visible";
                const isKept = ({ parentElement: above }) => above && (scrolls(above) || isKept(above));
                return [...document.querySelectorAll("body, body *")]
                    .filter((each) => each.getBoundingClientRect().right > width + 1 && !isKept(each))
                    .map((each) => `${each.tagName}.${each.className}: ${each.textContent.trim().slice(0, 40)}`)
                    .slice(0, 5).join("; ") || "something";
            }"""
        )
        return str(found)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator["Browser"]:
    """One Chromium for all tests of this process; they are skipped where there is none."""
    playwright = pytest.importorskip("playwright.async_api")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on the PATH")
    async with playwright.async_playwright() as started:
        browser = await started.chromium.launch(executable_path=path, args=_DRAWN_HERE)
        yield browser
        await browser.close()


@asynccontextmanager
async def visiting(
    chromium: "Browser", site: Site, *, logged_in: bool = True, **options: Any
) -> AsyncIterator[Visitor]:
    """A browser of its own at a site; in the end nothing must have gone wrong in it."""
    options.setdefault("viewport", {"width": WIDE[0], "height": WIDE[1]})
    context = await chromium.new_context(**options)
    context.set_default_timeout(DEADLINE_MS)
    try:
        if logged_in:
            await site.log_in(context)
        visitor = Visitor(site, await context.new_page())
        yield visitor
        assert visitor.troubles == []
    finally:
        await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def site(tmp_path: Path, chromium: "Browser") -> AsyncIterator[Site]:
    """A dashboard on an empty ledger and no queue, whose clock a test turns by replacing `clock`."""
    made = Site(Settings(home=tmp_path / "home"), lambda: NOW)
    write_files(made.settings.config_dir)
    METADATA.create_all(made.writer)
    async with made.served():
        yield made
    made.writer.dispose()


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(chromium: "Browser", site: Site) -> AsyncIterator[Visitor]:
    """A browser that is logged in at the site."""
    async with visiting(chromium, site) as made:
        yield made
