"""The sealed cache on disk: what survives, what is never served again, and every way in which it can be broken."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Never

import pytest
from sealed_workbench import (
    BINDING,
    CANARY,
    FIRST,
    NOW,
    PASSPHRASE,
    REFS,
    SECOND,
    THIRD,
    TTL,
    Host,
    Keeper,
    quick,
    record,
)

from broker_worker.cache.sealed import file as file_module
from broker_worker.cache.sealed import store as store_module
from broker_worker.cache.sealed.counter import FileCounter
from broker_worker.cache.sealed.errors import RefusedError, UnavailableError
from broker_worker.cache.sealed.key_file import host_id
from broker_worker.core.errors import SetupError


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host without a sealed cache yet."""
    return Host(tmp_path / "home")


def change(host: Host, sql: str, *values: object) -> None:
    """Change the file as somebody with an editor would."""
    with sqlite3.connect(host.file) as database:
        database.execute(sql, values)
    database.close()


def copied(host: Host, folder: Path) -> None:
    """Copy everything of a host."""
    shutil.copytree(host.file.parents[1], folder, dirs_exist_ok=True)


# What survives


def test_values_survive_a_restart(host: Host) -> None:
    """With version and times, for as long as they may be used."""
    host.keep(record(), record(SECOND, b"other", version=None))
    opened = host.store().open(REFS, BINDING)
    assert {each.ref: each for each in opened.records} == {
        FIRST: record(),
        SECOND: record(SECOND, b"other", version=None),
    }
    assert opened.kind == "passphrase"


def test_the_file_is_its_owners_alone(host: Host) -> None:
    """As are its key, its counter and its lock."""
    host.keep(record())
    for path in (host.file, host.key, host.count, host.file.with_name(".cache.sqlite3.lock")):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert host.file.parent.stat().st_mode & 0o777 == 0o700


def test_nothing_past_its_expiry_is_served(host: Host) -> None:
    """At its very end it is gone, from the file as well."""
    host.keep(record(ttl=1000), record(SECOND, b"other", ttl=2000))
    host.now += 999
    assert set(host.values()) == {FIRST, SECOND}
    host.now += 1
    assert set(host.values()) == {SECOND}
    assert [row.ref for row in host.rows()] == [SECOND]


def test_what_is_over_leaves_the_file_with_the_next_write(host: Host) -> None:
    """Nobody has to start for that."""
    store = host.keep(record(ttl=1000))
    host.now += 1000
    store.commit({SECOND: record(SECOND)}, 100)
    assert [row.ref for row in host.rows()] == [SECOND]


def test_changed_providers_void_what_they_gave(host: Host) -> None:
    """A value that was fetched under another section is dropped, also if the section comes back later."""
    host.keep(record())
    assert host.values(binding=b"\x01" * 32) == {}
    assert host.values() == {}


def test_reference_that_left_the_registry_is_dropped(host: Host) -> None:
    """The registry decides what a name means, and nothing else is kept."""
    host.keep(record(), record(SECOND))
    assert set(host.values(refs=frozenset({SECOND}))) == {SECOND}
    assert set(host.values()) == {SECOND}


def test_the_newest_value_of_a_reference_is_kept(host: Host) -> None:
    """Whichever process writes it first."""
    late, early = host.store(), host.store()
    for store in (late, early):
        store.open(REFS, BINDING)
    late.commit({FIRST: record(value=b"new", at=NOW + 5)}, 100)
    early.commit({FIRST: record(value=b"old", at=NOW)}, 100)
    host.now += 10
    assert host.values() == {FIRST: b"new"}


def test_value_that_the_vault_no_longer_has_is_dropped(host: Host) -> None:
    """No start brings it back."""
    host.keep(record(), record(SECOND)).commit({FIRST: None}, 100)
    assert set(host.values()) == {SECOND}


def test_the_file_is_bounded(host: Host) -> None:
    """Those that end first make room."""
    kept = [record(ref, ttl=TTL + number) for number, ref in enumerate(sorted(REFS))]
    host.keep(*kept, max_entries=3)
    assert set(host.values()) == set(sorted(REFS)[-3:])


