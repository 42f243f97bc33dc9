"""Acts 1 to 3: what the policy gives, a flood, and a worker that dies."""

import asyncio
import os
import signal
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import redis

from agent_sdk.wire import keynames
from broker_worker.audit.search import Query, search
from broker_worker.cli.demo.cast import NAMES, Agent, Answer, Asks
from broker_worker.cli.demo.house import WORKERS, House, until
from broker_worker.cli.demo.stage import Stage, duration
from broker_worker.core.errors import QueueError
from broker_worker.queue.acl import broker_url

OPENAI, ANTHROPIC, GITHUB, NOWHERE = "openai.api_key", "anthropic.api_key", "github.read_token", "payroll.master_key"
SCRIPT: Mapping[str, Asks] = {
    "claude": (
        (OPENAI, "embed the documentation"),
        (ANTHROPIC, "review the design"),
        (GITHUB, "have a look at the code"),
        (NOWHERE, "just in case"),
        (OPENAI, "embed what changed"),
    ),
    "codex": ((GITHUB, "read the issue"), (OPENAI, "write the patch"), (ANTHROPIC, "get a second opinion")),
    "grok": ((OPENAI, "rank the search results"), (ANTHROPIC, "compare the models")),
    "random-script": ((OPENAI, ""), (ANTHROPIC, ""), (GITHUB, "backup")),
}
GIVEN = {"claude": {OPENAI, ANTHROPIC}, "codex": {GITHUB, OPENAI}, "grok": {OPENAI}, "random-script": set()}
"""What the policy says, written down once more so that it is checked against something else than itself."""
FLOOD, BURST, PER_SECOND = 500, 100, 10
"""Requests of the flood; what a run may ask for at once and on average where the policy does not say (600/m)."""
_MEANWHILE, _MEANWHILE_PACE = 40, 0.02
_LOAD, _LOAD_PACE = 40, 0.03
_HELD_MS = 50
_CATCH_SECONDS = 5.0
_RESTART_SECONDS = 20.0

Taken = tuple[str, str]
"""An entry that a worker took: its agent and its id."""


async def everybody_asks(stage: Stage, house: House, agents: Mapping[str, Agent]) -> None:
    """Act 1: four agents ask at the same time, each for what it may have and for more."""
    stage.act(1, "Everybody asks", "Four processes at the same time, each for what the policy gives it, and for more.")

    def telling(name: str) -> Callable[[Answer], None]:
        return lambda answer: show_answer(stage, name, answer)

    async with asyncio.TaskGroup() as group:
        for name in NAMES:
            group.create_task(agents[name].ask(SCRIPT[name], telling(name)))
    answers = [(name, answer) for name in NAMES for answer in agents[name].answers]
    granted = [(name, answer) for name, answer in answers if answer.granted]
    wrong = [f"{name} {answer.name}" for name, answer in answers if answer.granted != (answer.name in GIVEN[name])]
    stage.check(
        not wrong and len(answers) == sum(map(len, SCRIPT.values())),
        f"{len(answers)} requests, {len(granted)} granted: exactly what the policy allows, nothing to random-script",
        ", ".join(wrong),
    )
    stage.check(
        all(agents[name].has_right_value(answer) for name, answer in granted),
        "every value that was granted is the one in the vault (proved with a keyed hash, the value stays inside)",
    )
    alike = {_told(answer) for answer in agents["claude"].answers if answer.name in (GITHUB, NOWHERE)}
    stage.check(len(alike) == 1, f"{NOWHERE}, which does not exist, is answered like a name that is not allowed")
    refused = [(name, answer.name) for name, answer in answers if not answer.granted]
    reasons = _reasons(house)
    stage.check(
        all(reasons.get(key, "").startswith("no_grant") for key in refused),
        f"why is in the audit only: claude, {GITHUB}: {reasons.get(('claude', GITHUB), 'no record')}",
    )
    shown = {answer.shown for _, answer in granted}
    stage.check(
        shown == {f"[secret {name}] [secret {name}]" for name in (OPENAI, ANTHROPIC, GITHUB)},
        f"what an agent prints or logs of a value is [secret {OPENAI}]",
    )


