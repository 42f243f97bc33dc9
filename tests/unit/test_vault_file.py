"""The local vault on disk: versions, crashes, several writers, unsafe files."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker_worker.core.errors import FailureKind, ProviderError, SetupError
from broker_worker.providers import local_vault
from broker_worker.providers.local_vault import LocalVault, VaultKeys
from broker_worker.providers.vault_format import KeyKind, KeyParameters

KEY = bytes(range(32))
QUICK = KeyParameters.of_passphrase(passes=1, memory_kib=8192)


def vault_at(path: Path, key: bytes = KEY, passphrase: str | None = None) -> LocalVault:
    return LocalVault(path, VaultKeys(lambda: key, lambda: passphrase))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the vault lies."""
    return tmp_path / "local.vault"


@pytest.fixture
def vault(path: Path) -> LocalVault:
    """An empty vault."""
    vault = vault_at(path)
    vault.create(KeyParameters.of_key_file())
    return vault


def test_value_comes_back_with_version_and_time(vault: LocalVault) -> None:
    """What was set is read by another process's vault object, with its version and time."""
    assert vault.set("openai.api_key", b"value", 1_700_000_000_000) == 1
    entry = vault_at(vault._path).read(["openai.api_key"])["openai.api_key"]
    assert (entry.value, entry.version, entry.updated_at) == (b"value", 1, 1_700_000_000_000)


def test_versions_count_up_and_are_never_used_twice(vault: LocalVault) -> None:
    """Each set is one more, also after the name was removed in between."""
    assert [vault.set("a", b"x", 0), vault.set("a", b"x", 0), vault.set("b", b"x", 0)] == [1, 2, 1]
    vault.remove("a")
    assert vault.set("a", b"x", 0) == 3


def test_removed_name_is_gone(vault: LocalVault) -> None:
    """After `remove` neither value nor name is there, and removing it again is `NOT_FOUND`."""
    vault.set("a", b"x", 0)
    vault.remove("a")
    assert vault.read(["a"]) == {}
    assert vault.describe() == {}
    with pytest.raises(ProviderError) as caught:
        vault.remove("a")
    assert caught.value.kind is FailureKind.NOT_FOUND


def test_description_is_sorted_and_holds_no_values(vault: LocalVault) -> None:
    """`describe` gives names in order with version and time, nothing else."""
    vault.set("b", b"canary", 5)
    vault.set("a", b"canary", 6)
    assert list(vault.describe().items()) == [("a", (1, 6)), ("b", (1, 5))]


@pytest.mark.parametrize("size", [1, 128 * 1024])
def test_values_of_allowed_sizes_are_stored(vault: LocalVault, size: int) -> None:
    """One byte and 128 KiB are the ends of what is allowed."""
    vault.set("a", b"\x80" * size, 0)
    assert vault.read(["a"])["a"].value == b"\x80" * size


@pytest.mark.parametrize(
    ("value", "kind"), [(b"", FailureKind.UNKNOWN), (b"x" * (128 * 1024 + 1), FailureKind.TOO_LARGE)]
)
def test_values_of_other_sizes_are_refused(vault: LocalVault, value: bytes, kind: FailureKind) -> None:
    """No bytes and more than 128 KiB are refused, and nothing is changed."""
    vault.set("a", b"before", 0)
    with pytest.raises(ProviderError) as caught:
        vault.set("a", value, 0)
    assert caught.value.kind is kind
    assert vault.read(["a"])["a"].value == b"before"


@pytest.mark.parametrize("name", ["", "Upper", "a b", "../a", "a..b", "\u00e4", "a/b", "sk-ABCdef", "x" * 129])
def test_other_names_are_refused_and_not_repeated(vault: LocalVault, name: str) -> None:
    """Names have the form of secret names; another text, which may be a value, is not repeated."""
    for call in (lambda: vault.set(name, b"x", 0), lambda: vault.remove(name)):
        with pytest.raises(ProviderError) as caught:
            call()
        assert caught.value.kind is FailureKind.BAD_REFERENCE
        assert not name or repr(name) not in f"{caught.value}{caught.value.hint}"


