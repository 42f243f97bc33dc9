"""Act 6: who holds what, a value whose time is over, a run that is revoked, and the story of it."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from broker_worker.audit.search import Query, search
from broker_worker.cli.demo.cast import Agent
from broker_worker.cli.demo.house import WORKERS, House, until
from broker_worker.cli.demo.serving import ANTHROPIC, OPENAI, show_answer
from broker_worker.cli.demo.stage import Stage, duration
from broker_worker.cli.times import now_ms, show_span

SHORT_SECONDS = 2
"""For how long claude asks to be lent a value whose end is shown."""
REASON = "it reads what it should not"
_LEDGER_SECONDS = 20.0
_RECORD_SECONDS = 10.0
_PAUSE_SECONDS = 0.2
_WATCH_SECONDS = 30.0
_PROMISED_SECONDS = 1.0
_NEWEST = 6

Lease = Mapping[str, Any]
"""A lease as `--json` shows it."""
Holder = tuple[str, str]
"""An agent and the name of what it holds."""


async def lent_and_ended(stage: Stage, house: House, agents: Mapping[str, Agent]) -> None:
    """Act 6: leases, the end of one, and the end of a run."""
    stage.act(
        6,
        "Lent, not given",
        "A value is lent to one run, until a time. The ledger follows the audit, so it knows who holds what.",
    )
    await _show_leases(stage, house, agents)
    await _let_one_end(stage, agents["claude"])
    await _revoke_run(stage, house, agents)
    await _show_exposure(stage, house, agents)
    await _tell_story(stage, house, agents["grok"])


async def _show_leases(stage: Stage, house: House, agents: Mapping[str, Agent]) -> None:
    granted = {(name, answer.name) for name, agent in agents.items() for answer in agent.answers if answer.granted}
    leases = await _ask(house, lambda found: granted <= _held(found), "leases", "list")
    stage.note("$ secret-broker leases list")
    show_leases(stage, leases)
    held = _held(leases)
    stage.check(
        held == granted,
        f"{len(held)} values are lent: what agents were granted, and nothing else",
        ", ".join(f"{agent} {name}" for agent, name in sorted(held ^ granted)),
    )


async def _let_one_end(stage: Stage, claude: Agent) -> None:
    asks = [(ANTHROPIC, f"for {SHORT_SECONDS} s")]
    (answer,) = await claude.ask(asks, lambda a: show_answer(stage, "claude", a), ttl=SHORT_SECONDS)
    over = await claude.watch(ANTHROPIC, _WATCH_SECONDS)
    seconds = time.monotonic() - (time.time() - over.at) - answer.ended
    stage.check(
        over.error == "LeaseExpired",
        f"claude used it all the time; after {duration(seconds)} its Secret raised LeaseExpired",
        over.words,
    )


async def _revoke_run(stage: Stage, house: House, agents: Mapping[str, Agent]) -> None:
    grok = agents["grok"]
    run = f"grok/{grok.run_id}"
    await grok.ask([(OPENAI, "read everything")], lambda a: show_answer(stage, "grok", a))
    watching = asyncio.create_task(grok.watch(OPENAI, _WATCH_SECONDS))
    try:
        stage.note(f'$ secret-broker revoke run {run} --reason "{REASON}"')
        order = json.loads(await house.run("revoke", "run", run, "--reason", REASON, "--by", "the operator", "--json"))
        over = await watching
    finally:
        watching.cancel()
    seconds = over.at - datetime.fromisoformat(order["at"]).timestamp()
    stage.check(
        over.error == "LeaseRevoked" and order["subject"] == run,
        f"{duration(seconds)} after the order grok's copy was gone: its Secret raised LeaseRevoked"
        + ("" if seconds < _PROMISED_SECONDS else "; it should be a second, but this machine is busy"),
        over.words,
    )
    stage.check(await until(lambda: _takers(house, run) == set(WORKERS), _RECORD_SECONDS), "every worker has taken it")
    (refused,) = await grok.ask([(OPENAI, "once more")], lambda a: show_answer(stage, "grok", a))
    (served,) = await agents["claude"].ask([(OPENAI, "go on")], lambda a: show_answer(stage, "claude", a))
    stage.check(
        refused.outcome == "revoked" and served.granted,
        "whatever that run asks is refused from now on; the others are served",
        f"{refused.outcome}, {served.outcome}",
    )


def _takers(house: House, run: str) -> set[str]:
    """The workers that recorded that they refuse a run from now on."""
    events = search(house.settings.audit_dir, Query(event="revoked"), 100).events
    return {event.worker for event in events if event.subject == f"run:{run}"}


async def _show_exposure(stage: Stage, house: House, agents: Mapping[str, Agent]) -> None:
    """Say who held the name that nearly everybody asks for, and who holds it still."""
    got = {
        (name, OPENAI) for name, agent in agents.items() if any(a.granted and a.name == OPENAI for a in agent.answers)
    }
    expected = got - {("grok", OPENAI)}
    leases = await _ask(house, lambda found: _held(found) == expected, "exposure", "--secret", OPENAI)
    stage.note(f"$ secret-broker exposure --secret {OPENAI}")
    show_leases(stage, leases)
    ever = {(lease["agent_id"], lease["secret_name"]) for lease in leases}
    stage.check(
        ever == got and _held(leases) == expected,
        f"had that value leaked: {len(ever)} runs held it, {len(expected)} of them hold it now",
        f"{len(ever)} and {len(_held(leases))}",
    )


async def _tell_story(stage: Stage, house: House, grok: Agent) -> None:
    """Show the newest lines of a run's story, once the ledger has its end."""
    told: list[str] = []

    async def story() -> bool:
        told[:] = (await house.run("runs", "show", f"grok/{grok.run_id}")).splitlines()
        return any("refused  revoked" in line for line in told[-_NEWEST:])

    await _until(story)
    stage.note(f"$ secret-broker runs show grok/{grok.run_id}")
    for line in (*told[:2], f"  … {len(told) - _NEWEST - 2} more", *told[-_NEWEST:]):
        stage.text(line)
    stage.check(
        any("refused  revoked" in line for line in told[-_NEWEST:]) and told[-1] == "holds now: nothing",
        "the story of the run ends with its revocation, and with what was refused since",
    )


