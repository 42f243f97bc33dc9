"""What a browser is refused: other people's pages, sessions that are over, and what agents write to be run by it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from browser_site import Site, Visitor, visiting
from playwright.async_api import Browser, expect

from broker_worker.dashboard.sessions import IDLE_MS

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

OVER = re.compile("the session is over")
LOGOUT = """
<form method="post" action="{origin}/logout"><input name="csrf" value="{csrf}"><input name="everywhere" value="1">
<button>You have won</button></form>
"""


@asynccontextmanager
async def elsewhere(text: str, name: str) -> AsyncIterator[str]:
    """Another site on this host that shows one page; its address."""
    body = f"<!doctype html><title>elsewhere</title>{text}".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://{name}:{server.sockets[0].getsockname()[1]}/"


async def test_a_link_logs_in_once(chromium: Browser, site: Site) -> None:
    """Whoever opens the link presses one button and is in; the second time the same link says that it is used."""
    link = f"/login?token={site.context.links.make(site.clock())}"
    async with visiting(chromium, site, logged_in=False) as visitor:
        await visitor.go(link)
        await visitor.page.get_by_role("button", name="Open the dashboard").click()
        await expect(visitor.page.get_by_role("heading", name="Live")).to_be_visible()
        await visitor.page.get_by_role("button", name="Log out").click()
        await expect(visitor.page.get_by_role("heading", name="Log in with a link")).to_be_visible()
        assert await visitor.go(link) == 403
        await expect(visitor.page.get_by_role("alert")).to_contain_text("this link was used")
        visitor.forgive("403")


async def test_a_session_that_is_over_says_so(visitor: Visitor) -> None:
    """A page that was left open stops following, says why, and leads to the login."""
    site = visitor.site
    await visitor.go("/")
    await expect(visitor.page.locator(".state")).to_have_text("live")
    later = site.clock() + IDLE_MS
    site.clock = lambda: later
    await expect(visitor.page.locator(".state")).to_have_text(OVER)
    await visitor.page.get_by_role("link", name="Runs", exact=True).click()
    await expect(visitor.page.get_by_role("heading", name="Log in with a link")).to_be_visible()
    visitor.forgive("401", "[object Event]", "net::ERR_")


async def test_a_dashboard_that_began_anew_asks_for_a_login(visitor: Visitor) -> None:
    """Sessions live in the process, so that a browser that finds another one there says that it has to log in."""
    await visitor.go("/")
    await expect(visitor.page.locator(".state")).to_have_text("live")
    visitor.site.context.sessions.end_all()
    visitor.site.break_connections()
    await expect(visitor.page.locator(".state")).to_have_text(OVER)
    visitor.forgive("401", "[object Event]", "net::ERR_")


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_a_form_of_another_site_does_nothing(visitor: Visitor, name: str) -> None:
    """Neither another host nor another port of this one acts for the person, even with the session's form token."""
    site = visitor.site
    (session,) = site.context.sessions._open.values()
    async with elsewhere(LOGOUT.format(origin=site.origin, csrf=session.csrf), name) as address:
        await visitor.page.goto(address)
        async with visitor.page.expect_response(f"{site.origin}/logout") as answered:
            await visitor.page.get_by_role("button").click()
        answer = await answered.value
    assert answer.status == 403
    assert "sent by another site" in await visitor.page.inner_text("body")
    assert await visitor.go("/") == 200
    visitor.forgive("403", "favicon")


async def test_a_script_of_another_site_neither_acts_nor_reads(visitor: Visitor) -> None:
    """What a page on another port fetches is refused or kept from it, though the browser sends the cookie along."""
    site = visitor.site
    (session,) = site.context.sessions._open.values()
    script = """([address, csrf]) => {
        const body = new URLSearchParams({ csrf, reason: "because", everywhere: "1" });
        const ask = (path, more) => fetch(address + path, { credentials: "include", ...more })
            .then((answer) => answer.type, (error) => error.name);
        const post = (path) => ask(path, { method: "POST", mode: "no-cors", body });
        const reads = [ask("/"), ask("/static/approvals.js", { mode: "no-cors" })];
        return Promise.all([...reads, post("/logout"), post("/runs/claude/run-1/revoke")]);
    }"""
    async with elsewhere("", "localhost") as address:
        await visitor.page.goto(address)
        assert await visitor.page.evaluate(script, [site.origin, session.csrf]) == ["TypeError"] * 4
    assert await visitor.go("/") == 200
    assert not site.settings.revocations_file.exists()
    visitor.forgive("CORS", "net::ERR_", "favicon")


async def test_no_other_page_shows_the_dashboard_in_a_frame(visitor: Visitor) -> None:
    """A page that lays something over a frame cannot have people press the dashboard's buttons."""
    async with elsewhere(f'<iframe src="{visitor.site.origin}/"></iframe>', "localhost") as address:
        await visitor.page.goto(address)
        (frame,) = visitor.page.main_frame.child_frames
        assert frame.url.startswith("chrome-error:")
    visitor.forgive("frame-ancestors", "favicon")
