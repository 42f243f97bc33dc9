"""`agent_sdk.ledger.AuditReader` on a real server: at least once, resumable, and only what the broker signed."""

import inspect
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audit_workbench import IDENTITY
from ledger_workbench import Gathered, record, segments, write_story
from redis import Redis
from redis.exceptions import ConnectionError  # noqa: A004  # redis-py's own, which is no OSError

import agent_sdk.ledger
from agent_sdk.ledger import AuditBatch, AuditNotReadable, AuditReader
from agent_sdk.wire import keynames
from agent_sdk.wire.audit import GENESIS, encode_line
from agent_sdk.wire.audit_stream import ChainSegment, pack_segment
from broker_worker.queue.acl import LEDGER, user_url
from broker_worker.queue.users import ensure_users

KEY = bytes(32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The audit of two workers."""
    write_story(tmp_path / "audit")
    return tmp_path / "audit"


@pytest.fixture
def queue(valkey_url: str) -> "Iterator[Redis]":
    """A client of the empty server."""
    with Redis.from_url(valkey_url, protocol=2) as client:
        yield client


def publish(queue: "Redis", *parts: ChainSegment) -> None:
    """Put segments onto the stream, as a worker's publisher does."""
    for part in parts:
        queue.xadd(keynames.AUDIT, pack_segment(part))  # type: ignore[arg-type]  # invariant in its stub


def read_all(reader: AuditReader, *, acknowledging: bool = True) -> list[AuditBatch]:
    """The batches that are there now."""
    batches = []
    while (batch := read_one(reader)) is not None:
        batches.append(batch)
        if not acknowledging:
            break
        reader.acknowledge(batch)
    return batches


def read_one(reader: AuditReader) -> AuditBatch | None:
    """The next of the batches that are there now; None once every entry was delivered, however long that takes."""
    while (batch := reader.read(0.02)) is None and not _has_seen_all(reader):
        pass
    return batch


def _has_seen_all(reader: AuditReader) -> bool:
    """Whether the server says that the reader's group was given the newest entry, and the reader went on from there."""
    with Redis(unix_socket_path=reader._client.connection_pool.connection_kwargs["path"], protocol=2) as queue:
        newest: Any = queue.xinfo_stream(keynames.AUDIT)
        groups: Any = queue.xinfo_groups(keynames.AUDIT)
    (group,) = (each for each in groups if each["name"].decode() == reader._group)
    return reader._cursor == ">" and bool(group["last-delivered-id"] == newest["last-generated-id"])


def ids(batches: list[AuditBatch]) -> list[str]:
    """The events of batches."""
    return [event.event_id for batch in batches for event in batch.events]


def faults(batches: list[AuditBatch]) -> list[str]:
    """The findings of batches."""
    return [finding.fault.value for batch in batches for finding in batch.findings]


def test_everything_comes_once_and_is_acknowledged(valkey_url: str, queue: "Redis", folder: Path) -> None:
    """All events of all chains come, and nothing is left pending on the queue."""
    publish(queue, *segments(folder, 3))
    with AuditReader(valkey_url, IDENTITY, "siem") as reader:
        found = read_all(reader)
        assert sorted(ids(found)) == sorted(Gathered().take(*segments(folder)).ids)
        assert faults(found) == []
        assert read_one(reader) is None
    assert queue.xpending(keynames.AUDIT, "siem")["pending"] == 0


def test_a_batch_comes_again_until_it_is_acknowledged(valkey_url: str, queue: "Redis", folder: Path) -> None:
    """A consumer that failed asks again and gets the same batch, in this process and in the next one."""
    publish(queue, *segments(folder, 3))
    with AuditReader(valkey_url, IDENTITY, "siem") as reader:
        first = read_one(reader)
        assert first is not None
        assert reader.read(0.02) is first
    with AuditReader(valkey_url, IDENTITY, "siem") as reader:  # the first process died
        assert sorted(ids(read_all(reader))) == sorted(Gathered().take(*segments(folder)).ids)


def test_iterating_acknowledges_what_was_finished_only(valkey_url: str, queue: "Redis", folder: Path) -> None:
    """A loop that raises in the middle of a batch gets that batch again, and none that it had finished."""
    parts = segments(folder, 128)
    seen: list[str] = []
    publish(queue, parts[0])

    def consume() -> None:
        with AuditReader(valkey_url, IDENTITY, "siem") as reader:
            for batch in reader:
                if seen:
                    raise RuntimeError("no room")
                seen.extend(ids([batch]))
                publish(queue, parts[1])

    with pytest.raises(RuntimeError, match="no room"):
        consume()
    with AuditReader(valkey_url, IDENTITY, "siem") as reader:
        later = ids(read_all(reader))
    assert sorted(seen + later) == sorted(Gathered().take(*parts).ids)
    assert not set(seen) & set(later)


def test_a_published_again_chain_is_skipped_after_a_restart(
    valkey_url: str, queue: "Redis", folder: Path, tmp_path: Path
) -> None:
    """Workers publish again what they are not sure of; with a state file nothing comes twice, whoever restarts."""
    state = tmp_path / "siem.json"
    publish(queue, *segments(folder, 3))
    with AuditReader(valkey_url, IDENTITY, "siem", state=state) as reader:
        assert ids(read_all(reader))
    publish(queue, *segments(folder, 5))
    with AuditReader(valkey_url, IDENTITY, "siem", state=state) as reader:
        assert read_all(reader) == []
    assert state.stat().st_mode & 0o777 == 0o600


def test_a_queue_that_forgets_everything_costs_nothing(valkey_url: str, queue: "Redis", folder: Path) -> None:
    """After a wipe the group is made anew, what is published again is known, and what is new comes."""
    one, two = segments(folder)
    publish(queue, one)
    with AuditReader(valkey_url, IDENTITY, "siem") as reader:
        before = ids(read_all(reader))
        queue.flushall()
        assert reader.read(0.02) is None
        publish(queue, one, two)
        after = read_all(reader)
    assert sorted(before + ids(after)) == sorted(Gathered().take(one, two).ids)
    assert faults(after) == []


def test_a_trimmed_stream_is_a_finding_not_a_crash(
    valkey_url: str, queue: "Redis", folder: Path, tmp_path: Path
) -> None:
    """A reader that was away for too long says which lines it missed, and goes on."""
    parts = [part for part in segments(folder, 1) if part.chain == segments(folder)[0].chain]
    state = tmp_path / "siem.json"
    publish(queue, *parts[:2])
    with AuditReader(valkey_url, IDENTITY, "siem", state=state) as reader:
        read_all(reader)
        publish(queue, *parts[2:])
        queue.xtrim(keynames.AUDIT, maxlen=len(parts) - 5, approximate=False)
        found = read_all(reader)
    assert faults(found) == ["removed"]
    assert "2 to 4" in found[0].findings[0].detail


def test_entries_that_vanish_while_they_are_pending_are_let_go(valkey_url: str, queue: "Redis", folder: Path) -> None:
    """What was delivered, not acknowledged, and then trimmed does not stop the reader or stay pending."""
    one, two = segments(folder)
    publish(queue, one)
    with AuditReader(valkey_url, IDENTITY, "siem") as reader:
        assert read_one(reader)
    queue.xtrim(keynames.AUDIT, maxlen=0, approximate=False)
    publish(queue, two)
    with AuditReader(valkey_url, IDENTITY, "siem") as reader:
        assert ids(read_all(reader)) == Gathered().take(two).ids
        reader.read(0.02)
    assert queue.xpending(keynames.AUDIT, "siem")["pending"] == 0


def test_forged_entries_give_findings_and_no_events(valkey_url: str, queue: "Redis", folder: Path) -> None:
    """Whoever may write to the queue cannot put an event into anybody's ledger, nor keep a true one out of it."""
    parts = [part for part in segments(folder, 2) if part.chain == segments(folder)[0].chain]
    lie = encode_line(record(purpose="a lie"), "worker-1", parts[0].chain, 2, GENESIS)
    queue.xadd(keynames.AUDIT, {"what": "ever"})
    publish(queue, parts[0], ChainSegment(parts[0].chain, 2, (lie,)), *parts[1:])
    with AuditReader(valkey_url, IDENTITY, "siem") as reader:
        found = read_all(reader)
    assert faults(found) == ["unknown_entry", "inserted"]
    assert ids(found) == Gathered().take(*parts).ids


def test_lines_that_wait_for_their_checkpoint_survive_the_reader(valkey_url: str, queue: "Redis", folder: Path) -> None:
    """An entry is acknowledged when all of its lines were let through: a reader that dies before loses none."""
    first, second, *_ = segments(folder, 1)
    publish(queue, first)
    with AuditReader(valkey_url, IDENTITY, "siem") as reader:
        assert read_one(reader) is None
    publish(queue, second)
    with AuditReader(valkey_url, IDENTITY, "siem") as reader:
        assert ids(read_all(reader)) == Gathered().take(first, second).ids


def test_a_reader_may_begin_with_what_comes(valkey_url: str, queue: "Redis", folder: Path) -> None:
    """`from_now` passes over what the stream still has, without a finding for it."""
    one, two = segments(folder, 5)[:2]
    publish(queue, one)
    with AuditReader(valkey_url, IDENTITY, "siem", from_now=True) as reader:
        assert reader.read(0.02) is None
        publish(queue, two)
        assert faults(read_all(reader)) == []


def test_an_answer_that_is_lost_is_read_again(
    valkey_url: str, queue: "Redis", folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that the server delivered into a connection that broke are pending, and come with the next read."""
    publish(queue, *segments(folder, 3))
    with AuditReader(valkey_url, IDENTITY, "siem") as reader:
        assert reader.read(0) is None  # the group is there
        ask = reader._client.xreadgroup

        def ask_and_lose(*arguments: Any, **options: Any) -> None:
            assert ask(*arguments, **options)
            raise ConnectionError("reset by peer")

        with monkeypatch.context() as patch:
            patch.setattr(reader._client, "xreadgroup", ask_and_lose)
            with pytest.raises(AuditNotReadable) as failure:
                reader.read(0.02)
        assert failure.value.passing
        assert sorted(ids(read_all(reader))) == sorted(Gathered().take(*segments(folder)).ids)


def test_a_user_without_the_right_is_told_so(valkey_url: str, queue: "Redis") -> None:
    """What only the operator can mend is raised, not tried again for ever."""
    queue.acl_setuser("nobody", enabled=True, passwords=["+pw"], commands=["+ping"])
    try:
        url = valkey_url.replace("unix://", "unix://nobody:pw@")
        with AuditReader(url, IDENTITY, "siem") as reader, pytest.raises(AuditNotReadable, match="may this user"):
            next(iter(reader))
    finally:
        queue.acl_deluser("nobody")


async def test_the_ledgers_own_user_may_read_as_a_group(valkey_url: str, queue: "Redis", folder: Path) -> None:
    """The rights of the queue's user `ledger` are enough for a reader."""
    await ensure_users(valkey_url, KEY, [])
    publish(queue, *segments(folder))
    with AuditReader(user_url(valkey_url, KEY, LEDGER), IDENTITY, "ledger") as reader:
        assert ids(read_all(reader))


@pytest.mark.parametrize("content", ["{}", "nonsense", json.dumps({"v": 1, "chains": 7})])
def test_a_state_file_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    """A file that no reader wrote is not taken for the beginning."""
    state = tmp_path / "siem.json"
    state.write_text(content)
    with pytest.raises(AuditNotReadable, match="not what an AuditReader wrote"):
        AuditReader("unix:///nowhere", IDENTITY, "siem", state=state)


def test_stop_ends_the_loop_after_the_batch(valkey_url: str, queue: "Redis", folder: Path) -> None:
    """A signal handler may stop a loop; the batch that was worked on is acknowledged."""
    publish(queue, *segments(folder))
    with AuditReader(valkey_url, IDENTITY, "siem") as reader:
        for _ in reader:
            reader.stop()
    assert queue.xpending(keynames.AUDIT, "siem")["pending"] == 0


def test_the_documented_example_runs(
    valkey_url: str, queue: "Redis", folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ten lines in the package's docstring are a working consumer."""
    publish(queue, *segments(folder))
    code = "\n".join(line for line in (inspect.getdoc(agent_sdk.ledger) or "").splitlines() if line[:4] == "    ")
    forwarded: list[Any] = []

    def forward(*fields: Any) -> None:
        forwarded.append(fields)
        if len(forwarded) == len(Gathered().take(*segments(folder)).ids):
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    names = {"queue_url": valkey_url, "identity_public_key": IDENTITY, "forward": forward, "alarm": forwarded.append}
    with pytest.raises(KeyboardInterrupt):
        exec(textwrap.dedent(code), names)  # the documentation itself is under test
    assert len(code.strip().splitlines()) <= 10


def test_importing_the_reader_loads_neither_client_nor_broker() -> None:
    """A consumer of the audit gets the reader and the contract, not the agent's client."""
    script = (
        "import sys, agent_sdk.ledger\n"
        "print(sorted(name for name in sys.modules if name.startswith(('agent_sdk.', 'broker_worker'))"
        " and not name.startswith(('agent_sdk.wire', 'agent_sdk.ledger'))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("url", ["hunter2", "redis://u:hunter2@[::1/0", "redis://u:hunter2@ho\u2100st/0", None])
def test_a_url_that_cannot_be_understood_is_not_repeated(url: Any) -> None:
    """It has a password in it."""
    with pytest.raises(ValueError, match="the queue's URL must be redis://") as caught:
        AuditReader(url, IDENTITY, "ledger")
    assert caught.value.__context__ is None
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", [None, b"", IDENTITY.hex()])
def test_an_identity_that_is_no_key_is_refused_at_once(key: Any) -> None:
    """Rather than that every line of the audit looks forged."""
    with pytest.raises(ValueError, match="the broker's identity has 32 bytes"):
        AuditReader("redis://localhost", key, "ledger")
