"""The file of revocations: what was ordered once stays ordered, and nothing else counts."""

import base64
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import nacl.bindings as sodium
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire.errors import WireError
from broker_worker.core.errors import SetupError
from broker_worker.core.revocations import Kind, Revocation, Revocations, sign_revocation
from broker_worker.state.revocation_file import RevocationFile

NOW = 1_800_000_000_000
PUBLIC, SECRET = sodium.crypto_sign_seed_keypair(bytes(range(32)))
FOREIGN = sodium.crypto_sign_seed_keypair(bytes(32))[1]


def order(number: int = 0, what: str = "revoke", kind: Kind = "agent", subject: str = "claude") -> Revocation:
    return Revocation(
        revocation_id=f"{number:016x}",
        order=what,  # type: ignore[arg-type]  # one of the two
        kind=kind,
        subject=subject,
        at=NOW + number,
        reason="laptop lost",
        by="maria",
    )


def signed(number: int = 0, what: str = "revoke") -> bytes:
    return sign_revocation(order(number, what), SECRET)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that does not exist yet."""
    return tmp_path / "state" / "revocations.jsonl"


@pytest.fixture
def faults() -> list[str]:
    """What was told."""
    return []


@pytest.fixture
def file(path: Path, faults: list[str]) -> RevocationFile:
    """A worker's view of the file."""
    return RevocationFile(path, PUBLIC, faults.append)


def add_line(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line + b"\n")


def test_order_comes_to_every_reader_once(path: Path, file: RevocationFile, faults: list[str]) -> None:
    """What one process appends all take, the one that appended it as well."""
    other = RevocationFile(path, PUBLIC)
    assert file.poll() == other.poll() == []
    assert file.append(signed())
    assert file.poll() == other.poll() == [order()]
    assert file.poll() == other.poll() == []
    assert faults == []


def test_order_stands_in_the_file_once(path: Path, file: RevocationFile) -> None:
    """The same order from the queue and from the file, on several workers, makes one line."""
    assert file.append(signed())
    assert not file.append(signed())
    assert not RevocationFile(path, PUBLIC).append(signed())
    assert len(path.read_bytes().splitlines()) == 1


def test_several_orders_are_written_at_once(path: Path, file: RevocationFile) -> None:
    """Those that are known or given twice are not written again; one forged order, and none is written."""
    file.append(signed(0))
    with pytest.raises(WireError, match="not signed"):
        file.append_all([signed(1), sign_revocation(order(2), FOREIGN)])
    assert file.append_all([signed(0), signed(1), signed(1), signed(2)]) == 2
    assert file.poll() == [order(0), order(1), order(2)]
    assert len(path.read_bytes().splitlines()) == 3


def test_restart_knows_all_orders(path: Path, file: RevocationFile) -> None:
    """A new process has what the old one had."""
    for number in range(3):
        file.append(signed(number))
    assert RevocationFile(path, PUBLIC).poll() == [order(0), order(1), order(2)]


def test_line_says_to_people_what_was_ordered(path: Path, file: RevocationFile) -> None:
    """The file can be read without a program."""
    file.append(signed())
    line = json.loads(path.read_text())
    line.pop("signed")
    assert line == {
        "time": "2027-01-15T08:00:00.000Z",
        "order": "revoke",
        "subject": "agent:claude",
        "reason": "laptop lost",
        "by": "maria",
    }


def test_forged_order_is_not_appended(path: Path, file: RevocationFile) -> None:
    """What the control key did not sign does not get into the file."""
    with pytest.raises(WireError, match="not signed"):
        file.append(sign_revocation(order(), FOREIGN))
    assert not path.exists()


@pytest.mark.parametrize("line", [b"{}", b"what is this", b"\xff", b'{"order":"reinstate"}'])
def test_line_that_is_no_order_is_told_and_skipped(
    path: Path, file: RevocationFile, faults: list[str], line: bytes
) -> None:
    """Junk costs no order that stands before or behind it."""
    file.append(signed(0))
    add_line(path, line)
    file.append(signed(1))
    assert file.poll() == [order(0), order(1)]
    assert faults == [f"{path}: a line is no order"]