def test_no_value_and_no_key_is_in_any_byte(host: Host, tmp_path: Path) -> None:
    """Of the file, its journal while it is written, its key or its counter; deleted records are overwritten."""
    seen: list[bytes] = []
    store = host.keep(record(), *(record(ref, CANARY * 50) for ref in sorted(REFS)[1:]))
    original = file_module.SealedFile._write_head

    def look(*arguments: object) -> None:
        original(*arguments)  # type: ignore[arg-type]  # as it was called
        assert host.file.with_name("cache.sqlite3-journal").stat().st_size > 1000
        seen.append(host.contents())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_module.SealedFile, "_write_head", staticmethod(look))
        store.commit({FIRST: record(value=CANARY * 900, at=NOW + 1), SECOND: None}, 100)
    assert len(seen) == 1
    forbidden = (CANARY, PASSPHRASE, store._key.master if store._key else b"")
    for content in (*seen, host.contents()):
        assert FIRST.encode() in content
        assert not any(each in content for each in forbidden)
    before = host.rows()
    host.store().open(frozenset(), BINDING)
    assert len(before) > 10
    assert not any(row.box[24:88] in host.contents() for row in before)


# What is refused


def test_file_copied_from_another_host_is_refused(host: Host, tmp_path: Path) -> None:
    """With its key and counter, because the key names its host; without them, because another key is here."""
    host.keep(record())
    other = Host(tmp_path / "other", identity=b"quite another ho")
    copied(host, tmp_path / "other")
    assert "made on another host" in other.refusal()
    host.now = other.now = NOW
    host.keep(record())
    shutil.copy(host.file, other.file)
    assert "made with another key" in other.refusal()


def test_older_copy_is_refused(host: Host, tmp_path: Path) -> None:
    """However it came to be there: its generation is less than the counter that is kept elsewhere."""
    store = host.keep(record())
    shutil.copy(host.file, tmp_path / "older")
    store.commit({FIRST: record(value=b"rotated", at=NOW + 1)}, 100)
    shutil.copy(tmp_path / "older", host.file)
    host.now += 2
    assert "older copy: generation 1, where 2 was written last" in host.refusal()


def test_older_copy_is_noticed_while_the_file_is_in_use(host: Host, tmp_path: Path) -> None:
    """Also if the counter was put back with it."""
    store = host.keep(record())
    copied(host, tmp_path / "older")
    store.commit({SECOND: record(SECOND)}, 100)
    shutil.copytree(tmp_path / "older", host.file.parents[1], dirs_exist_ok=True)
    with pytest.raises(RefusedError, match="while it was in use"):
        store.commit({SECOND: record(SECOND)}, 100)
    assert store.start_over() == "passphrase"
    assert host.values() == {}


def test_older_record_in_the_newest_file_is_refused(host: Host) -> None:
    """Each record is authentic, and still they are not those that were written last."""
    store = host.keep(record(), record(SECOND))
    rows = host.rows()
    (older,) = [row for row in rows if row.ref == FIRST]
    store.commit({FIRST: record(value=b"rotated", at=NOW + 1)}, 100)
    change(host, "DELETE FROM records WHERE ref = ?", FIRST)
    change(host, "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", *older)
    host.now += 2
    assert "exchanged, added or taken away" in host.refusal()


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("DELETE FROM records WHERE ref LIKE '%item-1/%'", "taken away"),
        ("UPDATE records SET until = until + 1000000", "exchanged"),
        ("UPDATE records SET ref = ref || 'x'", "exchanged"),
        ("UPDATE records SET box = zeroblob(400)", "exchanged"),
        ("UPDATE records SET box = 'text'", "another form"),
        ("UPDATE head SET box = zeroblob(100)", "another key"),
        ("UPDATE head SET box = 'text'", "no head"),
        ("DELETE FROM head", "no head"),
        ("DROP TABLE records", "not a sealed cache"),
        ("CREATE TRIGGER t AFTER INSERT ON head BEGIN DELETE FROM records; END", "not a sealed cache"),
        ("CREATE VIEW v AS SELECT 1", "not a sealed cache"),
        ("PRAGMA user_version = 0", "not a sealed cache"),
    ],
)
def test_changed_file_is_refused(host: Host, sql: str, why: str) -> None:
    """Whatever somebody changed in it."""
    host.keep(*(record(ref) for ref in sorted(REFS)))
    change(host, sql)
    assert why in host.refusal()


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 5000, 12_288])
def test_half_written_file_is_refused(host: Host, size: int) -> None:
    """Cut at any place, empty or garbage."""
    host.keep(*(record(ref, CANARY * 30) for ref in sorted(REFS)))
    content = host.file.read_bytes()
    assert len(content) > size
    host.file.write_bytes(content[:size])
    why = host.refusal()
    assert "damaged or cut short" in why or "not a sealed cache" in why
    host.now = NOW
    host.file.write_bytes(content[:size] + os.urandom(len(content) - size))
    assert host.refusal()


