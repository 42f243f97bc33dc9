"""Act 4: somebody who owns the queue replays, moves and forges messages."""

import secrets
import time
from collections.abc import Mapping

import redis
from redis.asyncio import Redis

from agent_sdk import AsyncSecretBroker, NotGranted, RunCredential, RunIssuer
from agent_sdk.wire import keynames
from agent_sdk.wire.audit import AuditEvent, format_time
from agent_sdk.wire.sealing import parse_envelope
from broker_worker.audit.search import Query, search
from broker_worker.cli.demo.cast import Agent
from broker_worker.cli.demo.house import House, until
from broker_worker.cli.demo.serving import ANTHROPIC, OPENAI
from broker_worker.cli.demo.stage import Stage
from broker_worker.core.errors import QueueError
from broker_worker.files.keys import load_broker_keys
from broker_worker.queue.acl import agent_url, broker_url

_RECORD_SECONDS = 5.0
_JUNK_BYTES = 300


async def forgeries(stage: Stage, house: House, agents: Mapping[str, Agent]) -> None:
    """Act 4: every forgery is refused and recorded, and honest requests go on."""
    stage.act(
        4,
        "Forgeries",
        "Somebody has the queue: its files, and a login that may write to every stream. The requests lie there to be "
        "copied, sealed.",
    )
    await agents["claude"].ask([(ANTHROPIC, "something worth recording")])
    recorded = last_request(house, "claude")
    replies = keynames.replies("claude", keynames.fingerprint(parse_envelope(recorded).run_public_key))
    stage.text(f"a request of claude, {len(recorded)} bytes: … {recorded[-24:].hex(' ')}")
    try:
        async with house.queue() as queue:
            before = await queue.xlen(replies)
            await _write(stage, house, queue, "claude's request, once more", "claude", recorded, "request_refused")
            await _write(stage, house, queue, "the same on grok's stream", "grok", recorded)
            await _write(
                stage, house, queue, "random bytes on codex's stream", "codex", secrets.token_bytes(_JUNK_BYTES)
            )
            answered = await queue.xlen(replies) - before
        await _sign_for_oneself(stage, house)
        stage.check(answered == 0, "none of it was answered on claude's reply stream")
        await _reach_over(stage, house, replies)
    except redis.RedisError as error:
        raise QueueError(f"the queue cannot be used: {error}") from error
    honest = await agents["claude"].ask([(OPENAI, "after all that")])
    stage.check(
        honest[0].granted and house.ended_workers() == 1,
        "claude's next request is served; no worker ended but the one that we killed",
        f"{honest[0].outcome}, {house.ended_workers()} ended",
    )


def last_request(house: House, agent: str) -> bytes:
    """The newest request of an agent, as the queue's append-only log has it (in the form of RESP, one XADD).

    Raises:
        QueueError: if there is none.
    """
    stream = keynames.requests(agent).encode()
    begin = b"XADD\r\n$%d\r\n%s\r\n" % (len(stream), stream)
    for path in reversed(house.queue_files()):
        _, found, rest = path.read_bytes().rpartition(begin)
        if found:
            _, _, rest = rest.partition(b"$1\r\n" + keynames.MESSAGE_FIELD + b"\r\n$")
            size, _, rest = rest.partition(b"\r\n")
            return rest[: int(size)]
    raise QueueError(f"the queue's log holds no request of {agent}", hint=f"look into {house.settings.run_dir}")


async def _write(
    stage: Stage,
    house: House,
    queue: "Redis",
    what: str,
    agent: str,
    envelope: bytes,
    expected: str = "unauthenticated",
) -> None:
    """Write an envelope to an agent's request stream and wait for the record of its refusal."""
    since = format_time(time.time_ns() // 1_000_000)
    await queue.xadd(keynames.requests(agent), {keynames.MESSAGE_FIELD: envelope})
    await _check_record(stage, house, what, Query(agent=agent, event=expected, outcome="refused", since=since))


async def _check_record(stage: Stage, house: House, what: str, wanted: Query) -> None:
    def look() -> AuditEvent | None:
        return next(iter(search(house.settings.audit_dir, wanted, 1).events), None)

    event = await until(look, _RECORD_SECONDS)
    recorded = f"{event.code}, reason {event.reason}" if event else "nothing"
    stage.check(event is not None, f"{what:<36}recorded: {recorded}")


async def _sign_for_oneself(stage: Stage, house: House) -> None:
    """Be claude with a token that we signed with a key of our own; all else is as it should be."""
    since = format_time(time.time_ns() // 1_000_000)
    credential = _forged(house)
    try:
        async with AsyncSecretBroker(credential, timeout=10.0) as broker:
            await broker.get(OPENAI, purpose="a forged token")
    except NotGranted as refusal:
        outcome = refusal.code.value
    else:
        outcome = "granted"
    what = "a token that they signed themselves"
    if outcome != "unauthenticated":
        stage.check(False, what, f"told {outcome}")
        return
    wanted = Query(agent="claude", event="unauthenticated", outcome="refused", since=since)
    await _check_record(stage, house, what, wanted)


def _forged(house: House) -> RunCredential:
    keys = load_broker_keys(house.settings.keys_dir)
    return RunIssuer(secrets.token_bytes(32), "local").mint(
        "claude",
        broker=keys.identity_public,
        intake=keys.intake[0].public,
        queue_url=broker_url(house.settings.queue_address, house.queue_key),
    )


async def _reach_over(stage: Stage, house: House, replies: str) -> None:
    """Read claude's replies with grok's own login."""
    url = agent_url(house.settings.queue_address, house.queue_key, "grok")
    async with Redis.from_url(url, protocol=2) as grok:
        try:
            await grok.xrevrange(replies, count=1)
        except redis.exceptions.NoPermissionError:
            refused = True
        else:
            refused = False
    stage.check(refused, "grok's login on the queue may not read claude's replies, sealed as they are (NOPERM)")
