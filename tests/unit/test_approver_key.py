"""A person's key for the terminal: opens with its passphrase only, and nothing of it is shown."""

import base64
import os
import stat
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_worker.core.approvals import sign_decision
from broker_worker.core.errors import SetupError
from broker_worker.people import approver_key as module
from broker_worker.people.approver_key import ApproverKey, create_approver_key, load_approver_key

QUICK = {"passes": 1, "memory_kib": 8}
PASSPHRASE = "correct horse battery"


@pytest.fixture
def key(tmp_path: Path) -> ApproverKey:
    """A key under a passphrase that is quick to stretch."""
    return create_approver_key(tmp_path / "approver.key", PASSPHRASE, **QUICK)


def test_a_key_opens_with_its_passphrase(key: ApproverKey) -> None:
    """And signs as the public half says."""
    loaded = load_approver_key(key.path)
    assert (loaded.public, loaded.is_protected) == (key.public, True)
    secret = loaded.unlock(lambda: PASSPHRASE)
    assert secret[32:] == key.public
    assert sign_decision(bytes(32), "approve", "alice", 0, secret).approver == "alice"


def test_another_passphrase_is_refused_and_not_repeated(key: ApproverKey) -> None:
    """The error holds neither it nor the cause."""
    with pytest.raises(SetupError, match="does not open with this passphrase") as caught:
        key.unlock(lambda: "something else")
    assert "something" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_key_without_a_passphrase_asks_for_none(tmp_path: Path) -> None:
    """It opens by itself."""
    made = create_approver_key(tmp_path / "approver.key", None)
    loaded = load_approver_key(made.path)
    assert not loaded.is_protected
    assert loaded.unlock(lambda: pytest.fail("asked"))[32:] == made.public


def test_the_file_is_private_and_made_only_once(tmp_path: Path) -> None:
    """Its folder is made with mode 0700 if it is missing; nothing is overwritten."""
    path = tmp_path / "new" / "approver.key"
    create_approver_key(path, None)
    if os.name == "posix":
        assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o600, 0o700]
    before = path.read_bytes()
    with pytest.raises(SetupError, match="exists already"):
        create_approver_key(path, None)
    assert path.read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_file_that_others_may_read_is_refused(key: ApproverKey) -> None:
    """As every key."""
    key.path.chmod(0o644)
    with pytest.raises(SetupError, match="group and others may have no access"):
        load_approver_key(key.path)


def test_nothing_of_the_seed_is_shown(tmp_path: Path) -> None:
    """Neither by repr nor by the file of a protected key."""
    made = create_approver_key(tmp_path / "a", None)
    seed = made._file.seed
    for text in (repr(made), repr(made._file)):
        assert seed.hex() not in text
        assert repr(seed)[2:-1] not in text
    protected = create_approver_key(tmp_path / "b", PASSPHRASE, **QUICK)
    raw = base64.urlsafe_b64decode((tmp_path / "b").read_bytes().split(b":")[1].strip() + b"==")
    assert protected.unlock(lambda: PASSPHRASE)[:32] not in raw


def test_a_missing_key_has_a_hint(tmp_path: Path) -> None:
    """How to make one."""
    with pytest.raises(SetupError) as caught:
        load_approver_key(tmp_path / "none")
    assert "approvers new-key" in caught.value.hint


@settings(max_examples=50)
@given(st.binary(max_size=400))
def test_whatever_is_no_key_is_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    """With our own error."""
    path = tmp_path_factory.mktemp("key") / "k"
    for content in (raw, b"SECRET-BROKER-APPROVER-1:" + base64.urlsafe_b64encode(raw).rstrip(b"=")):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(SetupError):
            load_approver_key(path)


@settings(max_examples=50)
@given(st.data())
def test_a_changed_byte_of_the_file_never_gives_another_key(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """It does not load, does not open, or is the same key."""
    folder = tmp_path_factory.mktemp("key")
    made = create_approver_key(folder / "k", data.draw(st.sampled_from([None, PASSPHRASE])), **QUICK)
    content = bytearray((folder / "k").read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / "k").write_bytes(content)
    original = module._stretch

    def cheaper(passphrase: bytes, salt: bytes, passes: int, memory_kib: int) -> bytes:
        return original(passphrase, salt, min(passes, 1), min(max(memory_kib, 8), 64))  # a forged cost takes long

    with patch.object(module, "_stretch", cheaper):
        try:
            secret = load_approver_key(folder / "k").unlock(lambda: PASSPHRASE)
        except SetupError:
            return
    assert secret[32:] == made.public