def _drop(future: "asyncio.Future[Any]") -> None:
    """Cancel what nobody waits for any more; how it ends is nobody's concern."""
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    future.cancel()


async def flood(stage: Stage, agents: Mapping[str, Agent]) -> None:
    """Act 2: one agent asks for far too much at once; the others notice nothing."""
    stage.act(
        2,
        "A flood",
        f"codex asks {FLOOD} times at once; a run may ask {BURST} times at once and {PER_SECOND} times a second. "
        "claude and grok go on meanwhile.",
    )
    names = ("claude", "grok")
    first = asyncio.Event()
    others = asyncio.gather(
        *(
            agents[name].ask([(OPENAI, "go on")] * _MEANWHILE, lambda _: first.set(), pace=_MEANWHILE_PACE)
            for name in names
        )
    )
    begun = asyncio.create_task(first.wait())
    try:
        waited_for: set[asyncio.Future[Any]] = {begun, others}
        await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        flooded = await agents["codex"].ask([(OPENAI, "flood")] * FLOOD, pace=0)
        calm = dict(zip(names, await others, strict=True))
    finally:
        begun.cancel()
        _drop(others)
    begin, end = min(answer.started for answer in flooded), max(answer.ended for answer in flooded)
    outcomes = Counter(answer.outcome for answer in flooded)
    limited = [answer for answer in flooded if answer.outcome == "rate_limited"]
    retry_after = max((answer.retry_after or 0.0 for answer in limited), default=0.0)
    _row_of_many(stage, "codex", flooded, f"{len(limited)} rate-limited: ask again in {duration(retry_after)}")
    for name, answers in calm.items():
        _row_of_many(stage, name, answers, _waits(answers))
    stage.check(
        outcomes["granted"] + len(limited) == FLOOD
        and 0 < outcomes["granted"] <= BURST + PER_SECOND * (end - begin) + 1
        and all(answer.retry_after for answer in limited),
        f"of {FLOOD} requests {outcomes['granted']} were granted and {len(limited)} rate-limited, each told when to "
        "ask again",
        str(dict(outcomes)),
    )
    everything = [answer for answers in calm.values() for answer in answers]
    during = sum(begin <= answer.started <= end for answer in everything)
    stage.check(
        during > 0 and all(answer.granted for answer in everything),
        f"claude and grok: all {len(everything)} requests granted, {during} of them asked while the flood was on",
    )
    await asyncio.sleep(retry_after)
    again = await agents["codex"].ask([(OPENAI, "ask again, patiently")], lambda a: show_answer(stage, "codex", a))
    stage.check(again[0].granted, f"codex asked again after {duration(retry_after)} and was served")


async def killed_worker(stage: Stage, house: House, agents: Mapping[str, Agent]) -> None:
    """Act 3: a worker is killed with requests in its hands; another one answers them."""
    stage.act(
        3,
        "A worker is killed",
        f"claude and grok ask {_LOAD} times each. {WORKERS[0]} is frozen until requests lie in its hands, then killed "
        "with SIGKILL. Whoever is at work takes over what nobody has touched for 3 s.",
    )
    starts = house.starts_of(WORKERS[0])
    names = ("claude", "grok")
    load = asyncio.gather(*(agents[name].ask([(OPENAI, "work")] * _LOAD, pace=_LOAD_PACE) for name in names))
    try:
        taken = await _kill_holding_requests(house, WORKERS[0])
        stage.row(WORKERS[0], "", "killed", f"holding {_by_agent(taken)}")
        answers = dict(zip(names, await load, strict=True))
    finally:
        _drop(load)
    for name in names:
        _row_of_many(stage, name, answers[name], _waits(answers[name]))
    everything = [answer for found in answers.values() for answer in found]
    granted = sum(answer.granted for answer in everything)
    stage.check(
        granted == len(everything) == 2 * _LOAD,
        f"nothing is lost: {2 * _LOAD} requests, {granted} granted",
        f"{len(everything)} answered",
    )
    heirs = _answered_by(house, taken)
    stage.check(
        bool(taken) and "" not in heirs,
        f"what lay in its hands was answered by {' and '.join(sorted(heirs))}, as the audit says",
        "not by anybody" if taken else "it held nothing",
    )
    back = await until(lambda: house.starts_of(WORKERS[0]) > starts, _RESTART_SECONDS)
    stage.check(back, f"{WORKERS[0]} was started again and is at work")


