"""The private files in which workers share what they know of vaults."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest
from desk_workbench import TurnedClock
from filelock import FileLock

from broker_worker.core.budget import Budget
from broker_worker.core.errors import FailureKind, ProviderError, SetupError
from broker_worker.core.vault_state import Moment, VaultState, admit, after_failure
from broker_worker.state import vault_states
from broker_worker.state.vault_states import VaultStates

AWAY = ProviderError(FailureKind.UNREACHABLE, "away")


def states(folder: Path) -> VaultStates:
    """The files of a home, as one more process would open them."""
    return VaultStates(folder / "state" / "vaults", TurnedClock(), "boot")


def fail(state: VaultState, moment: Moment) -> tuple[VaultState, int]:
    """Note a failure; returns how many there were before."""
    return after_failure(state, moment, AWAY), 0 if state.trouble is None else state.trouble.failures


def take(state: VaultState, moment: Moment) -> tuple[VaultState, int | ProviderError]:
    """Take one read of a budget of a thousand."""
    return admit(state, moment, (1,), budget=Budget(1000, None, 0))


def file_of(folder: Path) -> Path:
    """Where the state of `op` is."""
    return folder / "state" / "vaults" / "op.json"


def test_what_one_process_notes_the_next_one_knows(tmp_path: Path) -> None:
    """At once, and after a restart; each vault has its own state."""
    one, other = states(tmp_path), states(tmp_path)
    assert one.change("op", fail) == 0
    assert other.change("op", fail) == 1
    assert one.change("op", fail) == 2
    assert one.change("aws", fail) == 0
    trouble = states(tmp_path).look("op").trouble
    assert trouble is not None
    assert trouble.failures == 3


def test_only_the_brokers_user_may_look(tmp_path: Path) -> None:
    """Folder and file are private from the beginning, and one that is not is refused."""
    made = states(tmp_path)
    made.change("op", fail)
    assert stat.S_IMODE(file_of(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(file_of(tmp_path).parent.stat().st_mode) == 0o700
    file_of(tmp_path).chmod(0o644)
    with pytest.raises(SetupError, match="0644"):
        states(tmp_path).look("op")


def test_a_step_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    """Looking at a vault that nobody ever asked leaves no file."""
    made = states(tmp_path)
    assert made.change("op", lambda state, moment: (state, 7)) == 7
    assert made.look("op").trouble is None
    assert not file_of(tmp_path).exists()


def test_threads_at_once_lose_no_read(tmp_path: Path) -> None:
    """A hundred reads of ten threads are a hundred reads."""
    made = states(tmp_path)
    threads = [threading.Thread(target=lambda: [made.change("op", take) for _ in range(10)]) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made.look("op").reads.values()) == 100


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"at":1}', b'{"at":"x"}', b"[" * 100_000, None],
    ids=["empty", "half", "list", "null", "bytes", "parts", "types", "deep", "unknown key"],
)
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path, content: bytes | None) -> None:
    """Nothing is guessed, nothing is written over it, and nothing of it is repeated."""
    made = states(tmp_path)
    made.change("op", fail)
    if content is None:
        content = json.dumps(json.loads(file_of(tmp_path).read_bytes()) | {"reads_left": 5}).encode()
    file_of(tmp_path).write_bytes(content)
    for call in (lambda: made.look("op"), lambda: made.change("op", fail)):
        with pytest.raises(SetupError, match="not what the broker wrote") as caught:
            call()
        assert "move it away" in caught.value.hint
    assert file_of(tmp_path).read_bytes() == content


def test_a_full_disk_leaves_the_state_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step does not count, and the caller learns of it."""
    made = states(tmp_path)
    made.change("op", fail)

    def full(path: Path, content: bytes) -> None:
        raise SetupError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(vault_states, "write_private", full)
    with pytest.raises(SetupError, match="No space left"):
        made.change("op", fail)
    monkeypatch.undo()
    assert made.change("op", fail) == 1


def test_a_lock_that_is_held_for_long_is_an_error_and_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hangs with it must not stop all others."""
    monkeypatch.setattr(vault_states, "LOCK_SECONDS", 0.05)
    made = states(tmp_path)
    made.change("op", fail)
    with FileLock(file_of(tmp_path).with_name(".op.json.lock")), pytest.raises(SetupError, match="held by another"):
        made.change("op", fail)
    assert made.change("op", fail) == 1


@pytest.mark.skipif(os.name != "posix", reason="a folder's mode says nothing there")
def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """Something else may have its name."""
    (tmp_path / "state").write_text("")
    with pytest.raises(SetupError):
        states(tmp_path).change("op", fail)


def test_the_host_tells_its_boots_apart(tmp_path: Path) -> None:
    """Where it does, each process reads the same; where it does not, nothing is made up."""
    one, other = (VaultStates(tmp_path, TurnedClock()).moment().boot for _ in range(2))
    assert one == other
    assert len(one) in {0, 36}
