"""Acts 9 and 11: the audit, verified and tampered with, and what lay on the queue."""

import base64
import itertools
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

from agent_sdk.wire.audit import AuditEvent
from broker_worker.audit.follow import Follower
from broker_worker.audit.report import Report
from broker_worker.audit.search import Query, search
from broker_worker.audit.stream import read_stream
from broker_worker.audit.verify import verify_folder
from broker_worker.cli.audit_text import event_line, finding_line
from broker_worker.cli.demo.cast import Agent
from broker_worker.cli.demo.house import CANARY, House
from broker_worker.cli.demo.stage import Stage
from broker_worker.cli.demo.traces import Search
from broker_worker.core.errors import QueueError
from broker_worker.files.keys import load_broker_keys
from broker_worker.queue.acl import broker_url

_NEWEST = 4
_EVERYTHING = 100_000
_MARKER_STREAM = "sb:demo"
_KINDS = (
    ("sb:req:", "request streams"),
    ("sb:rep:", "reply streams"),
    ("sb:seen:", "replay marks"),
    ("sb:lim:", "rate limits"),
    ("sb:audit", "audit stream"),
    ("sb:approvals", "stream of approvals"),
    ("sb:control", "stream of decisions and revocations"),
)


def audit_trail(stage: Stage, house: House, agents: Mapping[str, Agent]) -> None:
    """Act 9: what was recorded, that it is whole, and that a change is found."""
    folder = house.settings.audit_dir
    stage.act(9, "The audit", f"The newest {_NEWEST} lines, as `secret-broker audit tail` shows them.")
    for event in Follower(folder).last(_NEWEST):
        stage.text(event_line(event))
    stage.say()
    events = search(folder, Query(), _EVERYTHING).events
    for what, count in sorted(_counts(events).items()):
        stage.say(f"   {count:>6}  {what}")
    stage.note("Refusals that repeat are counted and written once in 10 s, so a flood fills no disk.")
    stage.say()
    stage.check(*_every_grant_is_recorded(events, agents.values()))
    report = _verify(house, folder)
    stage.check(
        report.ok,
        f"verified: {report.lines} lines of {report.workers} writers, each chained to the one before, "
        f"{report.checkpoints} signed checkpoints, the same on the queue's stream",
        "; ".join(finding_line(finding) for finding in report.problems[:3]),
    )
    _tamper(stage, house, folder)


def on_the_queue(stage: Stage, house: House, agents: Mapping[str, Agent], pages: Mapping[str, str]) -> None:
    """Act 11: no value was ever on the queue, in the audit, in a log, on a page, or in an agent's output."""
    stage.act(
        11,
        "What was on the queue",
        "Its append-only log has every byte that was ever written to it. It and every key are searched for each "
        "value: as it is, in base64, in hexadecimal.",
    )
    needles = [CANARY.encode(), *house.values.values()]
    try:
        with redis.Redis.from_url(broker_url(house.settings.queue_address, house.queue_key), protocol=2) as client:
            _search_everywhere(stage, house, agents.values(), pages.values(), needles, client)
    except redis.RedisError as error:
        raise QueueError(f"the queue cannot be read: {error}") from error


