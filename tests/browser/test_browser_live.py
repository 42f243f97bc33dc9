"""The live page in a real browser: what happens appears by itself, once, whatever happens to the connection."""

import asyncio
import re

import pytest
from broker_home import Home
from browser_site import Site, Visitor, visiting
from desk_workbench import until
from playwright.async_api import Browser, Locator, expect

from broker_worker.files.keys import load_public_identity
from broker_worker.ledger.database import open_database
from broker_worker.ledger.keeping import Keeper
from broker_worker.queue.acl import LEDGER, user_url

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

LOST = ("[object Event]", "net::ERR_")
"""What htmx and the browser write to the console about a stream that was lost."""


async def shown(visitor: Visitor) -> list[int]:
    """The positions of the events that the page shows, from the top."""
    ids = await visitor.page.locator("tbody tr").evaluate_all("rows => rows.map((row) => row.id)")
    return [int(name.removeprefix("event-")) for name in ids]


def state(visitor: Visitor) -> Locator:
    """What the page says about its stream."""
    return visitor.page.locator(".head .state")


async def test_a_new_event_appears_by_itself(visitor: Visitor) -> None:
    """What an agent asks for while the page is open appears on top, without a reload."""
    old = visitor.site.grant()
    await visitor.go("/")
    await expect(state(visitor)).to_have_text("live")
    new = visitor.site.grant("open a pull request")
    await expect(visitor.page.get_by_text("open a pull request")).to_be_visible()
    assert await shown(visitor) == [new, old]


async def test_the_first_event_takes_the_place_of_the_empty_list(visitor: Visitor) -> None:
    """A page that had nothing to show does not go on saying so."""
    await visitor.go("/")
    await expect(visitor.page.get_by_text("Nothing to show")).to_be_visible()
    visitor.site.grant()
    await expect(visitor.page.locator("tbody tr")).to_have_count(1)
    await expect(visitor.page.get_by_text("Nothing to show")).to_have_count(0)


async def test_a_stream_that_broke_goes_on_where_it_was(visitor: Visitor) -> None:
    """What happened while the connection was away comes once, and nothing comes twice."""
    await visitor.go("/")
    await expect(state(visitor)).to_have_text("live")
    first = visitor.site.grant()
    await expect(visitor.page.locator("tbody tr")).to_have_count(1)
    assert visitor.site.break_connections()
    await expect(state(visitor)).to_contain_text("connection lost")
    second = visitor.site.grant()
    await expect(state(visitor)).to_have_text("live")
    third = visitor.site.grant()
    await expect(visitor.page.locator("tbody tr")).to_have_count(3)
    assert await shown(visitor) == [third, second, first]
    visitor.forgive(*LOST)


async def test_a_stream_that_was_refused_goes_on_where_it_was(visitor: Visitor) -> None:
    """A browser that gave its stream up opens another one later, behind the last event that it has."""
    await visitor.go("/")
    first = visitor.site.grant()
    await expect(visitor.page.locator("tbody tr")).to_have_count(1)
    await visitor.page.route("**/live/stream*", lambda route: route.fulfill(status=503))
    async with visitor.page.expect_response(lambda answer: answer.status == 503):
        visitor.site.break_connections()
    second = visitor.site.grant()
    await visitor.page.unroute("**/live/stream*")
    await expect(state(visitor)).to_have_text("live")
    third = visitor.site.grant()
    await expect(visitor.page.locator("tbody tr")).to_have_count(3)
    assert await shown(visitor) == [third, second, first]
    visitor.forgive(*LOST, "503")


async def test_filters_are_links(visitor: Visitor) -> None:
    """A click on an agent leaves its events, a click on the chip brings the others back; the stream is filtered too."""
    mine, other = visitor.site.grant(), visitor.site.grant(agent_id="codex", secret_name="github.read_token")
    await visitor.go("/")
    await visitor.page.get_by_role("link", name="codex", exact=True).click()
    await expect(visitor.page).to_have_url(re.compile(r"\?agent=codex$"))
    assert await shown(visitor) == [other]
    await expect(state(visitor)).to_have_text("live")
    visitor.site.grant("not of codex")
    later = visitor.site.grant(agent_id="codex", purpose="of codex")
    await expect(visitor.page.get_by_text("of codex")).to_be_visible()
    assert await shown(visitor) == [later, other]
    await visitor.page.get_by_role("link", name="refused", exact=True).click()
    await expect(visitor.page.get_by_text("Nothing to show")).to_be_visible()
    await visitor.page.get_by_role("link", name="remove this filter").click()
    await visitor.page.get_by_role("link", name="all", exact=True).click()
    assert mine in await shown(visitor)
    assert len(await shown(visitor)) == 4


async def test_without_script_the_page_shows_everything_that_is_there(chromium: Browser, site: Site) -> None:
    """The first paint needs no script, and filters work without one."""
    site.grant("call the model")
    async with visiting(chromium, site, java_script_enabled=False) as visitor:
        await visitor.go("/")
        await expect(visitor.page.get_by_text("call the model")).to_be_visible()
        await visitor.page.get_by_role("link", name="refused", exact=True).click()
        await expect(visitor.page.get_by_text("Nothing to show")).to_be_visible()


async def test_a_ledger_that_was_made_anew_is_shown_anew(visitor: Visitor) -> None:
    """A page whose events are no longer those of the ledger loads itself again."""
    visitor.site.grant("of the old ledger")
    await visitor.go("/")
    await expect(state(visitor)).to_have_text("live")
    with visitor.site.writer.begin() as connection:
        connection.exec_driver_sql("DELETE FROM events")
    visitor.site.grant("of the new ledger")
    visitor.site.grant("of the new ledger, too")
    visitor.site.break_connections()
    await expect(visitor.page.get_by_text("of the new ledger, too")).to_be_visible()
    await expect(visitor.page.get_by_text("of the old ledger")).to_have_count(0)
    visitor.forgive(*LOST)


async def test_what_an_agent_asks_for_appears(home: Home, chromium: Browser) -> None:
    """From the agent's question by a worker, its audit and the ledger to the page that is open, without a reload."""
    settings = home.settings
    site = Site(settings, home.clock.now)
    ledger = open_database(settings.ledger_address, writing=True)
    url = user_url(settings.queue_address, home.queue_key, LEDGER)
    keeper = Keeper(ledger, url, load_public_identity(settings.keys_dir), settings.audit_dir)
    keeping = asyncio.create_task(asyncio.to_thread(keeper.run))
    try:
        async with (
            home.working(publishing=True),
            site.served(),
            visiting(chromium, site) as visitor,
            home.client() as claude,
        ):
            await claude.get("openai.api_key", purpose="before the page was there")
            await until(lambda: visit_shows(visitor, "before the page was there"))
            await claude.get("anthropic.api_key", purpose="while the page is open")
            row = visitor.page.get_by_role("row").filter(has_text="while the page is open")
            await expect(row).to_contain_text("anthropic.api_key")
            await expect(row).to_contain_text("claude")
    finally:
        keeper.stop()
        await keeping
        ledger.dispose()
        site.writer.dispose()


async def visit_shows(visitor: Visitor, text: str) -> bool:
    """Whether the live page, loaded now, has a row with that text."""
    status = await visitor.go("/")
    if status == 503:  # the ledger has no tables yet
        visitor.forgive("503")
    return status == 200 and await visitor.page.get_by_text(text).count() == 1