def test_wrong_key_is_refused(host: Host) -> None:
    """A changed passphrase, or a damaged, exchanged or missing key file, opens nothing."""
    host.keep(record())
    host.makers = {"passphrase": lambda: quick(b"another good passphrase")}
    assert "does not open with this passphrase key" in host.refusal()
    host.key.write_bytes(b"SECRET-BROKER-CACHE-KEY-1:AAAA\n")
    assert "does not hold a wrapped key" in host.refusal()
    host.key.write_bytes(b"garbage")
    assert "does not hold a wrapped key" in host.refusal()
    host.key.unlink()
    assert "is gone, and with it the key" in host.refusal()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda host: host.count.unlink(), "counter .* is gone"),
        (lambda host: host.count.write_bytes(b"garbage"), "does not hold the count"),
        (
            lambda host: host.count.write_bytes(host.count.read_bytes().replace(b":1:", b":0:")),
            "does not hold the count",
        ),
        (lambda host: host.count.chmod(0o644), "mode 0644"),
        (lambda host: FileCounter(host.count, bytes(32)).start(1), "does not hold the count"),
        (lambda host: host.key.chmod(0o640), "mode 0640"),
        (lambda host: host.file.chmod(0o604), "mode 0604"),
        (lambda host: host.file.unlink(), "is gone"),
    ],
    ids=["no counter", "garbage", "put back", "counter open", "other key", "key open", "file open", "no file"],
)
def test_what_belongs_to_the_file_must_be_right_too(host: Host, spoil: Callable[[Host], None], why: str) -> None:
    """The counter and its authenticity, and the modes of all of them."""
    host.keep(record())
    spoil(host)
    with pytest.raises(AssertionError, match=why):
        assert not host.refusal()


def test_counter_that_was_put_back_is_refused(host: Host) -> None:
    """A generation can be one ahead of its counter, after a crash, and no more."""
    store = host.keep(record())
    before = host.count.read_bytes()
    store.commit({FIRST: record(at=NOW + 1)}, 100)
    host.count.write_bytes(before)
    host.now += 2
    assert host.values() == {FIRST: CANARY}
    host.count.write_bytes(before)
    store = host.store()
    store.open(REFS, BINDING)
    store.commit({FIRST: record(at=NOW + 2)}, 100)
    assert host.values() == {FIRST: CANARY}
    for _ in range(2):
        store.commit({FIRST: record(at=NOW + 2)}, 100)
    host.count.write_bytes(before)
    assert "counter was put back" in host.refusal()


def test_clock_that_went_back_is_noticed(host: Host) -> None:
    """Nobody knows then how old a value is, so none is used."""
    store = host.keep(record())
    host.now += 5000
    store.commit({}, 100, is_last=True)
    host.now -= 1
    assert "the clock went back by 1 ms" in host.refusal()