def _counts(events: Iterable[AuditEvent]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for event in events:
        if event.event == "access" and event.outcome == "granted":
            counts[f"granted, from {'vault' if event.source == 'provider' else 'cache'}"] += event.count or 1
        elif event.code is not None:
            counts[f"refused, {event.code}"] += event.count or 1
        else:
            counts[event.event] += event.count or 1
    return counts


def _every_grant_is_recorded(events: Iterable[AuditEvent], agents: Iterable[Agent]) -> tuple[bool, str]:
    """Compare what the agents got with what was recorded: never more of a name than the audit has."""
    recorded = Counter((event.agent_id, event.secret_name) for event in events if event.outcome == "granted")
    got = Counter((agent.name, answer.name) for agent in agents for answer in agent.answers if answer.granted)
    return got <= recorded, f"all {got.total()} values that agents got have their record"


def _verify(house: House, folder: Path) -> Report:
    identity = load_broker_keys(house.settings.keys_dir).identity_public
    with redis.Redis.from_url(broker_url(house.settings.queue_address, house.queue_key), protocol=2) as client:
        return verify_folder(folder, identity, read_stream(client))


def _tamper(stage: Stage, house: House, folder: Path) -> None:
    """Turn one refusal in a copy of the audit into a grant, and verify the copy."""
    copy = house.settings.home / "audit-tampered"
    shutil.copytree(folder, copy)
    for path in sorted(copy.glob("*.jsonl")):
        lines = path.read_bytes().split(b"\n")
        number = next((n for n, line in enumerate(lines) if b'"outcome":"refused"' in line), None)
        if number is not None:
            break
    else:
        stage.check(False, "there is a refusal in the audit that could be tampered with")
        return
    lines[number] = lines[number].replace(b'"outcome":"refused"', b'"outcome":"granted"')
    path.write_bytes(b"\n".join(lines))
    report = verify_folder(copy, load_broker_keys(house.settings.keys_dir).identity_public)
    located = [f for f in report.problems if f.file == path.name and f.line == number + 1]
    stage.note(
        f"In a copy, one word of {path.name} is changed: line {number + 1}, from refused to granted. "
        "`secret-broker audit verify` says:"
    )
    if located:
        stage.text(finding_line(located[0]))
    stage.check(bool(located) and not report.ok, "the changed line is found, and where it is")


def _search_everywhere(
    stage: Stage,
    house: House,
    agents: Iterable[Agent],
    pages: Iterable[str],
    needles: Sequence[bytes],
    client: "redis.Redis",
) -> None:
    marker = secrets.token_urlsafe(24).encode()
    client.xadd(_MARKER_STREAM, {"raw": marker, "base64": base64.b64encode(b"x" + marker), "hex": marker.hex()})
    keys = {key: b"\n".join(_content(client, key)) for key in sorted(client.scan_iter(count=1000))}
    kinds = [(what, sum(key.startswith(prefix.encode()) for key in keys)) for prefix, what in _KINDS]
    stage.text(f"{len(keys)} keys: " + ", ".join(f"{count} {what}" for what, count in kinds) + ", 1 marker of ours")
    written = [path.read_bytes() for path in house.queue_files()]
    home = house.settings.home
    places = {
        "the queue's log and files": written,
        "the queue's keys, one by one": list(keys.values()),
        "the audit's files": _files(house.settings.audit_dir),
        "the ledger's database": _files(home / "ledger"),
        "the dashboard's pages": [page.encode() for page in pages],
        "approvals used, revocations": _files(house.settings.state_dir),
        "all logs": [*(path.read_bytes() for path in home.glob("*.log")), *_files(house.settings.run_dir, "*.log")],
        "what agents wrote to stdout": [bytes(agent.printed) for agent in agents],
        "the vault's file, encrypted": _files(house.settings.vault_file.parent),
    }
    for place, contents in places.items():
        search_for_values = Search(needles)
        for content in contents:
            search_for_values.look(content)
        total = search_for_values.found.total()
        stage.check(total == 0, f"{place:<31}{total} occurrences in {search_for_values.size:>9,} bytes")
    _prove_search(stage, marker, written, keys.values())
    client.delete(_MARKER_STREAM)


def _prove_search(stage: Stage, marker: bytes, written: Iterable[bytes], keys: Iterable[bytes]) -> None:
    """The same search finds what we put there, so that finding nothing means something."""
    for place, contents in (("queue's log", written), ("queue's keys", keys)):
        proof = Search([marker])
        for content in contents:
            proof.look(content)
        stage.check(
            {"as it is", "base64", "hexadecimal"} <= set(proof.found),
            f"the same search finds a marker of ours in the {place}, in all three forms",
            str(proof),
        )


def _files(folder: Path, pattern: str = "*") -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob(pattern)) if path.is_file()]


def _content(client: "redis.Redis", key: bytes) -> Iterable[bytes]:
    """Everything that a key holds, as bytes, its name included."""
    kind = client.type(key)
    parts: Any
    if kind == b"stream":
        entries: Any = client.xrange(key)
        parts = itertools.chain.from_iterable(
            (entry_id, *itertools.chain(*fields.items())) for entry_id, fields in entries
        )
    elif kind == b"string":
        parts = [client.get(key) or b""]
    elif kind == b"list":
        parts = client.lrange(key, 0, -1)
    elif kind == b"set":
        parts = client.smembers(key)
    elif kind == b"zset":
        parts = client.zrange(key, 0, -1)
    elif kind == b"hash":
        parts = itertools.chain(*client.hgetall(key).items())
    else:
        raise QueueError(f"the queue has a key of a kind that we do not use: {key!r}, {kind!r}")
    return [key, *parts]