def show_answer(stage: Stage, agent: str, answer: Answer) -> None:
    """One request and what came of it, as a row."""
    source = {"cache": "cache", "stale": "stale", "provider": "vault", None: ""}[answer.source]
    purpose = f'"{answer.purpose}"' if answer.purpose else "(no purpose given)"
    stage.row(agent, answer.name, answer.outcome, f"{source:<6}{duration(answer.seconds):>9}   {purpose}")


def _row_of_many(stage: Stage, agent: str, answers: Sequence[Answer], rest: str) -> None:
    granted = sum(answer.granted for answer in answers)
    stage.row(agent, f"{len(answers)} requests", f"{granted} granted", rest)


def _waits(answers: Sequence[Answer]) -> str:
    waits = [answer.seconds for answer in answers]
    return f"median {duration(statistics.median(waits))}, longest {duration(max(waits))}"


def _told(answer: Answer) -> tuple[str, str, float | None, str | None]:
    return answer.outcome, answer.words.replace(answer.name, "NAME"), answer.retry_after, answer.source


def _reasons(house: House) -> Mapping[tuple[str, str], str]:
    """What the audit says of refused names: agent and name, and why by which rule."""
    events = search(house.settings.audit_dir, Query(outcome="refused"), 1000).events
    return {(event.agent_id or "", event.secret_name or ""): f"{event.reason}, {event.rule}" for event in events}


def _by_agent(taken: Collection[Taken]) -> str:
    counts = Counter(agent for agent, _ in taken)
    return ", ".join(f"{count} request{'s'[: count - 1]} of {agent}" for agent, count in sorted(counts.items()))


def _answered_by(house: House, taken: Collection[Taken]) -> set[str]:
    """Which workers recorded that they granted these entries; an empty name for an entry that nobody did."""
    events = search(house.settings.audit_dir, Query(outcome="granted"), 100_000).events
    by_entry = {(event.agent_id or "", event.entry_id or ""): event.worker for event in events}
    return {by_entry.get(entry, "") for entry in taken}


async def _kill_holding_requests(house: House, worker: str) -> Collection[Taken]:
    """Freeze a worker until requests lie in its hands, then kill it; returns what it had taken.

    Raises:
        QueueError: if the queue cannot be asked.
    """
    pid = house.pid_of(worker)
    os.kill(pid, signal.SIGSTOP)
    try:
        with redis.Redis.from_url(broker_url(house.settings.queue_address, house.queue_key), protocol=2) as client:
            return await until(lambda: _taken(client, worker), _CATCH_SECONDS)
    except redis.RedisError as error:
        raise QueueError(f"the queue does not say who holds what: {error}") from error
    finally:
        os.kill(pid, signal.SIGKILL)


def _taken(client: "redis.Redis", worker: str) -> Collection[Taken]:
    """What was delivered to a worker and has lain there unanswered."""
    found: list[Taken] = []
    for agent in NAMES:
        key = keynames.requests(agent)
        consumers: Any = client.xinfo_consumers(key, keynames.GROUP)
        for name in (consumer["name"].decode() for consumer in consumers if consumer["pending"]):
            if name.rpartition("-")[0] == worker:
                rows: Any = client.xpending_range(key, keynames.GROUP, "-", "+", 100, name, idle=_HELD_MS)
                found += [(agent, row["message_id"].decode()) for row in rows]
    return found