async def _ask(house: House, is_told: Callable[[Sequence[Lease]], bool], *command: str) -> Sequence[Lease]:
    """What a command says of leases, once it tells what is expected, or the time for that is over."""
    leases: list[Lease] = []

    async def asked() -> bool:
        said = [json.loads(line) for line in (await house.run(*command, "--json")).splitlines()]
        leases[:] = said[0]["leases"] if command[0] == "exposure" else said
        return is_told(leases)

    await _until(asked)
    return leases


async def _until(asked: Callable[[], Awaitable[bool]]) -> None:
    """Ask again until the ledger has read what happened just now."""
    end = time.monotonic() + _LEDGER_SECONDS
    while not await asked() and time.monotonic() < end:  # noqa: ASYNC110  # another process reads
        await asyncio.sleep(_PAUSE_SECONDS)


def _held(leases: Sequence[Lease]) -> set[Holder]:
    return {(lease["agent_id"], lease["secret_name"]) for lease in leases if lease["open"]}


def show_leases(stage: Stage, leases: Sequence[Lease]) -> None:
    """Show a row for each holder: every worker that serves a run opens a lease for it."""
    of_holders: dict[Holder, list[Lease]] = {}
    for lease in leases:
        of_holders.setdefault((lease["agent_id"], lease["secret_name"]), []).append(lease)
    now = now_ms()
    for (agent, name), held in sorted(of_holders.items()):
        uses, until = sum(lease["uses"] for lease in held), max(lease["until"] for lease in held)
        word = "lent" if any(lease["open"] for lease in held) else _end_of(held[0])
        left = f", {show_span(until - now)} to go" if word == "lent" else ""
        stage.row(agent, name, word, f"{_count(len(held), 'lease')}, {_count(uses, 'use')}{left}")


def _end_of(lease: Lease) -> str:
    return "expired" if lease["until"] == lease["expires_at"] else lease["end_reason"] or "revoked"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
