"""The sealed cache on disk: what survives, what is never served again, how it is cleared, and another wrapping."""

import shutil
from pathlib import Path

import pytest
from sealed_workbench import BINDING, FIRST, NOW, REFS, SECOND, THIRD, TTL, Host, Keeper, copied, record

from broker_worker.cache.sealed.errors import RefusedError
from broker_worker.core.errors import SetupError


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host without a sealed cache yet."""
    return Host(tmp_path / "home")


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
