"""How an approval gets its decision in the demo: by whoever sits at the terminal, or else with alice's key."""

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from broker_worker.cli.demo.house import House, until
from broker_worker.cli.demo.stage import Stage
from broker_worker.core.errors import SetupError

PERSON, GUEST, GROUP = "alice", "you", "ops"
"""Who decides with a key in a file, who may join in with a browser, and the group that the policy names."""
GUEST_SECONDS = 60.0
"""How long whoever sits at the terminal has; and once more after enrolling."""
_LINK = re.compile(r"http://\S+")
_LINK_SECONDS = 20.0
_SETTLE_SECONDS = 10.0


def key_of(house: House) -> Path:
    """The file with alice's key: hers, not the broker's."""
    return house.settings.home / PERSON / "approver.key"


async def furnish_person(house: House) -> None:
    """Make alice's key and list her as somebody who may decide, with the commands that people use.

    Raises:
        SetupError: if one of them fails.
    """
    await house.run("approvers", "new-key", str(key_of(house)), "--no-passphrase")
    await house.run("approvers", "add", PERSON, "--group", GROUP, "--key-file", str(key_of(house)))


async def decide(
    stage: Stage, house: House, approval_id: str, waiting: "asyncio.Task[Any]", *, alone: bool = False
) -> None:
    """Show what is asked, and have somebody decide it.

    Args:
        stage: prints.
        house: the installation.
        approval_id: what is to be decided.
        waiting: done when the agent that waits for it has its answer.
        alone: whether nobody at the terminal is waited for.

    Raises:
        SetupError: if it cannot be decided.
    """
    stage.note(f"$ secret-broker approvals show {approval_id}")
    stage.lines(await house.run("approvals", "show", approval_id))
    link = await dashboard_link(house)
    if link:
        stage.note("The dashboard shows it too. Its link logs in once, within ten minutes:")
        stage.say(f"     {link}")
    if stage.has_person and link and not alone:
        await _await_guest(stage, house, waiting)
    if waiting.done():
        return
    nobody = "Nobody decided" if stage.has_person else "Nobody is at a terminal"
    stage.note(f"{nobody}, so the demo does it with {PERSON}'s key.")
    stage.note(f"$ secret-broker approve {approval_id} --key {PERSON}/approver.key")
    try:
        said = await house.run("approve", approval_id, "--key", str(key_of(house)))
    except SetupError:
        if not await until(waiting.done, _SETTLE_SECONDS):  # somebody else was faster
            raise
    else:
        stage.text(said.splitlines()[-1])


async def dashboard_link(house: House) -> str:
    """A fresh link to the dashboard, or nothing if it is not installed."""
    return (await house.run("dashboard", "link")).strip() if await house.has_dashboard() else ""


async def _await_guest(stage: Stage, house: House, waiting: "asyncio.Task[Any]") -> None:
    """Let whoever sits at the terminal decide, in a browser with an authenticator that is enrolled here and now."""
    async with enrolment(house) as (enrolled, link):
        show_enrolment(stage, link)
        stage.note(f"Enter, or {GUEST_SECONDS:.0f} s without a decision, and the demo decides by itself.")
        with enter() as entered:
            for step in ({waiting, entered, enrolled}, {waiting, entered}):
                await asyncio.wait(step, timeout=GUEST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if waiting.done() or entered.done() or not enrolled.done():
                    return
                if step == {waiting, entered, enrolled}:
                    stage.note("Enrolled. The approval waits for you in the dashboard.")


def show_enrolment(stage: Stage, link: str) -> None:
    """Say how whoever sits at the terminal may decide in the dashboard."""
    if link:
        stage.note("To decide there, first enrol this host's fingerprint reader or your security key:")
        stage.say(f"     {link}")


@contextlib.asynccontextmanager
async def enrolment(house: House) -> AsyncIterator["tuple[asyncio.Future[int], str]"]:
    """Run `secret-broker approvers enrol`; gives what is done when it ends, and the link that it printed."""
    process = await asyncio.create_subprocess_exec(
        *house.command("approvers", "enrol", GUEST, "--group", GROUP),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=house.environment(),
        start_new_session=True,
    )
    ended = asyncio.ensure_future(process.wait())
    try:
        yield ended, await _printed_link(process.stdout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(ended)


async def _printed_link(output: asyncio.StreamReader | None) -> str:
    assert output is not None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINK_SECONDS):
            while line := await output.readline():
                if found := _LINK.search(line.decode(errors="replace")):
                    return found[0]
    return ""


@contextlib.contextmanager
def enter() -> Iterator["asyncio.Future[None]"]:
    """Done when a line is entered at the terminal."""
    loop = asyncio.get_running_loop()
    entered: asyncio.Future[None] = loop.create_future()
    descriptor = sys.stdin.fileno()

    def read() -> None:
        os.read(descriptor, 4096)
        if not entered.done():
            entered.set_result(None)

    loop.add_reader(descriptor, read)
    try:
        yield entered
    finally:
        loop.remove_reader(descriptor)
        entered.cancel()