def test_forged_line_is_told_and_skipped(path: Path, file: RevocationFile, faults: list[str]) -> None:
    """Who can write the file cannot have anything served again without the control key."""
    file.append(signed())
    line = json.loads(path.read_text())
    forged = sign_revocation(order(9, "reinstate"), FOREIGN)
    line["signed"] = base64.urlsafe_b64encode(forged).decode()
    add_line(path, json.dumps(line).encode())
    assert file.poll() == [order()]
    assert len(faults) == 1
    assert "not signed with this broker's control key" in faults[0]


def test_line_that_says_something_else_than_what_was_signed_is_told(
    path: Path, file: RevocationFile, faults: list[str]
) -> None:
    """What people read in the file cannot be made to differ from what holds without a word."""
    file.append(signed(0))
    file.append(signed(1))
    path.write_bytes(path.read_bytes().replace(b"laptop lost", b"laptop lent", 1))
    assert file.poll() == [order(0), order(1)]
    assert "says something else than what was signed, revoke agent:claude" in faults[-1]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def keep_first(path: Path) -> None:
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


@pytest.mark.parametrize("harm", [Path.unlink, empty, keep_first])
def test_file_that_loses_orders_takes_none_back(
    path: Path, file: RevocationFile, faults: list[str], harm: Callable[[Path], None]
) -> None:
    """A file that is cut or removed is told of, and what this process knows stays in force and is not given twice."""
    state = Revocations()
    file.append(signed(0, "reinstate"))
    file.append(signed(1))
    for revocation in file.poll():
        state.apply(revocation)
    harm(path)
    assert file.poll() == []
    assert state.of_run("claude", "run-1", "t") == order(1)
    assert len(faults) == 1
    assert "stays in force here" in faults[0]


def test_file_without_one_order_of_this_key_ends_the_start(path: Path) -> None:
    """A control key that was exchanged would undo every order: the broker does not start with that, ever."""
    RevocationFile(path, PUBLIC).append(signed())
    reader = RevocationFile(path, sodium.crypto_sign_seed_keypair(bytes(32))[0])
    for _ in range(2):
        with pytest.raises(SetupError, match="not one order of this control key"):
            reader.poll()
    with pytest.raises(SetupError, match="not one order"):
        reader.append(sign_revocation(order(), FOREIGN))


def test_file_that_cannot_be_read_ends_the_start(path: Path) -> None:
    """What cannot be read might be a revocation."""
    RevocationFile(path, PUBLIC).append(signed())
    path.chmod(0o644)
    with pytest.raises(SetupError, match="mode 0644"):
        RevocationFile(path, PUBLIC).poll()


def test_file_that_cannot_be_read_any_more_is_told_once(path: Path, file: RevocationFile, faults: list[str]) -> None:
    """A worker that runs keeps what it has, says so once, and reads on when it can."""
    file.append(signed(0))
    file.poll()
    path.chmod(0o644)
    assert file.poll() == file.poll() == []
    assert len(faults) == 1
    path.chmod(0o600)
    file.append(signed(1))
    assert file.poll() == [order(1)]


def test_order_that_could_not_be_written_still_holds_in_this_process(path: Path, file: RevocationFile) -> None:
    """A full disk is an error for who ordered, but the worker that heard of the order refuses all the same."""
    with (
        patch.object(os, "fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")),
        pytest.raises(SetupError, match="No space left"),
    ):
        file.append(signed())
    assert file.poll() == [order()]
    assert file.append(signed())
    assert len(path.read_bytes().splitlines()) == 1


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["revoke", "reinstate"])), max_size=12), st.data())
def test_replaying_the_file_gives_the_state(
    tmp_path_factory: pytest.TempPathFactory, given: list[tuple[int, str]], data: st.DataObject
) -> None:
    """Whoever reads the file, whole or as it grows, comes to the state of all orders."""
    path = tmp_path_factory.mktemp("state") / "revocations.jsonl"
    writers = [RevocationFile(path, PUBLIC) for _ in range(2)]
    state, growing = Revocations(), Revocations()
    for number, what in given:
        state.apply(order(number, what))
        writers[data.draw(st.integers(0, 1))].append(signed(number, what))
        for revocation in writers[0].poll():
            growing.apply(revocation)
    replayed = Revocations()
    for revocation in RevocationFile(path, PUBLIC).poll():
        replayed.apply(revocation)
    assert list(state) == list(growing) == list(replayed)
