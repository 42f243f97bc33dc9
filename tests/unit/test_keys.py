"""Keys on disk: made once, readable by their owner alone, rotated with an overlap."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_sdk.wire.sealing import key_id, run_public_key
from broker_worker.core.errors import SetupError
from broker_worker.files.keys import create_broker_keys, create_seed, load_broker_keys, load_seed, rotate_intake

NOW = 1_800_000_000_000
posix = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")


def test_created_keys_load_again(tmp_path: Path) -> None:
    """What init makes is what a worker reads."""
    assert create_broker_keys(tmp_path / "keys", NOW) == load_broker_keys(tmp_path / "keys")


def test_public_halves_belong_to_the_secret_ones(tmp_path: Path) -> None:
    """The identity's and the intake key's public halves and names are derived, not stored."""
    keys = create_broker_keys(tmp_path / "keys", NOW)
    assert keys.identity_public == run_public_key(keys.identity_seed)
    assert keys.intake[0].key_id == key_id(keys.intake[0].public)
    assert keys.intake[0].created_at == NOW


@posix
def test_modes_are_private(tmp_path: Path) -> None:
    """Every key file has mode 0600 and every folder 0700, whatever the umask."""
    before = os.umask(0)
    try:
        create_broker_keys(tmp_path / "keys", NOW)
    finally:
        os.umask(before)
    for path in (tmp_path / "keys").rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A second creation in the same folder is refused and leaves the first keys alone."""
    keys = create_broker_keys(tmp_path / "keys", NOW)
    with pytest.raises(SetupError, match="exists already"):
        create_broker_keys(tmp_path / "keys", NOW)
    assert load_broker_keys(tmp_path / "keys") == keys


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """A key open to group or others is refused, with the command that mends it."""
    path = tmp_path / "a.key"
    create_seed(path)
    path.chmod(mode)
    with pytest.raises(SetupError, match=f"mode {mode:04o}") as caught:
        load_seed(path)
    assert caught.value.hint.startswith(f"chmod 600 '{path}'")


@posix
def test_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    """Keys are not written into a folder that others can enter."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys").chmod(0o755)
    with pytest.raises(SetupError, match="mode 0755"):
        create_broker_keys(tmp_path / "keys", NOW)
    assert list((tmp_path / "keys").iterdir()) == []


def test_missing_key_says_what_to_run(tmp_path: Path) -> None:
    """Without keys the error names the command that makes them."""
    with pytest.raises(SetupError, match="does not exist") as caught:
        load_broker_keys(tmp_path)
    assert "secret-broker init" in caught.value.hint


def test_no_intake_key_is_an_error(tmp_path: Path) -> None:
    """A worker without an intake key could open nothing, so it does not start."""
    keys = create_broker_keys(tmp_path, NOW)
    (tmp_path / "intake" / f"{keys.intake[0].key_id.hex()}.key").unlink()
    with pytest.raises(SetupError, match="holds no intake key"):
        load_broker_keys(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(content=st.binary(max_size=300))
def test_anything_else_in_a_key_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """No other content of a key file is taken for a key, and the error does not repeat it."""
    path = tmp_path / "a.key"
    path.unlink(missing_ok=True)
    create_seed(path)
    path.write_bytes(content)
    with pytest.raises(SetupError) as caught:
        load_seed(path)
    assert str(path) in str(caught.value)


def test_fifo_is_refused_at_once(tmp_path: Path) -> None:
    """A named pipe in a key's place does not hang the broker."""
    path = tmp_path / "a.key"
    os.mkfifo(path, 0o600)
    with pytest.raises(SetupError, match="not a plain file"):
        load_seed(path)


def test_renamed_intake_key_is_refused(tmp_path: Path) -> None:
    """An intake key under another key's name is refused: envelopes name keys by it."""
    keys = create_broker_keys(tmp_path, NOW)
    path = tmp_path / "intake" / f"{keys.intake[0].key_id.hex()}.key"
    path.rename(path.with_name("00" * 8 + ".key"))
    with pytest.raises(SetupError, match="not the one that its name says"):
        load_broker_keys(tmp_path)


def test_secrets_are_not_in_repr(tmp_path: Path) -> None:
    """A keys object that is logged shows no secret half."""
    keys = create_broker_keys(tmp_path, NOW)
    shown = repr(keys)
    assert repr(keys.identity_seed) not in shown
    assert repr(keys.intake[0].secret) not in shown


def test_rotation_puts_the_new_key_first_and_keeps_the_old(tmp_path: Path) -> None:
    """After a rotation runs that were launched before it still work."""
    old = create_broker_keys(tmp_path, NOW).intake[0]
    rotated = rotate_intake(tmp_path, overlap_seconds=3600, now=NOW + 1000)
    assert rotated.intake[1] == old
    assert rotated.intake[0].created_at == NOW + 1000


def test_old_key_is_destroyed_after_its_overlap(tmp_path: Path) -> None:
    """A key whose overlap is over is gone from the disk, and one whose overlap is not stays."""
    first = create_broker_keys(tmp_path, NOW).intake[0]
    second = rotate_intake(tmp_path, 3600, NOW + 1000).intake[0]
    keys = rotate_intake(tmp_path, 3600, NOW + 1000 + 3_600_000)
    assert [key.key_id for key in keys.intake[1:]] == [second.key_id]
    assert not (tmp_path / "intake" / f"{first.key_id.hex()}.key").exists()


def test_overlap_counts_from_the_replacement(tmp_path: Path) -> None:
    """A key that served for a year is not destroyed by its first rotation."""
    year = 365 * 86_400_000
    old = create_broker_keys(tmp_path, NOW).intake[0]
    assert old in rotate_intake(tmp_path, 3600, NOW + year).intake


def test_rotation_works_when_the_clock_went_back(tmp_path: Path) -> None:
    """The new key is the newest even if the clock now shows less than when the old one was made."""
    old = create_broker_keys(tmp_path, NOW).intake[0]
    assert rotate_intake(tmp_path, 3600, NOW - 5000).intake[0] != old


@pytest.mark.parametrize("now", [NOW - 5000, NOW, NOW + 1])
def test_no_overlap_destroys_the_old_keys_at_once(tmp_path: Path, now: int) -> None:
    """With an overlap of 0 only the new key is left, whatever the clock says."""
    old = create_broker_keys(tmp_path, NOW).intake[0]
    (new,) = rotate_intake(tmp_path, 0, now).intake
    assert new != old


def test_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the key cannot be synced the error says so and names the file."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SetupError, match=r"a\.key cannot be written: No space left on device"):
        create_seed(tmp_path / "a.key")
