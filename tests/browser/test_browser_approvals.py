"""Approving in a real browser: a worker asks, a person's authenticator signs, the worker releases."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from broker_home import Home
from browser_people import Authenticator, asking, decisions, enroll, plug_in
from browser_site import Visitor, visiting
from desk_workbench import LONG
from playwright.async_api import Browser, Locator, expect
from software_authenticator import SoftwareAuthenticator

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import ApprovalDenied

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@dataclass
class Desk:
    """Alice at the page of approvals with her authenticator, while an agent may ask."""

    home: Home
    visitor: Visitor
    authenticator: Authenticator
    claude: AsyncSecretBroker

    def ask(self, purpose: str = "deploy the release") -> "asyncio.Task[Any]":
        """The agent asks for what needs a person, and waits."""
        return asyncio.create_task(self.claude.get("anthropic.api_key", purpose=purpose))

    @property
    def card(self) -> Locator:
        """The one request that waits."""
        return self.visitor.page.locator("#waiting article")

    def button(self, name: str) -> Locator:
        """A button of the card."""
        return self.card.get_by_role("button", name=name, exact=True)

    @property
    def status(self) -> Locator:
        """What the card says about what is being done."""
        return self.card.get_by_role("status")


@pytest_asyncio.fixture(loop_scope="session")
async def desk(home: Home, chromium: Browser) -> AsyncIterator[Desk]:
    """The page is open, nothing waits yet."""
    key = SoftwareAuthenticator()
    enroll(home, alice=key)
    async with asking(home) as site, visiting(chromium, site) as visitor:
        authenticator = await plug_in(visitor.page)
        await authenticator.hold(key)
        await visitor.go("/approvals")
        async with home.client(task="release 1.2") as claude:
            yield Desk(home, visitor, authenticator, claude)


async def test_a_request_appears_and_a_touch_releases_it(desk: Desk) -> None:
    """A card comes without a reload and says what is asked; approving it gives the agent its value."""
    waits = desk.ask()
    await expect(desk.card).to_contain_text("deploy the release")
    await expect(desk.card).to_contain_text("release 1.2")
    await expect(desk.card).to_contain_text("one release, once")
    await desk.button("Approve").click()
    secret = await asyncio.wait_for(waits, LONG)
    assert secret.reveal() == "value of anthropic"
    await expect(desk.visitor.page.locator("#settled article")).to_contain_text("alice")
    await expect(desk.visitor.page.get_by_text("Nobody waits for you")).to_be_visible()
    granted = desk.home.records("access")[-1]
    assert (granted.outcome, granted.approver) == ("granted", "alice")


async def test_without_user_verification_nothing_is_approved(desk: Desk) -> None:
    """A finger that the authenticator does not know signs nothing; the page says so, and the next try may succeed."""
    waits = desk.ask()
    await desk.authenticator.verifies(False)
    await desk.button("Approve").click()
    await expect(desk.status).to_contain_text("Nothing was signed")
    assert decisions(desk.home) == 0
    assert not waits.done()
    await desk.authenticator.verifies(True)
    await desk.button("Approve").click()
    assert (await asyncio.wait_for(waits, LONG)).reveal() == "value of anthropic"


async def test_a_denial_needs_a_reason_and_reaches_the_agent(desk: Desk) -> None:
    """Without a reason the page asks for one; with one the agent is told that it was denied."""
    waits = desk.ask()
    await desk.button("Deny").click()
    await expect(desk.status).to_contain_text("Say why")
    assert decisions(desk.home) == 0
    await desk.card.get_by_label("Reason").fill("not on a Friday")
    await desk.button("Deny").click()
    with pytest.raises(ApprovalDenied):
        await asyncio.wait_for(waits, LONG)
    await expect(desk.visitor.page.locator("#settled article")).to_contain_text("not on a Friday")


async def test_another_key_than_the_persons_own_signs_nothing(desk: Desk) -> None:
    """A credential that was replaced in approvers.yaml is not offered to the authenticator any more."""
    waits = desk.ask()
    await expect(desk.card).to_be_visible()
    enroll(desk.home, alice=SoftwareAuthenticator())
    await desk.button("Approve").click()
    await expect(desk.status).to_contain_text("Nothing was signed")
    assert decisions(desk.home) == 0
    waits.cancel()


async def test_a_session_that_is_over_signs_nothing(desk: Desk) -> None:
    """The page says that the session is over before the authenticator is asked for anything."""
    waits = desk.ask()
    await expect(desk.card).to_be_visible()
    desk.visitor.site.context.sessions.end_all()
    await desk.button("Approve").click()
    await expect(desk.status).to_contain_text("log in again")
    assert decisions(desk.home) == 0
    waits.cancel()
    desk.visitor.forgive("401", "[object Event]", "net::ERR_")


async def test_a_person_approves_with_the_keyboard_alone(desk: Desk) -> None:
    """Tab leads to the form of the card, and Enter approves."""
    waits = desk.ask()
    await expect(desk.card).to_be_visible()
    page = desk.visitor.page
    for _ in range(40):
        await page.keyboard.press("Tab")
        if await desk.button("Approve").evaluate("button => button === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    assert (await asyncio.wait_for(waits, LONG)).reveal() == "value of anthropic"


async def test_two_browsers_see_one_decision(desk: Desk, chromium: Browser) -> None:
    """What one person decides leaves the other's list by itself, and cannot be decided again there."""
    waits = desk.ask()
    async with visiting(chromium, desk.visitor.site) as other:
        await other.go("/approvals")
        await expect(other.page.locator("#waiting article")).to_be_visible()
        await desk.button("Approve").click()
        await expect(other.page.locator("#settled article")).to_be_visible()
        await expect(other.page.locator("#waiting article")).to_have_count(0)
    await asyncio.wait_for(waits, LONG)


async def test_a_hostile_purpose_is_text_where_people_sign(desk: Desk) -> None:
    """What an agent writes to be run, or to look like the page's own words, is shown as it was written."""
    hostile = '"><img src=x onerror=alert(1)><script>alert(2)</script><form action=//evil.example>'
    waits = desk.ask(hostile)
    await expect(desk.card.locator(".purpose")).to_have_text(hostile)
    assert await desk.card.locator("img, script").count() == 0
    assert await desk.card.locator("form").count() == 1
    waits.cancel()
