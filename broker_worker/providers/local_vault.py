"""The local vault: named values in one encrypted file, with a version each.

Nothing of the content stays in memory between two calls; only the derived key does. So a change that another
process makes is seen by the next call, and a dump of a quiet process holds no entry.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from agent_sdk.wire.messages import MAX_VALUE
from agent_sdk.wire.names import is_secret_name
from broker_worker.core.errors import FailureKind, ProviderError, SetupError
from broker_worker.private_files import read_private, write_private
from broker_worker.providers.vault_format import (
    MAX_VAULT,
    KeyKind,
    KeyParameters,
    VaultContent,
    VaultEntry,
    open_content,
    read_parameters,
    seal_content,
)

PASSPHRASE_VARIABLE: Final = "SECRET_BROKER_VAULT_PASSPHRASE"  # noqa: S105  # a variable's name
MIN_PASSPHRASE: Final = 12
"""Shortest passphrase that a new vault takes, in bytes."""
_LOCK_SECONDS = 10.0
_NO_VAULT = "in a new home, run `secret-broker init`; else restore it, or make one with `secret-broker vault create`"


class VaultKeys:
    """Finds the key that a vault asks for, and derives it once.

    Args:
        key_file: reads the 32 random bytes of the vault's key file; called when a vault asks for them.
        passphrase: gives the passphrase when a vault asks for it, or None if there is none.
    """

    def __init__(self, key_file: Callable[[], bytes], passphrase: Callable[[], str | None]) -> None:
        self._key_file = key_file
        self._passphrase = passphrase
        self._derived: dict[KeyParameters, bytes] = {}
        self._lock = threading.Lock()

    def key_for(self, parameters: KeyParameters) -> bytes:
        """The key of a vault with these parameters.

        Raises:
            ProviderError: kind `UNAUTHENTICATED` if there is no passphrase.
            SetupError: if the key file is missing or unsafe.
        """
        with self._lock:
            key = self._derived.get(parameters)
            if key is None:
                key = parameters.derive(self.secret(parameters.kind))
                self._derived = {parameters: key}  # one vault, one key: those of replaced vaults do not pile up
            return key

    def secret(self, kind: KeyKind) -> bytes:
        """What a key is derived from: the key file's 32 bytes or the passphrase.

        Raises:
            ProviderError: kind `UNAUTHENTICATED` if there is no passphrase.
            SetupError: if the key file is missing or unsafe.
        """
        if kind is KeyKind.KEY_FILE:
            return self._key_file()
        passphrase = self._passphrase()
        if not passphrase:
            raise ProviderError(
                FailureKind.UNAUTHENTICATED, "the vault needs its passphrase", hint=f"set {PASSPHRASE_VARIABLE}"
            )
        return passphrase.encode("utf-8", "surrogateescape")

    def forget(self) -> None:
        """Drop the derived keys."""
        with self._lock:
            self._derived = {}


class LocalVault:
    """An encrypted file of named values. Safe to use from several threads and processes.

    Args:
        path: the vault file.
        keys: finds its key.
    """

    def __init__(self, path: Path, keys: VaultKeys) -> None:
        self._path = path
        self._keys = keys

    def create(self, parameters: KeyParameters) -> None:
        """Make an empty vault.

        Args:
            parameters: how its key is made; `KeyParameters.of_key_file()` or `.of_passphrase()`.

        Raises:
            SetupError: if there is a file already, or it cannot be written, or its passphrase is too short.
        """
        if parameters.kind is KeyKind.PASSPHRASE and len(self._keys.secret(parameters.kind)) < MIN_PASSPHRASE:
            raise SetupError(
                f"the passphrase is shorter than {MIN_PASSPHRASE} characters", hint="use several random words"
            )
        with self._exclusive():
            if self._path.exists():
                raise SetupError(f"vault {self._path} exists already", hint="move it away first if you want a new one")
            write_private(self._path, seal_content(VaultContent(), parameters, self._keys.key_for(parameters)))

    def read(self, names: Iterable[str]) -> Mapping[str, VaultEntry]:
        """The entries of those names that the vault has.

        Raises:
            ProviderError: if the vault does not open.
            SetupError: if its file or key file is missing or unsafe.
        """
        entries = self._load()[0].entries
        return {name: entries[name] for name in names if name in entries}

    def describe(self) -> Mapping[str, tuple[int, int]]:
        """Version and time of the last change (ms since the epoch) of every name, in order of names.

        Raises:
            ProviderError: if the vault does not open.
            SetupError: if its file or key file is missing or unsafe.
        """
        entries = self._load()[0].entries
        return {name: (entries[name].version, entries[name].updated_at) for name in sorted(entries)}

    def set(self, name: str, value: bytes, now: int, expected: str | None = None) -> int:
        """Store a value.

        Args:
            name: a canonical secret name.
            value: 1 byte to 128 KiB.
            now: the time, ms since the epoch.
            expected: what the name must hold; see `ports.Provider.put`.

        Returns:
            The new version: one more than the last that this name ever had.

        Raises:
            ProviderError: if the name or the value's size is not allowed, or the vault does not open; kind `CONFLICT`
                if the name holds something else.
            SetupError: if its file or key file is missing, unsafe or cannot be written.
        """
        check_entry_name(name)
        check_value(value)
        with self._exclusive():
            content, parameters = self._load()
            check_expected(content.entries.get(name), expected)
            last = content.entries[name].version if name in content.entries else content.retired.get(name, 0)
            entries = {**content.entries, name: VaultEntry(value, last + 1, now)}
            retired = {known: version for known, version in content.retired.items() if known != name}
            self._store(VaultContent(entries, retired), parameters)
        return last + 1

    def remove(self, name: str) -> None:
        """Remove a name; its next version goes on counting.

        Raises:
            ProviderError: `NOT_FOUND` if it is not there, or the vault does not open.
            SetupError: if its file or key file is missing, unsafe or cannot be written.
        """
        check_entry_name(name)
        with self._exclusive():
            content, parameters = self._load()
            if name not in content.entries:
                raise not_found(name, "`secret-broker vault list` shows what there is")
            entries = {known: entry for known, entry in content.entries.items() if known != name}
            self._store(VaultContent(entries, {**content.retired, name: content.entries[name].version}), parameters)

    def _load(self) -> tuple[VaultContent, KeyParameters]:
        raw = read_private(self._path, "vault", MAX_VAULT, hint=_NO_VAULT)
        parameters = read_parameters(raw)
        return open_content(raw, parameters, self._keys.key_for(parameters)), parameters

    def _store(self, content: VaultContent, parameters: KeyParameters) -> None:
        write_private(self._path, seal_content(content, parameters, self._keys.key_for(parameters)))

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One writer at a time, over all processes, so that no update is lost."""
        if not self._path.parent.is_dir():  # FileLock would make it, open to everybody
            raise SetupError(f"the vault's folder {self._path.parent} does not exist", hint=_NO_VAULT)
        lock = FileLock(f"{self._path}.lock", timeout=_LOCK_SECONDS, mode=0o600)
        try:
            lock.acquire()
        except Timeout:
            raise SetupError(
                f"another process has been writing the vault {self._path} for {_LOCK_SECONDS:.0f} s",
                hint="wait for it or end it; the lock goes with the process",
            ) from None
        except OSError as error:
            raise SetupError(
                f"the vault's folder {self._path.parent} cannot be written: {error.strerror}",
                hint="check its owner and mode",
            ) from error
        try:
            yield
        finally:
            lock.release()


