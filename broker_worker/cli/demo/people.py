"""Act 5: a secret that a person must allow, each time anew, and what forged decisions do."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

import redis
from msgspec import structs

from agent_sdk.wire import keynames
from agent_sdk.wire.audit import format_time
from agent_sdk.wire.sealing import run_public_key
from broker_worker.audit.search import Query, search
from broker_worker.cli.demo.cast import Agent, Answer
from broker_worker.cli.demo.deciding import GROUP, PERSON, decide, furnish_person
from broker_worker.cli.demo.house import GUARDED, GUARDED_LINES, WORKERS, House, until
from broker_worker.cli.demo.serving import OPENAI, show_answer
from broker_worker.cli.demo.stage import Stage
from broker_worker.cli.times import now_ms
from broker_worker.core.approvals import ApprovalRequest, Decision, decode_decision, sign_decision
from broker_worker.core.control import decision_message, decode_control
from broker_worker.core.errors import QueueError
from broker_worker.files.configuration import load_configuration
from broker_worker.people.current_rules import CurrentRules
from broker_worker.people.inbox import open_inbox

PURPOSE = "deploy release 1.4"
_RECORD_SECONDS = 10.0
_WAIT_SECONDS = 300.0


async def person_is_asked(stage: Stage, house: House, agents: Mapping[str, Agent]) -> None:
    """Act 5: codex waits for a person; what the person allows is released once, and nothing else is."""
    stage.act(
        5,
        "A person is asked",
        f"While everything runs, the operator lets codex have {GUARDED}, but only when one of {GROUP} allows it. "
        f"{PERSON} is one of them; her key is in a file of hers, which no process of the broker reads.",
    )
    codex = agents["codex"]
    await _change_policy(stage, house)
    async with _waiting(stage, house, codex, PURPOSE) as (asked, waiting):
        (meanwhile,) = await agents["claude"].ask([(OPENAI, "go on")], lambda a: show_answer(stage, "claude", a))
        stage.check(meanwhile.granted and not waiting.done(), "nobody else has to wait: claude is served meanwhile")
        await _forge(stage, house, asked)
        stage.check(not waiting.done(), "codex still waits")
        await decide(stage, house, asked.approval_id, waiting)
        (answer,) = await waiting
    show_answer(stage, "codex", answer)
    if answer.outcome == "approval_denied":
        stage.check(not answer.granted, "a person said no: codex gets nothing")
        async with _waiting(stage, house, codex, "deploy to staging") as (asked, waiting):
            await decide(stage, house, asked.approval_id, waiting, alone=True)
            (answer,) = await waiting
        show_answer(stage, "codex", answer)
    _check_release(stage, house, codex, answer)
    await _ask_again(stage, house, codex, asked)


@contextlib.asynccontextmanager
async def _waiting(
    stage: Stage, house: House, codex: Agent, purpose: str
) -> AsyncIterator[tuple[ApprovalRequest, "asyncio.Task[list[Answer]]"]]:
    """Have codex ask and wait; gives what people are asked, and what is done when codex has its answer."""
    waiting = asyncio.create_task(codex.ask([(GUARDED, purpose)], seconds=2 * _WAIT_SECONDS, timeout=_WAIT_SECONDS))
    try:
        asked = await _question(house, codex, purpose)
        stage.row("codex", GUARDED, "waits", f'for a person    "{purpose}"')
        yield asked, waiting
    finally:
        waiting.cancel()


async def _change_policy(stage: Stage, house: House) -> None:
    await furnish_person(house)
    house.guard()
    stage.note("policy.yaml, below codex:")
    for line in GUARDED_LINES.splitlines():
        stage.say(f"   +{line}")
    digest = load_configuration(house.settings.config_dir).policy.digest

    def loaded() -> bool:
        events = search(house.settings.audit_dir, Query(event="config_loaded"), 1000).events
        return {event.worker for event in events if event.policy == digest} == set(WORKERS)

    stage.check(await until(loaded, _RECORD_SECONDS), f"{' and '.join(WORKERS)} work by the changed files")


async def _question(house: House, codex: Agent, purpose: str, used: str = "") -> ApprovalRequest:
    """What people are asked for codex, once a worker has put it onto the queue.

    Args:
        house: the installation.
        codex: the agent.
        purpose: what it said that it is for.
        used: an approval that is not meant.

    Raises:
        QueueError: if it is not there.
    """
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(_RECORD_SECONDS),
            open_inbox(house.settings, CurrentRules(house.settings.config_dir), now_ms) as inbox,
        ):
            async for items in inbox.watch():
                for item in items:
                    if (item.request.run_id, item.request.purpose) == (
                        codex.run_id,
                        purpose,
                    ) and item.approval_id != used:
                        return item.request
    raise QueueError(f"the queue does not show what codex asks people: {GUARDED}, {purpose}")


async def _forge(stage: Stage, house: House, asked: ApprovalRequest) -> None:
    """Approve in alice's name with a key of our own."""
    seed = secrets.token_bytes(32)
    forged = sign_decision(asked.digest(), "approve", PERSON, now_ms(), seed + run_public_key(seed))
    await _write(stage, house, f"{PERSON}'s approval, with a key of their own", forged)


