"""What every page looks like in a real browser, also with what agents write to be run by it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from browser_museum import HOSTILE, PAGES
from browser_site import CONTRAST, NARROW, SCHEMES, WIDE, Site, Visitor, visiting
from playwright.async_api import Browser, Request, expect

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

WIDTHS = (WIDE[0], 768, NARROW[0], 320)
HAS_RING = """(() => {
    const style = getComputedStyle(document.activeElement);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
})()"""
NAMELESS = """(() => {
    const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
    const twice = ids.filter((id, index) => ids.indexOf(id) !== index).map((id) => "id twice: " + id);
    const named = (each) => each.textContent.trim() || each.getAttribute("aria-label") || each.title
        || (each.labels && each.labels.length) || each.querySelector("svg title");
    const controls = [...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, summary")];
    return twice.concat(controls.filter((each) => !named(each)).map((each) => each.outerHTML));
})()"""
OPEN_ALL = "document.querySelectorAll('details').forEach((each) => { each.open = true; })"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guest(chromium: Browser, museum: Site) -> AsyncIterator[Visitor]:
    """A browser that is logged in where there is something of everything to see; nothing moves in it."""
    async with visiting(chromium, museum, reduced_motion="reduce") as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(guest: Visitor) -> AsyncIterator[Visitor]:
    """The same browser for every test, as it was in the beginning: those of a context each took much longer."""
    await guest.page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    await guest.page.emulate_media(color_scheme="light")
    guest.troubles.clear()
    yield guest
    assert guest.troubles == []


async def look_at(visitor: Visitor, path: str) -> None:
    """Visit a page and open everything that can be opened on it."""
    waiting = [item for item in visitor.site.context.approvals.items if item.state == "waiting"]
    path = path.replace("WAITING", waiting[0].approval_id)
    if await visitor.go(path) == 404:
        visitor.forgive("404")
    await visitor.page.evaluate(OPEN_ALL)


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_fits_every_width(visitor: Visitor, path: str) -> None:
    """Nothing sticks out to the side, from a desk's screen to a phone's, with everything on the page opened."""
    await look_at(visitor, path)
    for width in WIDTHS:
        await visitor.page.set_viewport_size({"width": width, "height": 800})
        assert await visitor.is_overflowing() == "", width


@pytest.mark.parametrize("path", PAGES)
async def test_text_stands_out_from_its_ground(visitor: Visitor, path: str) -> None:
    """Every text has the contrast of WCAG 2.2, criterion 1.4.3, on light and dark grounds, wide and narrow."""
    await look_at(visitor, path)
    for scheme in SCHEMES:
        await visitor.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        for width in (WIDE[0], NARROW[0]):
            await visitor.page.set_viewport_size({"width": width, "height": 800})
            count, faint = await visitor.page.evaluate(CONTRAST)
            assert count > 5
            assert faint == [], (scheme, width)


@pytest.mark.parametrize("path", PAGES)
async def test_no_page_runs_what_agents_write(visitor: Visitor, path: str) -> None:
    """No dialog opens, no request leaves, no element of theirs is made; that nothing else complains is shown too."""
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    visitor.page.on("request", note)
    await look_at(visitor, path)
    visitor.page.remove_listener("request", note)
    assert [url for url in asked if not url.startswith(visitor.site.origin)] == []
    assert await visitor.page.locator("main img, main script, main iframe, main [onerror]").count() == 0


@pytest.mark.parametrize("path", ["/", "/approvals", PAGES[4]])
async def test_what_agents_write_is_shown_as_they_wrote_it(visitor: Visitor, path: str) -> None:
    """People see the text, to judge it."""
    await visitor.go(path)
    await expect(visitor.page.get_by_text(HOSTILE).first).to_be_visible()


async def test_100_000_events_are_walked_page_by_page(chromium: Browser, archive: Site) -> None:
    """Every page opens, and the live one shows a hundred events and leads to older ones and back."""
    async with visiting(chromium, archive) as visitor:
        for path in PAGES:
            await look_at(visitor, path)
        await visitor.go("/")
        rows = visitor.page.locator("tbody tr")
        first = await rows.first.get_attribute("id")
        assert await rows.count() == 100
        await visitor.page.get_by_role("link", name="Older").click()
        await expect(visitor.page.get_by_role("link", name="Newest")).to_be_visible()
        assert await visitor.page.locator(f"#{first}").count() == 0
        await visitor.page.get_by_role("link", name="Newest").click()
        await expect(visitor.page.locator(f"#{first}")).to_be_visible()


async def test_the_keyboard_leads_past_the_navigation(visitor: Visitor) -> None:
    """The first Tab offers to skip to the content, and the next one after that is in the content."""
    page = visitor.page
    await visitor.go("/")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.querySelector('main').contains(document.activeElement)")


async def test_the_keyboard_alone_sets_a_filter(visitor: Visitor) -> None:
    """Tab reaches a filter, Enter follows it, and whoever tabs always sees where they are."""
    page = visitor.page
    await visitor.go("/")
    wanted = page.get_by_role("link", name="refused", exact=True)
    for _ in range(40):
        await page.keyboard.press("Tab")
        assert await page.evaluate(HAS_RING), await page.evaluate("document.activeElement.outerHTML")
        if await wanted.evaluate("link => link === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    await expect(wanted).to_have_attribute("aria-current", "true")


@pytest.mark.parametrize("path", PAGES)
async def test_controls_and_pages_have_names(visitor: Visitor, path: str) -> None:
    """Every control says what it is to those who do not see it, ids are there once, headings begin with one h1."""
    await look_at(visitor, path)
    assert await visitor.page.evaluate(NAMELESS) == []
    assert await visitor.page.locator("h1").count() == 1
