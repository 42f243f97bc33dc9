"""Act 8: the dashboard, as the browser of a person who has its link gets it; and what is left running at the end."""

import asyncio
import contextlib
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import httpx

from broker_worker.cli.demo.cast import Agent
from broker_worker.cli.demo.deciding import GUEST, dashboard_link, enrolment, show_enrolment
from broker_worker.cli.demo.house import GUARDED, House
from broker_worker.cli.demo.serving import show_answer
from broker_worker.cli.demo.stage import Stage
from broker_worker.core.errors import SetupError
from broker_worker.files.configuration import load_configuration

_PAGES = (
    ("/", "what agents ask for, as it happens"),
    ("/approvals", "what waits for a person, to approve or deny"),
    ("/runs", "every run"),
    ("/runs/grok/{grok}", "one run's story"),
    ("/leases", "who holds what, to revoke"),
    ("/secrets", "use over time"),
    ("/agents", "who asked for what"),
    ("/health", "queue, workers, vault, audit"),
)
_PAGE_SECONDS = 15.0


async def dashboard_pages(stage: Stage, house: House, agents: Mapping[str, Agent]) -> Mapping[str, str]:
    """Act 8: log in with a link and look at every page.

    Returns:
        The pages by path; nothing if the dashboard is not installed.

    Raises:
        SetupError: if the dashboard does not answer.
    """
    stage.act(8, "The dashboard", "The same in a browser of this host, with a link that logs in once.")
    link = await dashboard_link(house)
    if not link:
        stage.note("It is not installed here: the extra `all` of secret-broker has it.")
        return {}
    parts = urlsplit(link)
    origin = f"{parts.scheme}://{parts.netloc}"
    try:
        async with httpx.AsyncClient(base_url=origin, trust_env=False, timeout=_PAGE_SECONDS) as browser:
            return await _look_around(stage, browser, link, agents)
    except httpx.HTTPError as error:
        raise SetupError(f"the dashboard at {origin} does not answer: {type(error).__name__}") from None


async def _look_around(
    stage: Stage, browser: httpx.AsyncClient, link: str, agents: Mapping[str, Agent]
) -> Mapping[str, str]:
    codex, grok = agents["codex"], agents["grok"]
    waiting = codex.answers[-1].approval
    stranger = await browser.get("/approvals")
    form, origin = parse_qs(urlsplit(link).query), {"Origin": str(browser.base_url).rstrip("/")}
    used = [(await browser.post("/login", data=form, headers=origin)).status_code for _ in range(2)]
    pages: dict[str, str] = {}
    for pattern, about in _PAGES:
        path = pattern.format(grok=grok.run_id)
        answer = await browser.get(path)
        pages[path] = answer.text if answer.is_success else ""
        stage.row(pattern.format(grok="…"), f"{len(answer.content):,} bytes", str(answer.status_code), about)
    stage.check(
        (stranger.status_code, used) == (401, [303, 403]),
        "without a login there is nothing to see, and the link logged in once",
        f"{stranger.status_code}, {used}",
    )
    story = pages[f"/runs/grok/{grok.run_id}"]
    stage.check(
        all(pages.values()) and waiting in pages["/approvals"] and "revoked" in story,
        f"it shows that codex waits for {GUARDED}, and that grok's run was revoked",
    )
    return pages


async def leave_running(stage: Stage, house: House, codex: Agent) -> None:
    """Leave the dashboard to whoever sits at the terminal, until Ctrl-C; tell if codex gets its answer meanwhile."""
    with contextlib.suppress(asyncio.CancelledError):
        link = await dashboard_link(house)
        if not link:
            return
        stage.say()
        stage.say("The dashboard is left running. This link logs in once, within ten minutes:")
        stage.say(f"     {link}")
        stage.say("Ctrl-C ends it and removes everything.")
        async with contextlib.AsyncExitStack() as until_the_end:
            if codex.answers[-1].outcome == "approval_pending":
                stage.note(f"codex waits for {GUARDED}: it can be decided there.")
                if not _is_enrolled(house):
                    show_enrolment(stage, (await until_the_end.enter_async_context(enrolment(house)))[1])
                await _tell_answer(stage, codex)
            await asyncio.Event().wait()


async def _tell_answer(stage: Stage, codex: Agent) -> None:
    """Have codex wait for what it was told to wait for, and tell what came of it."""
    last = codex.answers[-1]
    seconds = (last.retry_after or 0.0) + _PAGE_SECONDS
    (answer,) = await codex.ask([(last.name, last.purpose)], seconds=2 * seconds, timeout=seconds)
    show_answer(stage, codex.name, answer)


def _is_enrolled(house: House) -> bool:
    return GUEST in load_configuration(house.settings.config_dir).approvers.people