async def _write(stage: Stage, house: House, what: str, *decisions: Decision) -> None:
    """Put decisions onto the queue as whoever owns it can, and wait for the record that the last does not count."""
    wanted = Query(event="decision_refused", since=format_time(now_ms()))
    try:
        async with house.queue() as queue:
            for decision in decisions:
                await queue.xadd(keynames.CONTROL, {keynames.MESSAGE_FIELD: decision_message(decision)})
    except redis.RedisError as error:
        raise QueueError(f"the queue cannot be used: {error}") from error

    def look() -> str:
        events = search(house.settings.audit_dir, wanted, 100).events
        return next((event.reason or "" for event in events if event.approval_id == decisions[-1].approval_id), "")

    reason = await until(look, _RECORD_SECONDS)
    stage.check(reason == "bad_signature", f"{what:<46}recorded: {reason or 'nothing'}")


def _check_release(stage: Stage, house: House, codex: Agent, answer: Answer) -> None:
    stage.check(
        answer.granted and codex.has_right_value(answer),
        "codex has the value that lies in the vault, as soon as a person allowed it",
        answer.outcome,
    )
    query = Query(agent="codex", secret=GUARDED, event="access", outcome="granted")
    released = search(house.settings.audit_dir, query, 100).events
    stage.check(
        len(released) == 1 and bool(released[0].approver),
        "released once, as the audit says: "
        + ", ".join(f"approval {event.approval_id} by {event.approver}" for event in released),
    )


async def _ask_again(stage: Stage, house: House, codex: Agent, used: ApprovalRequest) -> None:
    """Ask for the same once more: a used approval is no approval, and a signature belongs to one question."""
    asks = [(GUARDED, used.purpose)]
    (again,) = await codex.ask(asks, lambda a: show_answer(stage, "codex", a), wait_for_approval=False)
    stage.check(
        again.outcome == "approval_pending" and again.approval not in ("", used.approval_id),
        f"the same once more is a new question: {again.approval}; codex is told at once that it waits for a person",
        again.outcome,
    )
    if again.outcome != "approval_pending":
        return
    asked = await _question(house, codex, used.purpose, used.approval_id)
    true = await _true_decision(house)
    moved = structs.replace(true, request=asked.digest())
    await _write(stage, house, f"the true approval, by {true.approver}, copied onto it", true, moved)
    (still,) = await codex.ask(asks, wait_for_approval=False)
    stage.check(
        (still.outcome, still.approval) == ("approval_pending", again.approval),
        "codex is told the same as before",
        still.outcome,
    )


async def _true_decision(house: House) -> Decision:
    """The newest approval on the queue that counted."""
    counted = {
        event.approval_id for event in search(house.settings.audit_dir, Query(event="approval_decided"), 100).events
    }
    async with house.queue() as queue:
        entries: Any = await queue.xrevrange(keynames.CONTROL, count=100)
    for _, fields in entries:
        message = decode_control(fields[keynames.MESSAGE_FIELD])
        if message.kind == "decision":
            decision = decode_decision(message.body)
            if decision.approval_id in counted and decision.verdict == "approve":
                return decision
    raise QueueError("the queue does not show the decision that was made")
