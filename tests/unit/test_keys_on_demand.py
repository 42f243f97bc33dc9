"""Keys that an older home lacks: made once, by one process, and never where that would undo anything."""

import errno
import os
import threading
from pathlib import Path
from unittest.mock import patch

import pytest
from filelock import FileLock

from agent_sdk.wire.sealing import run_public_key
from broker_worker.core.errors import SetupError
from broker_worker.files import keys
from broker_worker.files.keys import (
    CONTROL,
    JOBS,
    PUBLIC_CONTROL,
    control_public,
    create_broker_keys,
    ensure_control_seed,
    ensure_seed,
    load_seed,
)

NOW = 1_800_000_000_000


def test_new_home_has_all_keys(tmp_path: Path) -> None:
    """What init makes includes the keys for revocations and jobs, and no two keys are alike."""
    create_broker_keys(tmp_path, NOW)
    seeds = {load_seed(path) for path in tmp_path.glob("*.key")}
    assert {CONTROL, JOBS} < {path.name for path in tmp_path.glob("*.key")}
    assert len(seeds) == len(list(tmp_path.glob("*.key")))


def test_missing_key_is_made_and_stays(tmp_path: Path) -> None:
    """The first call makes the key, every later one reads it."""
    made = ensure_seed(tmp_path / JOBS)
    assert ensure_seed(tmp_path / JOBS) == load_seed(tmp_path / JOBS) == made


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    """Of several that find no key, one makes it and the others take that one."""
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(ensure_seed(tmp_path / JOBS))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_key_that_is_there_and_unsafe_is_not_replaced(tmp_path: Path) -> None:
    """A key that others can read is an error, not a reason for a new one."""
    ensure_seed(tmp_path / JOBS)
    (tmp_path / JOBS).chmod(0o644)
    with pytest.raises(SetupError, match="mode 0644"):
        ensure_seed(tmp_path / JOBS)


def test_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    """Keys mounted read-only, without the new one, are named."""
    refusal = OSError(errno.EROFS, "Read-only file system")
    with (
        patch.object(os, "open", side_effect=refusal),
        pytest.raises(SetupError, match=r"jobs\.key does not exist and cannot be made: Read-only file system"),
    ):
        ensure_seed(tmp_path / JOBS)


def test_lock_that_is_held_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs while it makes a key is named as the reason."""
    monkeypatch.setattr(keys, "_LOCK_SECONDS", 0.05)
    with (
        FileLock(tmp_path / f".{JOBS}.lock"),
        pytest.raises(SetupError, match="another process holds its lock"),
    ):
        ensure_seed(tmp_path / JOBS)


def test_control_key_is_not_made_where_orders_stand(tmp_path: Path) -> None:
    """Orders that no key can verify any more are not made worthless by a new one."""
    orders = tmp_path / "revocations.jsonl"
    orders.write_bytes(b"")
    first = ensure_control_seed(tmp_path, orders)
    orders.write_bytes(b"an order\n")
    assert ensure_control_seed(tmp_path, orders) == first
    (tmp_path / CONTROL).unlink()
    (tmp_path / PUBLIC_CONTROL).unlink()
    with pytest.raises(SetupError, match="holds orders that were signed with it") as caught:
        ensure_control_seed(tmp_path, orders)
    assert "backup" in caught.value.hint
    assert not (tmp_path / CONTROL).exists()


def test_an_order_needs_the_key_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder takes no file, as in the dashboard's container, the key signs without its public half."""
    made = ensure_control_seed(tmp_path, tmp_path / "revocations.jsonl")
    public = (tmp_path / PUBLIC_CONTROL).read_bytes()
    (tmp_path / PUBLIC_CONTROL).unlink()

    def refuse(path: Path, content: bytes) -> None:
        raise SetupError(f"{path} cannot be written: Read-only file system", hint=f"{len(content)} bytes")

    monkeypatch.setattr(keys, "write_private", refuse)
    assert ensure_control_seed(tmp_path, tmp_path / "revocations.jsonl") == made
    (tmp_path / PUBLIC_CONTROL).write_bytes(public.replace(b"PUBLIC", b"SPOILT"))
    (tmp_path / PUBLIC_CONTROL).chmod(0o600)
    with pytest.raises(SetupError, match="cannot be written"):
        ensure_control_seed(tmp_path, tmp_path / "revocations.jsonl")


def test_workers_need_the_public_half_alone(tmp_path: Path) -> None:
    """A worker's home without the private half checks orders, and neither gives any nor makes another key."""
    create_broker_keys(tmp_path, NOW)
    orders = tmp_path / "revocations.jsonl"
    public = run_public_key(load_seed(tmp_path / CONTROL))
    assert control_public(tmp_path, orders) == public
    (tmp_path / CONTROL).unlink()
    assert control_public(tmp_path, orders) == public
    with pytest.raises(SetupError, match="only the public half") as caught:
        ensure_control_seed(tmp_path, orders)
    assert "where the key is" in caught.value.hint
    orders.write_bytes(b"an order\n")
    assert control_public(tmp_path, orders) == public
    assert not (tmp_path / CONTROL).exists()


def test_older_home_gets_both_halves_of_the_control_key(tmp_path: Path) -> None:
    """Where there is neither half, both are made by whichever process asks first."""
    public = control_public(tmp_path, tmp_path / "revocations.jsonl")
    assert public == run_public_key(load_seed(tmp_path / CONTROL))
    (tmp_path / CONTROL).unlink()
    assert control_public(tmp_path, tmp_path / "revocations.jsonl") == public


def test_processes_that_make_the_control_key_together_agree(tmp_path: Path) -> None:
    """Workers of an older home that start at the same moment all end up with one key and its public half."""
    found: list[bytes] = []
    orders = tmp_path / "revocations.jsonl"
    threads = [threading.Thread(target=lambda: found.append(control_public(tmp_path, orders))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [run_public_key(load_seed(tmp_path / CONTROL))] * 8


@pytest.mark.parametrize("content", [b"", b"junk", b"SECRET-BROKER-KEY-1:" + b"A" * 43 + b"\n"])
def test_damaged_public_half_is_refused(tmp_path: Path, content: bytes) -> None:
    """Anything else in its place ends the start, and is not repeated."""
    create_broker_keys(tmp_path, NOW)
    (tmp_path / CONTROL).unlink()
    (tmp_path / PUBLIC_CONTROL).write_bytes(content)
    with pytest.raises(SetupError, match="does not hold the public half") as caught:
        control_public(tmp_path, tmp_path / "revocations.jsonl")
    assert "AAAA" not in str(caught.value)