def check_entry_name(name: str) -> None:
    """Check a vault entry's name, which has the form of a secret name.

    Raises:
        ProviderError: kind `BAD_REFERENCE` if it has another form.
    """
    if not is_secret_name(name):
        raise ProviderError(  # the name is not repeated: somebody may have put the value there
            FailureKind.BAD_REFERENCE,
            "the entry's name is not in canonical form",
            hint="use lower-case letters, digits, '.', '_' and '-', such as openai.api_key",
        )


def check_value(value: bytes) -> None:
    """Check a value's size, 1 byte to 128 KiB.

    Raises:
        ProviderError: kind `TOO_LARGE`, or `UNKNOWN` for an empty one.
    """
    if not value:
        raise ProviderError(FailureKind.UNKNOWN, "the value is empty", hint="give at least one byte")
    if len(value) > MAX_VALUE:
        raise ProviderError(FailureKind.TOO_LARGE, f"the value has more than {MAX_VALUE} bytes")


def check_expected(entry: VaultEntry | None, expected: str | None) -> None:
    """Check that a name holds what a writer expects; see `ports.Provider.put`.

    Raises:
        ProviderError: kind `CONFLICT` if it does not.
    """
    current = "" if entry is None else str(entry.version)
    if expected in (None, current):
        return
    if not current:
        found = "the vault has no such entry, and one was expected"
    elif not expected:
        found = "the vault has an entry of this name already"
    else:
        found = "the entry has another version by now"
    raise ProviderError(FailureKind.CONFLICT, found, hint="read its version, and write only if that is still meant")


def not_found(name: str, hint: str = "") -> ProviderError:
    """The error for a name that the vault does not have."""
    hint = hint or f"`secret-broker vault set {name}` makes it"
    return ProviderError(FailureKind.NOT_FOUND, f"the vault has no entry {name!r}", hint=hint)
