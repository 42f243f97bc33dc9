"""Enrolment: one link, one credential of a verified user, for this page and nothing else."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from broker_home import COMMAND, Home
from desk_workbench import until
from software_authenticator import SoftwareAuthenticator

from broker_worker.core.approvers import WebAuthnKey
from broker_worker.core.configuration import Dashboard
from broker_worker.core.errors import SetupError
from broker_worker.files.configuration import load_configuration
from broker_worker.people.assertion import check_assertion
from broker_worker.people.enrolment import Enrolment, enrolment_app, serve_enrolment


class Browser:
    """A browser that has opened the link.

    Args:
        link: as the command shows it.
        device: its authenticator.
    """

    def __init__(self, link: str, device: SoftwareAuthenticator) -> None:
        self.link = link
        self.origin = link.partition("/enrol/")[0]
        self.device = device
        # `localhost` is an IPv6 address first on some hosts; a browser tries both.
        self.client = httpx.AsyncClient(
            base_url=link.replace("localhost", "127.0.0.1"),
            headers={"host": self.origin.removeprefix("http://")},
            trust_env=False,
        )

    async def get(self, path: str = "", **headers: str) -> httpx.Response:
        return await self.client.get(path, headers=headers)

    async def register(self, answer: Any = None, **headers: str) -> httpx.Response:
        """Send an answer; that of the own authenticator if none is given."""
        if answer is None:
            options = (await self.get("options")).json()
            answer = self.device.register(options["challenge"], self.origin)
        sent = {"origin": self.origin, "content-type": "application/json", **headers}
        return await self.client.post("finish", content=json.dumps(answer), headers=sent)


@asynccontextmanager
async def enrolling(
    device: SoftwareAuthenticator | None = None, known: tuple[WebAuthnKey, ...] = (), seconds: float = 20
) -> AsyncIterator[tuple[Browser, "asyncio.Task[WebAuthnKey]"]]:
    """A link that is served, a browser that has it, and what comes of it."""
    links: list[str] = []
    serving = asyncio.create_task(
        serve_enrolment(Enrolment("alice", Dashboard(), known), links.append, seconds=seconds)
    )
    await until(lambda: links)
    browser = Browser(links[0], device or SoftwareAuthenticator())
    try:
        yield browser, serving
    finally:
        await browser.client.aclose()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_a_registered_credential_is_the_one_that_later_signs() -> None:
    """The link ends with it, and the key is what approvers.yaml needs."""
    async with enrolling() as (browser, serving):
        assert "Enrol <strong>alice</strong>" in (await browser.get()).text
        answer = await browser.register()
        assert (answer.status_code, answer.text) == (200, "registered\n")
        key = await asyncio.wait_for(serving, 45)
        assert key == browser.device.key
        assert check_assertion(browser.device.sign(b"x" * 32), key, b"x" * 32, ("http://localhost:7710",))
        with pytest.raises(httpx.ConnectError):
            await browser.get()


async def test_the_browser_is_asked_to_verify_the_user_and_for_no_attestation() -> None:
    """And not to register the same authenticator twice."""
    known = SoftwareAuthenticator().key
    async with enrolling(known=(known,)) as (browser, _):
        options = (await browser.get("options")).json()
    assert options["authenticatorSelection"]["userVerification"] == "required"
    assert (options["attestation"], options["rp"]["id"], options["user"]["name"]) == ("none", "localhost", "alice")
    assert len(options["excludeCredentials"]) == 1


async def test_every_page_is_strict_about_what_it_loads() -> None:
    """No inline script or style, no frame, no cache, no referrer that holds the link."""
    async with enrolling() as (browser, _):
        for path in ("", "enrol.js", "enrol.css", "options", "nothing"):
            headers = (await browser.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
        page = (await browser.get()).text
    assert re.findall(r"<script[^>]*>", page) == ['<script src="enrol.js" defer>']
    assert not re.search(r"<style|style=|\son[a-z]+=|javascript:", page)


async def test_an_answer_that_was_held_back_replaces_nobodys_key() -> None:
    """Who saw the link can begin to answer before the person does, and end after: it works once all the same."""
    went_on = asyncio.Event()
    async with enrolling() as (browser, serving):
        challenge = (await browser.get("options")).json()["challenge"]
        other = json.dumps(SoftwareAuthenticator().register(challenge, browser.origin)).encode()
        begun = asyncio.Event()

        async def held_back() -> AsyncIterator[bytes]:
            yield other[:10]
            begun.set()
            await went_on.wait()
            yield other[10:]

        headers = {"origin": browser.origin, "content-type": "application/json"}
        late = asyncio.create_task(browser.client.post("finish", content=held_back(), headers=headers))
        await begun.wait()
        for _ in range(5):  # by then the server has let it in
            await browser.get("options")
        assert (await browser.register()).status_code == 200
        went_on.set()
        assert (await late).status_code in (400, 404)  # 404 if the server let it in only now
        assert await asyncio.wait_for(serving, 45) == browser.device.key


WRONG: dict[str, Callable[[Browser, str], Any]] = {
    "another challenge": lambda browser, _: browser.device.register("AAAA", browser.origin),
    "another origin": lambda browser, challenge: browser.device.register(challenge, "http://localhost:7710"),
    "another host": lambda browser, challenge: browser.device.register(challenge, browser.origin, rp_id="evil.example"),
    "the user was not verified": lambda browser, challenge: browser.device.register(
        challenge, browser.origin, flags=0x41
    ),
    "the user was not present": lambda browser, challenge: browser.device.register(
        challenge, browser.origin, flags=0x44
    ),
    "nothing was made": lambda browser, challenge: browser.device.register(challenge, browser.origin, flags=0x05),
    "no credential": lambda _, __: {"id": 1},
    "no object": lambda _, __: [],
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_an_answer_that_was_not_asked_for_enrols_nobody(wrong: str) -> None:
    """It can be tried again."""
    async with enrolling() as (browser, serving):
        challenge = (await browser.get("options")).json()["challenge"]
        answer = await browser.register(WRONG[wrong](browser, challenge))
        assert answer.status_code == 400
        assert not serving.done()
        assert (await browser.register()).status_code == 200
        assert await asyncio.wait_for(serving, 45) == browser.device.key


async def test_too_many_wrong_answers_end_the_link() -> None:
    """Nobody is enrolled by trying."""
    async with enrolling() as (browser, serving):
        for _ in range(5):
            assert (await browser.register({})).status_code == 400
        with pytest.raises(SetupError, match="alice is not enrolled: too many answers were wrong"):
            await asyncio.wait_for(serving, 45)


async def test_another_site_can_neither_post_nor_reach_the_page_by_another_name() -> None:
    """Origin and host name are checked; so is the form of what is sent."""
    async with enrolling() as (browser, serving):
        assert (await browser.register({}, origin="http://evil.example")).status_code == 403
        assert (await browser.register({}, origin="null")).status_code == 403
        assert (await browser.register({}, **{"content-type": "text/plain"})).status_code == 403
        assert (await browser.register({"x": "x" * 70_000})).status_code == 413
        assert (await browser.get("options", host="evil.example")).status_code == 404
        port = browser.origin.rpartition(":")[2]
        assert (await browser.get("options", host=f"127.0.0.1:{port}")).status_code == 404
        assert not serving.done()


async def test_without_the_link_s_token_there_is_nothing() -> None:
    """Whoever only knows the port learns nothing."""
    async with enrolling() as (browser, _):
        for path in ("/", "/enrol/", "/enrol/x/", "/enrol/x/options", "/enrol/%C3%A4/", "/favicon.ico"):
            address = browser.origin.replace("localhost", "127.0.0.1") + path
            assert (await browser.get(address)).status_code == 404


async def test_a_link_that_was_used_shows_nothing_any_more() -> None:
    """Not even to a browser that is still connected."""
    enrolment = Enrolment("alice", Dashboard())
    transport = httpx.ASGITransport(enrolment_app(enrolment, "http://localhost:1"))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:1") as client:
        path = f"/enrol/{enrolment.token}/options"
        assert (await client.get(path)).status_code == 200
        enrolment.ended.set()
        assert (await client.get(path)).status_code == 404


async def test_a_link_that_nobody_uses_ends() -> None:
    """With an error that says so."""
    with pytest.raises(SetupError, match="alice is not enrolled: nobody used the link in time"):
        await serve_enrolment(Enrolment("alice", Dashboard()), lambda _: None, seconds=0.05)


def test_a_dashboard_of_another_host_needs_another_way() -> None:
    """A credential made at localhost would not count there."""
    with pytest.raises(SetupError, match="does not count"):
        Enrolment("alice", Dashboard(7710, "https://broker.example"))


@asynccontextmanager
async def enrol_command(home: Home) -> AsyncIterator[tuple["asyncio.subprocess.Process", str]]:
    """`secret-broker approvers enrol alice`, and the link that it shows."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("--home", str(home.settings.home), "approvers", "enrol", "alice", "--group", "ops"),
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        link = ""
        while not link.startswith("http"):
            link = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
        yield process, link
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_command_writes_the_person_whose_browser_answered(home: Home) -> None:
    """`approvers enrol` prints the link, ends, and approvers.yaml has the key."""
    async with enrol_command(home) as (process, link):
        browser = Browser(link, SoftwareAuthenticator())
        assert (await browser.register()).status_code == 200
        await browser.client.aclose()
        assert await asyncio.wait_for(process.wait(), 20) == 0
        person = load_configuration(home.settings.config_dir).approvers.people["alice"]
        assert (person.groups, person.keys) == (("ops",), (browser.device.key,))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's Chromium")
async def test_a_real_browser_registers_a_key_with_its_authenticator(home: Home) -> None:
    """Chromium with its virtual authenticator; without a verified user it says so and nothing is written."""
    from playwright.async_api import async_playwright  # noqa: PLC0415  # only where there is a browser

    async with enrol_command(home) as (process, link), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = await browser.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        devtools = await page.context.new_cdp_session(page)
        await devtools.send("WebAuthn.enable")
        options = {"protocol": "ctap2", "transport": "internal", "hasUserVerification": True}
        added = await devtools.send(
            "WebAuthn.addVirtualAuthenticator", {"options": {**options, "isUserVerified": False}}
        )
        await page.goto(link)
        await page.get_by_role("button", name="Register a key").click()
        await page.get_by_text("No key was registered").wait_for()
        assert process.returncode is None
        await devtools.send(
            "WebAuthn.setUserVerified", {"authenticatorId": added["authenticatorId"], "isUserVerified": True}
        )
        await page.get_by_role("button", name="Register a key").click()
        await page.get_by_text("Registered. The terminal shows the rest").wait_for()
        assert problems == []
        await browser.close()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert set(load_configuration(home.settings.config_dir).approvers.people) == {"alice"}
