"""The ledger's tables are a function of the audit: however it arrives, they come out the same."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from audit_workbench import IDENTITY, START, open_sink
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_workbench import MINUTE, fresh_ledger, lease, project, record, rows, segments, tables, write_story
from sqlalchemy import Engine, text

from agent_sdk.ledger import ChainAssembler
from agent_sdk.wire.audit_stream import ChainSegment
from broker_worker.core.errors import SetupError
from broker_worker.dashboard.serving import read_only
from broker_worker.ledger import projection as projection_module
from broker_worker.ledger.database import check_tables, migrate, only_writer, open_database
from broker_worker.ledger.keeping import catch_up, rebuild
from broker_worker.ledger.projection import Projection
from broker_worker.ledger.schema import METADATA


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audit of two workers, told once for all tests here."""
    place = tmp_path_factory.mktemp("projection") / "audit"
    write_story(place)
    return place


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    """The tables as they come out when everything is read in order."""
    engine = fresh_ledger(folder.parent / "expected" / "ledger.sqlite3")
    project(engine, segments(folder))
    return tables(engine)


@settings(max_examples=12)  # a database each
@given(data=st.data())
def test_any_way_of_arriving_gives_the_same_tables(
    folder: Path, expected: object, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Entries cut anywhere, repeated, and interleaved between chains, with restarts between, change nothing."""
    engine = fresh_ledger(tmp_path_factory.mktemp("any") / "ledger" / "ledger.sqlite3")
    by_chain: dict[str, list[ChainSegment]] = {}
    for segment in segments(folder, data.draw(st.integers(1, 6))):
        by_chain.setdefault(segment.chain, []).append(segment)
    arrived: list[ChainSegment] = []
    while any(by_chain.values()):
        chain = data.draw(st.sampled_from([chain for chain, left in by_chain.items() if left]))
        arrived.append(by_chain[chain].pop(0))
        if data.draw(st.integers(0, 4)) == 0:
            arrived.append(data.draw(st.sampled_from(arrived)))
    restart = data.draw(st.integers(0, len(arrived)))
    project(engine, arrived[:restart])
    project(engine, arrived)  # an entry that was not acknowledged comes again
    assert tables(engine) == expected
    assert rows(engine, "findings") == []
    engine.dispose()


def test_a_rebuilt_ledger_is_the_one_that_was_followed_live(folder: Path, expected: object, tmp_path: Path) -> None:
    """The files alone give what the stream gave, also over a ledger that holds something else."""
    engine = fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    write_story(tmp_path / "other", {"worker-9": [[record()]]})
    project(engine, segments(tmp_path / "other"))
    result = rebuild(engine, folder, IDENTITY)
    assert tables(engine) == expected
    assert result.findings == []
    assert result.events == len(rows(engine, "events"))


def test_what_the_tables_say_of_the_story(expected: dict[str, list[tuple[object, ...]]], folder: Path) -> None:
    """Leases, the approval, both runs and their use are as they were recorded."""
    engine = open_database(f"sqlite:///{folder.parent / 'expected' / 'ledger.sqlite3'}")
    one, two, three = sorted(rows(engine, "leases"), key=lambda row: row["lease_id"])
    assert (one["uses"], one["renewals"], one["version"], one["ended_at"]) == (2, 1, "v7", None)
    assert one["expires_at"] == START + 20 * MINUTE
    assert [(row["source"], row["age_s"]) for row in (one, two, three)] == [("cache", 41), ("stale", 700), (None, None)]
    assert [(row["keeper_agent_id"], row["keeper_run_id"]) for row in (one, two, three)] == [
        (None, None),
        (None, None),
        ("egress", "run-9"),
    ]
    assert one["ends_at"] == START + 60 * MINUTE
    assert (two["ended_at"], two["end_reason"]) == (START + 8000, "released")
    assert (three["ended_at"], three["end_reason"]) == (START + 9060, "x")
    (approval,) = rows(engine, "approvals")
    assert (approval["state"], approval["decided_by"], approval["used"]) == ("approved", "ana", 1)
    assert (approval["asked_at"], approval["settled_at"], approval["reason"]) == (START + 2000, START + 5000, "fine")
    first, second = sorted(rows(engine, "runs"), key=lambda row: str(row["run_id"]))
    assert (first["granted"], first["refused"], first["task"], first["revoked_at"]) == (3, 1, "nightly", None)
    assert (second["granted"], second["refused"], second["revoked_at"]) == (1, 1, START + 9050)
    assert {(row["secret_name"], row["granted"], row["refused"]) for row in rows(engine, "usage")} == {
        ("openai.api_key", 3, 0),
        ("github.token", 0, 1),
        ("db.password", 1, 0),
    }


def test_waiting_for_people_is_no_refusal(tmp_path: Path) -> None:
    """A client asks again and again until they decided: neither the run nor the secret was refused so often."""
    engine = fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    waits: dict[str, Any] = {"outcome": "refused", "code": "approval_pending", "approval_id": "a" * 16}
    said_no = record(at=9000, outcome="refused", code="approval_denied", approval_id="a" * 16)
    write_story(tmp_path / "audit", {"worker-1": [[record(at=n * 1000, **waits) for n in range(5)], [said_no]]})
    project(engine, segments(tmp_path / "audit"))
    (run,), (use,) = rows(engine, "runs"), rows(engine, "usage")
    assert (run["granted"], run["refused"]) == (0, 1)
    assert (use["granted"], use["refused"]) == (0, 1)


def test_a_batch_that_was_committed_already_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """When the answer to a commit is lost, the batch is written again, and counts once."""
    engine = fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    projection, assembler = Projection(engine), ChainAssembler(IDENTITY)
    part = assembler.take(segments(folder)[0], "1-0")
    assert projection.apply(part.lines, part.findings, part.positions) == len(part.lines)
    before = tables(engine)
    assert projection.apply(part.lines, part.findings, part.positions) == 0
    assert tables(engine) == before


def test_a_run_that_is_reinstated_is_no_longer_revoked(tmp_path: Path) -> None:
    """The newest order holds."""
    order = {"agent_id": None, "run_id": None, "subject": "run:claude/run-1"}
    batches = [[record()], [record("revoked", at=10, **order)], [record("reinstated", at=20, **order)]]
    write_story(tmp_path / "audit", {"worker-1": batches})
    engine = fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    project(engine, segments(tmp_path / "audit", 2)[:2])
    assert rows(engine, "runs")[0]["revoked_at"] == START + 10
    project(engine, segments(tmp_path / "audit"))
    assert rows(engine, "runs")[0]["revoked_at"] is None


def test_texts_that_do_not_fit_are_cut_and_stand_whole_in_the_line(tmp_path: Path) -> None:
    """Neither a long text nor a NUL that an agent sent stops the projection."""
    write_story(tmp_path / "audit", {"worker-1": [[record(purpose="a\x00b", version="v" * 500, lease_id=lease(1))]]})
    engine = fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    project(engine, segments(tmp_path / "audit"))
    (event,) = rows(engine, "events")
    assert event["purpose"] == "a\ufffdb"
    assert len(event["version"]) == 128
    assert "v" * 500 in event["line"]
    assert len(rows(engine, "leases")[0]["version"]) == 128


def test_findings_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who floods the queue with garbage does not fill the disk with findings."""
    monkeypatch.setattr(projection_module, "MAX_FINDINGS", 3)
    engine = fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    project(engine, [ChainSegment("0" * 16, n, (b"garbage",)) for n in range(5)])
    kept = rows(engine, "findings")
    assert [(row["fault"], row["chain"], row["sequence"]) for row in kept] == [
        ("unreadable", "0" * 16, number) for number in range(3)
    ]


def test_files_that_were_changed_are_findings_and_lose_no_other_line(folder: Path, tmp_path: Path) -> None:
    """A changed line is left out with a finding; the signed lines before and after it come."""
    sink = open_sink(tmp_path / "audit")
    for number in range(6):
        sink.append([record(at=number * 10, run_id=f"run-{number}")])
    sink.close()
    (path,) = (tmp_path / "audit").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"run_id":"run-2"', b'"run_id":"run-8"'))
    engine = fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    result = catch_up(Projection(engine), tmp_path / "audit", IDENTITY)
    assert [finding.fault.value for finding in result.findings] == ["removed", "inserted"]
    assert sorted(row["run_id"] for row in rows(engine, "events")) == ["run-0", "run-1", "run-3", "run-4", "run-5"]


def test_the_steps_make_the_tables_that_the_program_knows(tmp_path: Path) -> None:
    """The migrations and the tables in the code do not drift apart, and running them again changes nothing."""
    engine = fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


@pytest.mark.usefixtures("expected")
def test_a_ledger_of_before_is_told_how_fresh_its_leases_were_and_who_had_them(folder: Path, tmp_path: Path) -> None:
    """The steps that add it read it from the events that are there."""
    shutil.copytree(folder.parent / "expected", tmp_path / "before")
    engine = open_database(f"sqlite:///{tmp_path / 'before' / 'ledger.sqlite3'}", writing=True)
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX leases_by_keeper"))
        for column in ("source", "age_s", "keeper_agent_id", "keeper_run_id"):
            connection.execute(text(f"ALTER TABLE leases DROP COLUMN {column}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    migrate(engine)
    names = ("source", "age_s", "keeper_agent_id", "keeper_run_id")
    assert {row["lease_id"]: tuple(row[name] for name in names) for row in rows(engine, "leases")} == {
        lease(1): ("cache", 41, None, None),
        lease(2): ("stale", 700, None, None),
        lease(3): (None, None, "egress", "run-9"),
    }


@pytest.mark.parametrize("opened", [open_database, read_only])
def test_a_reader_goes_over_to_the_file_that_was_made_again(
    folder: Path, tmp_path: Path, opened: Callable[[str], Engine]
) -> None:
    """What the dashboard keeps open must not stay the file that was moved away; nor is its journal taken for ours."""
    path = tmp_path / "ledger" / "ledger.sqlite3"
    writer = fresh_ledger(path)
    reader = opened(f"sqlite:///{path}")
    assert rows(reader, "events") == []
    path.rename(tmp_path / "moved.sqlite3")
    writer.dispose()
    project(fresh_ledger(path), segments(folder))
    assert len(rows(reader, "events")) > 0
    reader.dispose()


def test_a_newer_ledger_is_refused(tmp_path: Path) -> None:
    """An older program neither reads nor writes what a newer one made."""
    engine = fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    for use in (migrate, check_tables):
        with pytest.raises(SetupError, match="newer than this program"):
            use(engine)


def test_a_ledger_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A reader says what to do instead of making an empty file."""
    engine = open_database(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    with pytest.raises(SetupError, match="there is no ledger"):
        check_tables(engine)
    assert not (tmp_path / "ledger.sqlite3").exists()


def test_only_one_process_writes(tmp_path: Path) -> None:
    """A second projection of the same ledger is refused."""
    engine = fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    with only_writer(engine), pytest.raises(SetupError, match="another process"), only_writer(engine):
        pass


def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    """The ledger says who uses what, so its files are closed to others."""
    engine = fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    with engine.connect():
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "ledger").iterdir()}
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize(
    "url", ["mysql://u:hunter2@h/d", "nonsense hunter2", "sqlite://", "postgresql+asyncpg:hunter2"]
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    """LEDGER_URL may hold a password, so it is not repeated."""
    with pytest.raises(SetupError) as refusal:
        open_database(url)
    assert "hunter2" not in f"{refusal.value} {refusal.value.hint}"


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """What only asks opens the database so that it cannot change it."""
    fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    engine = open_database(f"sqlite:///{tmp_path / 'ledger' / 'ledger.sqlite3'}")
    with engine.connect() as connection, pytest.raises(Exception, match="readonly"):
        connection.execute(text("delete from events"))
