"""What wraps the master key: each gives it back, to nobody else, and says clearly what is missing."""

import ctypes
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keyring
import keyring.backends.fail
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError
from sealed_workbench import BINDING, CANARY, FIRST, REFS, Host, quick, record

from broker_worker.app.clock import SystemClock
from broker_worker.app.sealing import sealed_store
from broker_worker.cache.sealed.dpapi import UI_FORBIDDEN, Blob, DpapiWrapping
from broker_worker.cache.sealed.errors import RefusedError, UnavailableError
from broker_worker.cache.sealed.os_keyring import SERVICE, KeyringWrapping
from broker_worker.cache.sealed.passphrase import PassphraseWrapping
from broker_worker.cache.sealed.systemd import SystemdWrapping
from broker_worker.cache.sealed.wrapping import Wrapping
from broker_worker.core.configuration import SealedSettings
from broker_worker.settings import Settings

CREDENTIAL = bytes(range(64))


class MemoryKeyring(KeyringBackend):
    """A keyring as the library asks for one."""

    priority = 5.0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library's own
        self.entries: dict[tuple[str, str], str] = {}
        self.is_locked = False

    def get_password(self, service: str, username: str) -> str | None:
        self._check()
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._check()
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._check()
        if self.entries.pop((service, username), None) is None:
            raise PasswordDeleteError(username)

    def _check(self) -> None:
        if self.is_locked:
            raise RuntimeError(f"locked; it was about {self.entries}")


class MemoryDpapi:
    """Windows' functions as far as their layout goes; what they "encrypt" is turned around."""

    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.freed: list[int] = []
        self.entropies: set[bytes] = set()
        self.is_willing = True

    def CryptProtectData(self, *arguments: Any) -> int:  # noqa: N802  # Windows' name
        return self._turn(*arguments)

    def CryptUnprotectData(self, *arguments: Any) -> int:  # noqa: N802  # Windows' name
        return self._turn(*arguments)

    def LocalFree(self, memory: Any) -> None:  # noqa: N802  # Windows' name
        self.freed.append(ctypes.cast(memory, ctypes.c_void_p).value or 0)

    def _turn(self, *arguments: Any) -> int:
        given, description, entropy, reserved, prompt, flags, out = arguments
        assert (description, reserved, prompt, flags) == (None, None, None, UI_FORBIDDEN)
        if not self.is_willing:
            return 0
        self.entropies.add(_content(entropy._obj))
        turned = _content(given._obj)[::-1]
        buffer = ctypes.create_string_buffer(turned, len(turned))
        out._obj.size = len(turned)
        out._obj.data = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_char))
        self.memory[ctypes.addressof(buffer)] = buffer
        return 1


def _content(blob: Blob) -> bytes:
    return ctypes.string_at(blob.data, blob.size)