def test_link_in_the_place_of_the_file_is_not_followed(host: Host, tmp_path: Path) -> None:
    """Whatever it leads to."""
    host.keep(record())
    host.file.rename(tmp_path / "elsewhere")
    host.file.symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    assert host.refusal()
    assert (tmp_path / "elsewhere").read_bytes() == before


# What stays as it is


def test_file_of_a_newer_program_is_left_alone(host: Host) -> None:
    """As is a newer key file: neither used nor replaced, until somebody clears it."""
    host.keep(record())
    change(host, "PRAGMA user_version = 2")
    before = host.contents()
    with pytest.raises(UnavailableError, match="has format 2; this program knows 1") as caught:
        host.store().open(REFS, BINDING)
    assert "cache clear" in caught.value.hint
    assert host.contents() == before
    host.store().clear()
    host.keep(record())
    host.key.write_bytes(host.key.read_bytes().replace(b"KEY-1", b"KEY-2"))
    with pytest.raises(UnavailableError, match="newer program"):
        host.store().open(REFS, BINDING)


def test_key_keeper_that_is_away_costs_nothing(tmp_path: Path) -> None:
    """What is on disk stays, and is used once the keeper is back."""
    keeper = Keeper()
    host = Host(tmp_path / "home", master_key="tpm", makers={"tpm": lambda: keeper})
    host.keep(record())
    keeper.is_there = False
    with pytest.raises(UnavailableError, match="the double is away"):
        host.store().open(REFS, BINDING)
    keeper.is_there = True
    assert host.values() == {FIRST: CANARY}


@pytest.mark.parametrize("message", ["unable to open database file", "disk I/O error"])
def test_file_that_cannot_be_read_is_left_alone(host: Host, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """It is neither used nor replaced, and the next start may find it well."""
    host.keep(record())

    def fail(*_: object, **__: object) -> Never:
        raise sqlite3.OperationalError(message)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", fail)
        with pytest.raises(SetupError, match="cannot be read or written: OperationalError"):
            host.store().open(REFS, BINDING)
    assert host.values() == {FIRST: CANARY}


# Writing that fails


@pytest.mark.parametrize("at", range(1, 12))
def test_fault_in_any_write_leaves_the_old_or_the_new(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """A full disk at any statement: the file opens afterwards and holds all of the change or none of it."""
    store = host.keep(record())
    done = 0
    connect = sqlite3.connect

    class Full(sqlite3.Connection):
        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            nonlocal done
            done += not sql.startswith("PRAGMA")
            if done == at:
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *values)  # type: ignore[arg-type]  # as it was called

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Full))
        try:
            store.commit({FIRST: record(value=b"new", at=NOW + 1), SECOND: record(SECOND)}, 100)
            is_written = True
        except SetupError:
            is_written = False
    host.now += 2
    assert host.values() == ({FIRST: b"new", SECOND: CANARY} if is_written else {FIRST: CANARY})
    store.commit({FIRST: record(value=b"new", at=NOW + 1), SECOND: record(SECOND)}, 100)
    assert host.values() == {FIRST: b"new", SECOND: CANARY}


