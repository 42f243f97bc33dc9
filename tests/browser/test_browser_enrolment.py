"""Enrolling in a real browser: a person's authenticator makes a key, and with that key the person approves."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from broker_home import Home, Processes
from browser_people import Authenticator, asking, decisions, enroll, plug_in
from browser_site import CONTRAST, NARROW, Visitor, visiting
from desk_workbench import LONG, until
from playwright.async_api import Browser, expect

from broker_worker.files.configuration import load_configuration

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@dataclass
class Newcomer:
    """Somebody at a browser with an authenticator, and an operator at a terminal; nobody may approve yet."""

    home: Home
    visitor: Visitor
    authenticator: Authenticator
    processes: Processes

    async def link(self, name: str = "alice") -> str:
        """What `approvers enrol` prints."""
        self.processes.start("approvers", "enrol", name, "--group", "ops")
        found = await until(lambda: re.findall(r"http://localhost:\d+/enrol/\S+", self.processes.log))
        return str(found[-1])

    @property
    def people(self) -> list[str]:
        """Who may approve, as the file says."""
        return sorted(load_configuration(self.home.settings.config_dir).approvers.people)


@pytest_asyncio.fixture(loop_scope="session")
async def newcomer(home: Home, chromium: Browser) -> AsyncIterator[Newcomer]:
    """Everything runs, and nobody is enrolled."""
    enroll(home)
    processes = Processes(home)
    try:
        async with asking(home) as site, visiting(chromium, site) as visitor:
            yield Newcomer(home, visitor, await plug_in(visitor.page), processes)
    finally:
        for process in processes._started:
            process.kill()
            process.wait()


async def test_who_enrols_can_approve(newcomer: Newcomer) -> None:
    """The key that the page registers is written by the command, and signs what the dashboard asks next."""
    page, loaded = newcomer.visitor.page, len(newcomer.home.records("config_loaded"))
    await page.goto(await newcomer.link())
    await page.get_by_role("button", name="Register a key").click()
    await expect(page.get_by_role("status")).to_contain_text("Registered")
    await until(lambda: newcomer.people == ["alice"])
    await until(lambda: len(newcomer.home.records("config_loaded")) > loaded)
    assert await newcomer.authenticator.credentials() == 1
    async with newcomer.home.client() as claude:
        waits = asyncio.create_task(claude.get("anthropic.api_key", purpose="deploy"))
        await newcomer.visitor.go("/approvals")
        await page.get_by_role("button", name="Approve").click()
        assert (await asyncio.wait_for(waits, LONG)).reveal() == "value of anthropic"
    assert decisions(newcomer.home) == 1


async def test_nobody_enrols_unverified(newcomer: Newcomer) -> None:
    """An authenticator that does not know who touches it registers nothing, and the page says so."""
    page = newcomer.visitor.page
    await newcomer.authenticator.verifies(False)
    await page.goto(await newcomer.link())
    await page.get_by_role("button", name="Register a key").click()
    await expect(page.get_by_role("status")).to_contain_text("No key was registered")
    assert newcomer.people == []


async def test_a_link_enrols_one_person_once(newcomer: Newcomer) -> None:
    """After its use the link leads nowhere."""
    page = newcomer.visitor.page
    link = await newcomer.link()
    await page.goto(link)
    await page.get_by_role("button", name="Register a key").click()
    await expect(page.get_by_role("status")).to_contain_text("Registered")
    await until(lambda: newcomer.people == ["alice"])
    with pytest.raises(Exception, match="ERR_CONNECTION_REFUSED"):
        await page.goto(link)
    newcomer.visitor.forgive("ERR_CONNECTION_REFUSED")


async def test_the_page_of_a_link_is_readable_on_a_phone_in_the_dark(newcomer: Newcomer) -> None:
    """It is of the same kind as the dashboard's pages: nothing sticks out, every text stands out."""
    page = newcomer.visitor.page
    await page.goto(await newcomer.link())
    await page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
    assert await newcomer.visitor.is_overflowing() == ""
    await page.emulate_media(color_scheme="dark")
    count, faint = await page.evaluate(CONTRAST)
    assert (count > 2, faint) == (True, [])