def test_file_is_private(vault: LocalVault, path: Path) -> None:
    """The vault and its lock can be read by their owner only, also after a change."""
    vault.set("a", b"x", 0)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.with_name("local.vault.lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_file_open_to_others_is_refused(vault: LocalVault, path: Path, mode: int) -> None:
    """A vault that group or others may touch is neither read nor written, and the hint says how to mend it."""
    path.chmod(mode)
    for call in (lambda: vault.read(["a"]), lambda: vault.set("a", b"x", 0)):
        with pytest.raises(SetupError, match=f"{mode:04o}") as caught:
            call()
        assert "chmod 600" in caught.value.hint


def test_missing_vault_says_how_to_make_one(path: Path) -> None:
    """Without a file nothing is made up: reading and writing say which command makes a vault."""
    for call in (lambda: vault_at(path).read(["a"]), lambda: vault_at(path).set("a", b"x", 0)):
        with pytest.raises(SetupError, match="does not exist") as caught:
            call()
        assert "secret-broker vault create" in caught.value.hint
    assert not path.exists()


def test_existing_vault_is_not_overwritten(vault: LocalVault) -> None:
    """`create` refuses where there is a vault, and leaves it as it is."""
    vault.set("a", b"x", 0)
    with pytest.raises(SetupError, match="exists already"):
        vault.create(KeyParameters.of_key_file())
    assert vault.read(["a"])


def test_missing_folder_is_named_and_not_made(tmp_path: Path) -> None:
    """A missing folder is an error that names it, for making a vault and for writing into one."""
    vault = vault_at(tmp_path / "missing" / "local.vault")
    for call in (lambda: vault.create(KeyParameters.of_key_file()), lambda: vault.set("a", b"x", 0)):
        with pytest.raises(SetupError, match="missing does not exist") as caught:
            call()
        assert "secret-broker vault create" in caught.value.hint
    assert not (tmp_path / "missing").exists()


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A folder where no lock can be made is an error that names it."""
    (tmp_path / "local.vault.lock").mkdir()
    with pytest.raises(SetupError, match="cannot be written") as caught:
        vault_at(tmp_path / "local.vault").create(KeyParameters.of_key_file())
    assert str(tmp_path) in str(caught.value)


def test_change_by_another_object_is_seen(vault: LocalVault, path: Path) -> None:
    """Nothing is remembered between calls: what another process sets is read next."""
    vault.set("a", b"old", 0)
    assert vault.read(["a"])["a"].value == b"old"
    vault_at(path).set("a", b"new", 0)
    assert vault.read(["a"])["a"].value == b"new"


def test_no_content_stays_in_memory(vault: LocalVault) -> None:
    """After a call the vault object holds its path and the derived key, no entry."""
    vault.set("a", b"canary", 0)
    vault.read(["a"])
    held = [*vars(vault).values(), *vars(vault._keys).values()]
    assert "canary" not in repr(held)
    assert not any(isinstance(thing, (bytes, bytearray)) for thing in held)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_crash_in_the_middle_of_a_write_leaves_the_old_vault(
    vault: LocalVault, path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """If the disk is full or the rename fails, the old content stays, and no temporary file."""
    vault.set("a", b"old", 0)

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        if step == "fsync":
            patched.setattr("os.fsync", fail)
        else:
            patched.setattr(Path, "replace", fail)
        with pytest.raises(SetupError, match="No space left"):
            vault.set("a", b"new", 0)
    assert vault.read(["a"])["a"].value == b"old"
    assert {file.name for file in path.parent.iterdir()} == {"local.vault", "local.vault.lock"}


def test_written_file_is_synced_before_it_takes_the_name(vault: LocalVault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new content is synced, then renamed, then the folder is synced: no power cut leaves half a vault."""
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        steps.append("fsync")
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        steps.append("replace")
        return real_replace(self, target)

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    vault.set("a", b"x", 0)
    assert steps == ["fsync", "replace", "fsync"]


def test_writers_at_once_lose_no_update(vault: LocalVault, path: Path) -> None:
    """Six threads that set the same name ten times end at version 60."""

    def write() -> None:
        mine = vault_at(path)
        for _ in range(10):
            mine.set("a", b"x", 0)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert vault.describe() == {"a": (60, 0)}


def test_writers_of_other_processes_lose_no_update(vault: LocalVault, path: Path) -> None:
    """Three processes that set names of their own all find them there in the end."""
    code = (
        "import sys; from pathlib import Path\n"
        "from broker_worker.providers.local_vault import LocalVault, VaultKeys\n"
        "vault = LocalVault(Path(sys.argv[1]), VaultKeys(lambda: bytes(range(32)), lambda: None))\n"
        "for i in range(15): vault.set(f'{sys.argv[2]}-{i}', b'x', 0)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("a", "b", "c")]
    assert [writer.wait(90) for writer in writers] == [0, 0, 0]
    assert len(vault.describe()) == 45


def test_held_lock_ends_in_an_error(vault: LocalVault, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that waits too long for another says so; readers are not held up."""
    vault.set("a", b"x", 0)
    monkeypatch.setattr(local_vault, "_LOCK_SECONDS", 0.05)
    with FileLock(f"{path}.lock"):
        assert vault.read(["a"])
        with pytest.raises(SetupError, match="another process has been writing"):
            vault.set("a", b"y", 0)


def test_lock_is_released_after_a_failure(vault: LocalVault) -> None:
    """A refused change does not keep the next writer out."""
    with pytest.raises(ProviderError):
        vault.remove("nothing")
    assert vault.set("a", b"x", 0) == 1


def test_wrong_key_file_does_not_open(vault: LocalVault, path: Path) -> None:
    """Another key is refused as such, and cannot overwrite the vault."""
    other = vault_at(path, key=bytes(32))
    for call in (lambda: other.read(["a"]), lambda: other.set("a", b"x", 0)):
        with pytest.raises(ProviderError, match="does not open with this key file"):
            call()
    assert vault.describe() == {}


def test_passphrase_opens_what_it_made(path: Path) -> None:
    """A vault made with a passphrase opens with it, and with no other."""
    vault_at(path, passphrase="correct horse battery").create(QUICK)
    vault_at(path, passphrase="correct horse battery").set("a", b"x", 0)
    with pytest.raises(ProviderError, match="does not open with this passphrase"):
        vault_at(path, passphrase="correct horse batterx").read(["a"])
    with pytest.raises(ProviderError, match="needs its passphrase") as caught:
        vault_at(path).read(["a"])
    assert caught.value.hint == "set SECRET_BROKER_VAULT_PASSPHRASE"


@pytest.mark.parametrize("passphrase", ["short", "x" * 11])
def test_short_passphrase_is_refused_for_a_new_vault(path: Path, passphrase: str) -> None:
    """A new vault takes no passphrase below twelve characters."""
    with pytest.raises(SetupError, match="shorter than 12"):
        vault_at(path, passphrase=passphrase).create(QUICK)
    assert not path.exists()


def test_key_is_derived_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often and from however many threads a vault is used, the costly derivation runs once."""
    vault_at(path, passphrase="correct horse battery").create(QUICK)
    derived: list[KeyKind] = []
    real = KeyParameters.derive

    def derive(self: KeyParameters, secret: bytes) -> bytes:
        derived.append(self.kind)
        return real(self, secret)

    monkeypatch.setattr(KeyParameters, "derive", derive)
    vault = vault_at(path, passphrase="correct horse battery")
    threads = [threading.Thread(target=lambda: vault.read(["a"])) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    vault.set("a", b"x", 0)
    assert derived == [KeyKind.PASSPHRASE]


def test_replaced_vault_gets_its_own_key(path: Path) -> None:
    """If the file is exchanged for another vault, with another salt, a running process goes on with that one."""
    vault = vault_at(path)
    vault.create(KeyParameters.of_key_file())
    vault.set("a", b"x", 0)
    path.unlink()
    vault_at(path).create(KeyParameters.of_key_file())
    assert vault.describe() == {}


def test_forgotten_keys_are_asked_for_again(path: Path) -> None:
    """After `forget` the key file is read again."""
    reads: list[int] = []

    def key() -> bytes:
        reads.append(1)
        return KEY

    keys = VaultKeys(key, lambda: None)
    vault = LocalVault(path, keys)
    vault.create(KeyParameters.of_key_file())
    vault.describe()
    keys.forget()
    vault.describe()
    assert len(reads) == 2


class VaultMachine(RuleBasedStateMachine):
    """The vault against a dictionary, whatever the order of changes."""

    names = st.sampled_from(["a", "b", "c.d"])

    def __init__(self) -> None:
        super().__init__()
        self.folder = _FOLDERS.pop()
        self.vault = vault_at(self.folder / "local.vault")
        self.vault.create(KeyParameters.of_key_file())
        self.values: dict[str, bytes] = {}
        self.versions: dict[str, int] = {}

    @rule(name=names, value=st.binary(min_size=1, max_size=8))
    def set(self, name: str, value: bytes) -> None:
        """Each set counts one up."""
        self.versions[name] = self.versions.get(name, 0) + 1
        self.values[name] = value
        assert self.vault.set(name, value, 0) == self.versions[name]

    @rule(name=names)
    def remove(self, name: str) -> None:
        """Removing works exactly for what is there."""
        if name in self.values:
            self.vault.remove(name)
            del self.values[name]
        else:
            with pytest.raises(ProviderError):
                self.vault.remove(name)

    @invariant()
    def same_as_the_dictionary(self) -> None:
        """Values and versions agree."""
        found = self.vault.read(["a", "b", "c.d"])
        assert {name: entry.value for name, entry in found.items()} == self.values
        assert all(entry.version == self.versions[name] for name, entry in found.items())


_FOLDERS: list[Path] = []


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[None]:
    """A folder for each run of the machine."""
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        _FOLDERS.append(folder)
    yield
    _FOLDERS.clear()


@pytest.mark.usefixtures("folders")
def test_vault_behaves_like_a_dictionary_with_versions() -> None:
    """Any order of changes leaves what a dictionary would hold, and versions that only grow."""
    from hypothesis.stateful import run_state_machine_as_test  # noqa: PLC0415  # used here only

    run_state_machine_as_test(VaultMachine, settings=settings(max_examples=15, stateful_step_count=12, deadline=None))
