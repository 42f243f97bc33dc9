"""Act 5: a secret that a person must allow, each time anew, and what forged decisions do."""

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
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
from broker_worker.core.approvals import Decision, decode_decision, sign_decision
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
    (told,) = await codex.ask([(GUARDED, PURPOSE)], lambda a: show_answer(stage, "codex", a), wait_for_approval=False)
    stage.check(
        told.outcome == "approval_pending" and bool(told.approval),
        f"codex may be told at once that people are asked (approval {told.approval}), or wait for them: it waits",
        told.outcome,
    )
    waiting = asyncio.create_task(codex.ask([(GUARDED, PURPOSE)], seconds=2 * _WAIT_SECONDS, timeout=_WAIT_SECONDS))
    try:
        (meanwhile,) = await agents["claude"].ask([(OPENAI, "go on")], lambda a: show_answer(stage, "claude", a))
        stage.check(meanwhile.granted and not waiting.done(), "nobody else has to wait: claude is served meanwhile")
        await _forge(stage, house, told.approval)
        stage.check(not waiting.done(), "codex still waits")
        await decide(stage, house, told.approval, waiting)
        (answer,) = await waiting
    finally:
        waiting.cancel()
    show_answer(stage, "codex", answer)
    if answer.outcome == "approval_denied":
        stage.check(not answer.granted, "a person said no: codex gets nothing")
        answer = await _ask_otherwise(stage, house, codex)
    _check_release(stage, house, codex, answer)
    await _ask_again(stage, house, codex)


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


async def _forge(stage: Stage, house: House, approval_id: str) -> None:
    """Approve in alice's name with a key of our own."""
    digest = await _digest(house, approval_id)
    seed = secrets.token_bytes(32)
    forged = sign_decision(digest, "approve", PERSON, now_ms(), seed + run_public_key(seed))
    await _write(stage, house, f"{PERSON}'s approval, with a key of their own", forged)


async def _digest(house: House, approval_id: str) -> bytes:
    """The digest of what people are asked, which every signature is over; workers put it onto the queue in a moment.

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
                    if item.approval_id == approval_id:
                        return item.request.digest()
    raise QueueError(f"the queue does not show the approval {approval_id}")


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
    stage.check(reason == "bad_signature", f"{what:<44}recorded: {reason or 'nothing'}")


async def _ask_otherwise(stage: Stage, house: House, codex: Agent) -> Answer:
    """Ask for something that the person did not deny, and have it approved."""
    asks = [(GUARDED, "deploy it to the test system")]
    (told,) = await codex.ask(asks, lambda a: show_answer(stage, "codex", a), wait_for_approval=False)
    waiting = asyncio.create_task(codex.ask(asks, seconds=2 * _WAIT_SECONDS, timeout=_WAIT_SECONDS))
    try:
        await decide(stage, house, told.approval, waiting, alone=True)
        (answer,) = await waiting
    finally:
        waiting.cancel()
    show_answer(stage, "codex", answer)
    return answer


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


async def _ask_again(stage: Stage, house: House, codex: Agent) -> None:
    """Ask for the same once more: a used approval is no approval, and a signature belongs to one question."""
    asks = [(GUARDED, PURPOSE)]
    (again,) = await codex.ask(asks, lambda a: show_answer(stage, "codex", a), wait_for_approval=False)
    used = {answer.approval for answer in codex.answers[:-1]}
    stage.check(
        again.outcome == "approval_pending" and again.approval not in used,
        f"the same once more is a new question: {again.approval}",
        again.outcome,
    )
    true = await _true_decision(house)
    moved = structs.replace(true, request=await _digest(house, again.approval))
    await _write(stage, house, f"{true.approver}'s true approval, copied onto it", true, moved)
    (still,) = await codex.ask(asks, wait_for_approval=False)
    stage.check(
        (still.outcome, still.approval) == ("approval_pending", again.approval),
        "codex is told the same as before: it waits for a person",
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