def test_really_full_disk_is_said_and_overcome(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own failure, here by a bound on the pages of the file."""
    store = host.keep(record())
    with monkeypatch.context() as patch:
        patch.setattr(file_module, "_PRAGMAS", (*file_module._PRAGMAS, "PRAGMA max_page_count = 5"))
        with pytest.raises(SetupError, match="SQLITE_FULL"):
            store.commit({ref: record(ref, CANARY * 100) for ref in REFS}, 100)
    assert host.values() == {FIRST: CANARY}
    store.commit({ref: record(ref, CANARY * 100) for ref in REFS}, 100)
    assert set(host.values()) == REFS


def test_counter_that_cannot_be_written_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is then one generation ahead, as after a crash, and still opens."""
    store = host.keep(record())

    def full(_path: Path, _content: bytes) -> None:
        raise SetupError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("broker_worker.cache.sealed.counter.write_private", full)
        with pytest.raises(UnavailableError, match="no space left"):
            store.commit({SECOND: record(SECOND)}, 100)
    assert set(host.values()) == {FIRST, SECOND}
    store.commit({THIRD: record(THIRD)}, 100)
    assert set(host.values()) == {FIRST, SECOND, THIRD}


# Several processes


def test_two_writers_at_once_lose_nothing(host: Host) -> None:
    """Each change of each of them is in the file."""
    host.keep()
    failures: list[BaseException] = []

    def write(refs: list[str]) -> None:
        try:
            store = host.store()
            store.open(REFS, BINDING)
            for ref in refs:
                store.commit({ref: record(ref)}, 100)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test says so
            failures.append(error)

    half = len(REFS) // 2
    threads = [threading.Thread(target=write, args=(part,)) for part in (sorted(REFS)[:half], sorted(REFS)[half:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(host.values()) == REFS


def test_lock_that_is_held_for_long_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever."""
    host.keep(record())
    monkeypatch.setattr(store_module, "LOCK_SECONDS", 0.05)
    with host.store()._locked(), pytest.raises(SetupError, match="held by another process"):
        host.store().open(REFS, BINDING)


_WRITER = """
    import sys
    from pathlib import Path
    sys.path[:0] = sys.argv[2:]
    from sealed_workbench import BINDING, CANARY, NOW, REFS, Host, record
    host = Host(Path(sys.argv[1]))
    store = host.store()
    store.open(REFS, BINDING)
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        store.commit({ref: record(ref, CANARY + b"%d" % number, NOW + number) for ref in REFS}, 100)
        print(number, flush=True)
"""


def test_writer_killed_in_the_middle_leaves_a_whole_file(host: Host) -> None:
    """Killed with SIGKILL at any moment: what opens next is one whole change, never older than the last finished."""
    script = textwrap.dedent(_WRITER)
    paths = [str(Path(__file__).parents[1] / "integration"), str(Path(__file__).parents[2])]
    for rounds in range(4):
        command = [sys.executable, "-c", script, str(host.file.parents[1]), *paths]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3 + rounds)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
            process.wait()
        finished = int(lines[-1])
        host.now = NOW + 10_000
        found = host.values()
        assert set(found) == REFS
        (value,) = set(found.values())
        assert finished <= int(value.removeprefix(CANARY)) <= finished + 1
        host.store().clear()
        host.now = NOW


# Steps of the counter


def test_counter_that_wears_out_is_spared(tmp_path: Path) -> None:
    """It steps once an interval, and when a process ends; an older copy from before the last step is refused."""
    keeper = Keeper(interval=900)
    host = Host(tmp_path / "home", master_key="tpm", makers={"tpm": lambda: keeper})
    seconds = 0.0
    store = host.store()
    store._monotonic = lambda: seconds
    store.open(REFS, BINDING)
    (count,) = keeper.counts.values()
    for number in range(5):
        store.commit({FIRST: record(at=NOW + number)}, 100)
    assert list(keeper.counts.values()) == [count]
    shutil.copy(host.file, tmp_path / "older")
    seconds = 901.0
    store.commit({FIRST: record(value=b"new", at=NOW + 6)}, 100)
    assert list(keeper.counts.values()) == [count + 1]
    store.commit({SECOND: record(SECOND)}, 100)
    store.commit({}, 100, is_last=True)
    assert list(keeper.counts.values()) == [count + 2]
    store.commit({}, 100, is_last=True)
    assert list(keeper.counts.values()) == [count + 2]
    host.now += 10
    assert host.values() == {FIRST: b"new", SECOND: CANARY}
    shutil.copy(tmp_path / "older", host.file)
    assert "older copy" in host.refusal()


# Clearing and wrapping anew


def test_cleared_cache_is_gone_for_good(host: Host, tmp_path: Path) -> None:
    """A copy of the file that somebody kept opens no more, whatever counter is there."""
    host.keep(record())
    shutil.copy(host.file, tmp_path / "older")
    host.store().clear()
    assert not any(path.exists() for path in (host.file, host.key, host.count))
    host.keep()
    shutil.copy(tmp_path / "older", host.file)
    assert "another key" in host.refusal()


def test_process_that_runs_goes_on_after_a_clearing(host: Host) -> None:
    """It begins a new file, and another process joins it there."""
    one, two = host.keep(record()), host.keep()
    host.store().clear()
    with pytest.raises(RefusedError, match="was cleared"):
        one.commit({SECOND: record(SECOND)}, 100)
    one.start_over()
    one.commit({SECOND: record(SECOND)}, 100)
    two.commit({THIRD: record(THIRD)}, 100)
    assert set(host.values()) == {SECOND, THIRD}


def test_start_over_does_not_undo_that_of_another_process(host: Host) -> None:
    """Two processes that notice at the same time end up with one new file."""
    one, two = host.keep(record()), host.keep()
    host.file.write_bytes(b"garbage")
    one.start_over()
    one.commit({SECOND: record(SECOND)}, 100)
    two.start_over()
    assert set(host.values()) == {SECOND}


@pytest.mark.parametrize(("before", "after"), [(None, 60.0), (60.0, None), (60.0, 60.0), (None, None)])
def test_rewrapped_key_keeps_the_values(tmp_path: Path, before: float | None, after: float | None) -> None:
    """Under another keeper, with or without a counter; the old one forgets, and a running process goes on."""
    old, new = Keeper(before), Keeper(after)
    makers = {"tpm": lambda: old, "keyring": lambda: new}
    host = Host(tmp_path / "home", master_key="tpm", makers=makers)
    running = host.keep(record())
    copied(host, tmp_path / "older")
    host.master_key = "keyring"
    assert host.store().rewrap() == ("tpm", "keyring")
    assert not old.kept
    assert not old.counts
    assert host.count.exists() == (after is None)
    host.master_key = "auto"
    running._keys._wrappings = host.store()._keys._wrappings
    running.commit({SECOND: record(SECOND)}, 100)
    assert set(host.values()) == {FIRST, SECOND}
    shutil.copytree(tmp_path / "older", tmp_path / "home", dirs_exist_ok=True)
    assert host.refusal()


def test_another_kind_in_the_file_begins_anew_unless_rewrapped(tmp_path: Path) -> None:
    """The operator's section decides; the message says how to keep the values."""
    old, new = Keeper(), Keeper()
    makers = {"tpm": lambda: old, "keyring": lambda: new}
    host = Host(tmp_path / "home", master_key="tpm", makers=makers)
    host.keep(record())
    host.master_key = "keyring"
    opened = host.store().open(REFS, BINDING)
    assert opened.refused is not None
    assert "wrapped by tpm" in str(opened.refused)
    assert "cache rewrap" in opened.refused.hint
    assert opened.kind == "keyring"


def test_nothing_to_rewrap_is_said(host: Host) -> None:
    """As is a file that would not be used."""
    with pytest.raises(RefusedError, match="no sealed cache yet"):
        host.store().rewrap()
    host.keep(record())
    host.count.unlink()
    with pytest.raises(RefusedError, match="counter"):
        host.store().rewrap()


def test_new_key_that_cannot_be_stored_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk does not fill a TPM with counters."""
    keeper = Keeper(60.0)
    host = Host(tmp_path / "home", master_key="tpm", makers={"tpm": lambda: keeper})

    def full(_path: Path, _content: bytes) -> None:
        raise SetupError("no space left on device")

    monkeypatch.setattr("broker_worker.cache.sealed.key_file.write_private", full)
    with pytest.raises(SetupError, match="no space"):
        host.store().open(REFS, BINDING)
    assert keeper.kept == {}


def test_host_is_told_by_its_machine_id(tmp_path: Path) -> None:
    """One that has none is like any other that has none."""
    machine_id = tmp_path / "machine-id"
    nothing = host_id(machine_id)
    machine_id.write_text("0123456789abcdef0123456789abcdef\n")
    one = host_id(machine_id)
    machine_id.write_text("0123456789abcdef0123456789abcdee\n")
    assert len({nothing, one, host_id(machine_id)}) == 3
