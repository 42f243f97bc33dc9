"""Act 7: an agent stores a value that another one may read, and a key is rotated while an agent holds it."""

import asyncio
import json
from collections.abc import Mapping

from broker_worker.audit.search import Query, search
from broker_worker.cli.demo.cast import Agent
from broker_worker.cli.demo.house import CANARY, CREATED, CREATED_LINES, PLACE_LINES, ROTATED, WORKERS, House, until
from broker_worker.cli.demo.serving import show_answer
from broker_worker.cli.demo.stage import Stage
from broker_worker.files.configuration import load_configuration

_RECORD_SECONDS = 10.0
_STEPS = ("started", "drafted", "probed", "promoted")


async def written_and_rotated(stage: Stage, house: House, agents: Mapping[str, Agent]) -> None:
    """Act 7: what agents store is governed at once, and nothing is pulled from under anybody."""
    stage.act(
        7,
        "Written back, and rotated",
        "Agents create secrets too. The operator lets codex create one, which claude may read: reading never implies "
        "writing, nor the other way round.",
    )
    await _change_files(stage, house)
    await _store(stage, house, agents["codex"], agents["claude"])
    await _rotate(stage, house, agents["claude"])


async def _change_files(stage: Stage, house: House) -> None:
    house.let_write()
    for line in (*CREATED_LINES.splitlines(), *PLACE_LINES.splitlines()[1:]):
        stage.say(f"   +{line}")
    digest = load_configuration(house.settings.config_dir).policy.digest

    def loaded() -> bool:
        events = search(house.settings.audit_dir, Query(event="config_loaded"), 1000).events
        return {event.worker for event in events if event.policy == digest} == set(WORKERS)

    stage.check(await until(loaded, _RECORD_SECONDS), f"{' and '.join(WORKERS)} work by the changed files")


async def _store(stage: Stage, house: House, codex: Agent, claude: Agent) -> None:
    stored = await codex.store(CREATED, "webhook of release 1.4", f"whk_{CANARY}")
    stage.row("codex", CREATED, "stored" if stored.granted else stored.outcome, f'"{stored.purpose}"')
    again = await codex.store(CREATED, "once more", f"whk_{CANARY}")
    stage.row("codex", CREATED, again.outcome, f'"{again.purpose}"')
    stage.check(
        stored.granted and again.outcome == "conflict",
        "codex stored a value that nobody else has seen; a name is created once",
        f"{stored.outcome} {stored.words}, {again.outcome}",
    )
    (unread,) = await codex.ask([(CREATED, "read it back")], lambda a: show_answer(stage, "codex", a))
    (read,) = await claude.ask([(CREATED, "call the webhook")], lambda a: show_answer(stage, "claude", a))
    house.learn(CREATED, f"agents.{CREATED}")
    stage.check(
        read.granted and claude.has_right_value(read) and unread.outcome == "denied",
        "claude has it at once, from where the registry's rule keeps it; codex itself may not read it",
        f"{read.outcome}, {unread.outcome}",
    )


async def _rotate(stage: Stage, house: House, claude: Agent) -> None:
    await claude.ask([(ROTATED, "before")], lambda a: show_answer(stage, "claude", a))
    stage.note(f"$ secret-broker rotate {ROTATED} --no-wait")
    told, said = await asyncio.gather(
        claude.see_rotated(ROTATED, _RECORD_SECONDS), house.run("rotate", ROTATED, "--no-wait", "--json")
    )
    found = json.loads(said)
    steps = search(house.settings.audit_dir, Query(event="rotation"), 100).events
    stage.check(
        (found["step"], found["replaces"], found["version"]) == ("promoted", "1", "2")
        and {event.reason for event in steps} == set(_STEPS),
        f"version {found['version']} was {', '.join(_STEPS[1:])}: a command of the operator's tried it first",
        said.strip(),
    )
    stage.check(
        told.words == "rotated, and usable",
        "claude was told, and what it holds works on: its lease runs to its end",
        told.words,
    )
    house.learn(ROTATED, ROTATED)
    (after,) = await claude.ask([(ROTATED, "after")], lambda a: show_answer(stage, "claude", a))
    stage.check(
        after.granted and claude.has_right_value(after),
        "asking again brings the new value, from whichever worker",
        after.outcome,
    )
