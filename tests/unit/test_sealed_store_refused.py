"""A sealed cache that is not what its host left: copied, older, changed, or out of reach, it serves nothing."""

import os
import shutil
import sqlite3
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
    Host,
    Keeper,
    copied,
    quick,
    record,
)

from broker_worker.cache.sealed import file as file_module
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


def test_host_is_told_by_its_machine_id(tmp_path: Path) -> None:
    """One that has none is like any other that has none."""
    machine_id = tmp_path / "machine-id"
    nothing = host_id(machine_id)
    machine_id.write_text("0123456789abcdef0123456789abcdef\n")
    one = host_id(machine_id)
    machine_id.write_text("0123456789abcdef0123456789abcdee\n")
    assert len({nothing, one, host_id(machine_id)}) == 3