@pytest.fixture
def backend() -> Iterator[MemoryKeyring]:
    """The keyring of this process for a test."""
    before = keyring.get_keyring()
    backend = MemoryKeyring()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """A folder as systemd gives it to a service."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "cache-key").write_bytes(CREDENTIAL)
    return folder


def systemd(credentials: Path | str, name: str = "cache-key") -> SystemdWrapping:
    return SystemdWrapping(name, {"CREDENTIALS_DIRECTORY": str(credentials)})


def test_every_kind_gives_its_key_back(credentials: Path, backend: MemoryKeyring) -> None:
    """The same 32 bytes for the same parameters, others for each new key, and nothing of them in the parameters."""
    dpapi = MemoryDpapi()
    kinds: list[Callable[[], Wrapping]] = [
        quick,
        lambda: systemd(credentials),
        KeyringWrapping,
        lambda: DpapiWrapping(lambda: dpapi),
    ]
    for make in kinds:
        one, two = make().make(), make().make()
        assert len({one.key, two.key, one.parameters, two.parameters}) == 4
        assert (make().open(one.parameters), make().open(two.parameters)) == (one.key, two.key)
        assert len(one.key) == 32
        assert one.key not in one.parameters
        assert one.key.hex() not in repr(one)
        make().forget(one.parameters)
        make().forget(b"never made")
    assert sorted(dpapi.freed) == sorted(dpapi.memory), "what Windows allocated was not given back"
    assert dpapi.entropies == {b"secret-broker sealed cache v1"}


@pytest.mark.parametrize(
    "parameters",
    [
        b"",
        b"x",
        bytes(24),
        bytes(4096),
        struct.pack(">II16s", 17, 8192, bytes(16)),
        struct.pack(">II16s", 1, 1024 * 1024 + 1, bytes(16)),
    ],
)
def test_parameters_that_are_never_written_are_refused(
    credentials: Path, backend: MemoryKeyring, parameters: bytes
) -> None:
    """They come from a file; they cannot ask for any amount of work or memory either."""
    for wrapping in (quick(), systemd(credentials), KeyringWrapping(), DpapiWrapping(MemoryDpapi)):
        with pytest.raises(RefusedError):
            wrapping.open(parameters)


# Passphrase
def test_short_passphrase_makes_no_key() -> None:
    """It may still open one that was made before."""
    with pytest.raises(UnavailableError, match="shorter than 12"):
        quick(b"elevenchars").make()


def test_another_passphrase_opens_nothing(tmp_path: Path) -> None:
    """Which shows when the master key is opened with it."""
    Host(tmp_path / "home").keep(record())
    other = Host(tmp_path / "home", makers={"passphrase": lambda: quick(b"quite another one")})
    assert "does not open with this passphrase key" in other.refusal()


def test_memory_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is on disk stays."""

    def fail(*_: object, **__: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr("broker_worker.cache.sealed.passphrase.argon2id.kdf", fail)
    with pytest.raises(UnavailableError, match="64 MiB of memory"):
        PassphraseWrapping(lambda: b"long enough, surely").make()


@pytest.mark.parametrize(
    ("section", "environ", "message", "hint"),
    [
        ({}, {}, "needs its passphrase", "set SECRET_BROKER_CACHE_PASSPHRASE"),
        ({"passphrase_env": "MINE"}, {"SECRET_BROKER_CACHE_PASSPHRASE": "x" * 20}, "needs its passphrase", "set MINE"),
        ({"passphrase_file": "/nowhere/at/all"}, {}, "/nowhere/at/all does not exist", "put the passphrase there"),
    ],
)
def test_passphrase_that_is_missing_is_said(
    tmp_path: Path, section: dict[str, str], environ: Mapping[str, str], message: str, hint: str
) -> None:
    """Where it was looked for."""
    sealed = SealedSettings(master_key="passphrase", **section)  # type: ignore[arg-type]  # texts, as all of these are
    store = sealed_store(sealed, Settings(home=tmp_path), SystemClock(), environ)
    with pytest.raises(UnavailableError, match=message) as caught:
        store.open(REFS, BINDING)
    assert hint in caught.value.hint


def test_passphrase_comes_from_variable_or_file(tmp_path: Path) -> None:
    """The same words mean the same key; a line's end in the file does not count."""
    words = "correct horse battery staple"
    file = tmp_path / "passphrase"
    file.write_text(words + "\n")
    file.chmod(0o600)
    by_variable, by_file = (
        sealed_store(SealedSettings("passphrase", **section), Settings(home=tmp_path), SystemClock(), environ)  # type: ignore[arg-type]  # a text
        for section, environ in (({}, {"SECRET_BROKER_CACHE_PASSPHRASE": words}), ({"passphrase_file": str(file)}, {}))
    )
    assert by_variable.open(REFS, BINDING).refused is None
    assert by_file.open(REFS, BINDING).refused is None
    file.chmod(0o644)
    with pytest.raises(UnavailableError, match="mode 0644"):
        sealed_store(
            SealedSettings("passphrase", passphrase_file=str(file)), Settings(home=tmp_path), SystemClock(), {}
        ).open(REFS, BINDING)


# systemd
def test_credential_that_is_missing_or_short_is_said(credentials: Path) -> None:
    """With the line that the unit needs."""
    for wrapping, message in (
        (SystemdWrapping("cache-key", {}), "gave this process no credentials"),
        (systemd(credentials, "other"), "`other` cannot be read: No such file"),
        (systemd(credentials / "cache-key"), "cannot be read: Not a directory"),
    ):
        with pytest.raises(UnavailableError, match=message) as caught:
            wrapping.make()
        assert "LoadCredentialEncrypted=" in caught.value.hint
    for content in (b"", bytes(31), bytes(4097)):
        (credentials / "cache-key").write_bytes(content)
        with pytest.raises(UnavailableError, match="random ones are expected"):
            systemd(credentials).make()


def test_changed_credential_opens_nothing(tmp_path: Path, credentials: Path) -> None:
    """The cache begins anew."""
    host = Host(tmp_path / "home", master_key="systemd", makers={"systemd": lambda: systemd(credentials)})
    host.keep(record())
    assert host.values() == {FIRST: CANARY}
    (credentials / "cache-key").write_bytes(CREDENTIAL[::-1])
    assert "does not open with this systemd key" in host.refusal()


# Keyring
def keyring_host(folder: Path) -> Host:
    return Host(folder / "home", master_key="keyring", makers={"keyring": KeyringWrapping})


def test_keyring_keeps_key_and_count(tmp_path: Path, backend: MemoryKeyring) -> None:
    """In two entries; an older copy is refused by the count, and clearing removes both."""
    host = keyring_host(tmp_path)
    store = host.keep(record())
    assert [service for service, _ in backend.entries] == [SERVICE, SERVICE]
    assert not host.count.exists()
    store.commit({}, 100, is_last=True)
    older = host.contents(), host.file.read_bytes()
    store.commit({FIRST: record(value=b"new", at=host.now + 1)}, 100, is_last=True)
    host.now += 2
    assert host.values() == {FIRST: b"new"}
    host.file.write_bytes(older[1])
    assert "older copy" in host.refusal()
    assert len(backend.entries) == 2
    assert not any(text.encode() in older[0] for text in backend.entries.values())
    host.store().clear()
    assert backend.entries == {}


def test_copy_without_the_keyring_is_refused(tmp_path: Path, backend: MemoryKeyring) -> None:
    """On another host, or for another user, whose keyring has other entries or none."""
    host = keyring_host(tmp_path)
    host.keep(record())
    entries = dict(backend.entries)
    backend.entries.clear()
    assert "has no key for this sealed cache" in host.refusal()
    key, count = sorted(backend.entries)
    backend.entries[count] = next(iter(sorted(entries.items())))[1]
    assert "does not hold the count" in host.refusal()
    backend.entries[min(backend.entries)] = "not base64!"
    assert "has no key" in host.refusal()
    del backend.entries[max(backend.entries)]
    assert "gone from the keyring" in host.refusal()
    assert key not in backend.entries


def test_keyring_that_does_not_answer_costs_nothing(tmp_path: Path, backend: MemoryKeyring) -> None:
    """It may be locked; its own words are not repeated, since they may say anything."""
    host = keyring_host(tmp_path)
    host.keep(record())
    backend.is_locked = True
    with pytest.raises(UnavailableError, match=r"MemoryKeyring does not answer .RuntimeError.") as caught:
        host.store().open(REFS, BINDING)
    assert caught.value.__cause__ is None
    with pytest.raises(UnavailableError):
        KeyringWrapping().make()
    KeyringWrapping().forget(bytes(8))
    backend.is_locked = False
    assert host.values() == {FIRST: CANARY}


def test_keyring_that_protects_nothing_is_none(backend: MemoryKeyring) -> None:
    """Neither the library's "no keyring" nor one that it does not recommend, such as a plain file."""
    keyring.set_keyring(keyring.backends.fail.Keyring())  # type: ignore[no-untyped-call]  # the library's own
    with pytest.raises(UnavailableError, match=r"no keyring that protects .* only keyring.backends.fail.Keyring"):
        KeyringWrapping().make()
    backend.priority = 0.5
    keyring.set_keyring(backend)
    with pytest.raises(UnavailableError, match="no keyring that protects"):
        KeyringWrapping().make()


# DPAPI
def test_windows_that_refuses_is_said(tmp_path: Path) -> None:
    """As is any other system."""
    dpapi = MemoryDpapi()
    host = Host(tmp_path / "home", master_key="dpapi", makers={"dpapi": lambda: DpapiWrapping(lambda: dpapi)})
    host.keep(record())
    assert host.values() == {FIRST: CANARY}
    dpapi.is_willing = False
    with pytest.raises(UnavailableError, match="did not protect"):
        DpapiWrapping(lambda: dpapi).make()
    with pytest.raises(RefusedError, match="does not give"):
        DpapiWrapping(lambda: dpapi).open(b"x")
    if sys.platform != "win32":
        with pytest.raises(UnavailableError, match="a part of Windows"):
            DpapiWrapping().make()
