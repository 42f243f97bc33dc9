"""A wrapping key in the keyring of the operating system, through the `keyring` library.

On macOS that is the Keychain, on Windows the Credential Locker, on Linux the Secret Service or KWallet of a session.
"""

import base64
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from agent_sdk.wire.aead import KEY_BYTES
from broker_worker.cache.sealed.counter import Counter, count_line, read_count
from broker_worker.cache.sealed.errors import RefusedError, UnavailableError
from broker_worker.cache.sealed.wrapping import Wrapped

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE: Final = "secret-broker cache"
_INTERVAL_SECONDS = 60.0
_NAME_BYTES = 8
_LEAST_PRIORITY = 1  # keyring's documentation: backends of 1 and more are those it recommends


class KeyringWrapping:
    """Implements `Wrapping`."""

    def make(self) -> Wrapped:
        """Make a new wrapping key, and a counter beside it."""
        keyring = _keyring()
        name, key = os.urandom(_NAME_BYTES), os.urandom(KEY_BYTES)
        keyring.set(name.hex(), base64.b64encode(key).decode())
        keyring.set(_counter_name(name), count_line(0, key).decode())
        return Wrapped(name, key)

    def open(self, parameters: bytes) -> bytes:
        """Find a wrapping key again."""
        text = _keyring().get(_named(parameters).hex())
        try:
            key = base64.b64decode(text or "", validate=True)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise RefusedError("the keyring has no key for this sealed cache")
        return key

    def counter(self, parameters: bytes, key: bytes) -> Counter | None:
        """The count beside the key."""
        return _KeyringCounter(_counter_name(_named(parameters)), key)

    def forget(self, parameters: bytes) -> None:
        """Remove both entries."""
        try:
            keyring = _keyring()
        except UnavailableError:
            return
        if len(parameters) == _NAME_BYTES:
            for entry in (parameters.hex(), _counter_name(parameters)):
                keyring.delete(entry)


class _KeyringCounter:
    """Implements `Counter` in an entry of the keyring."""

    interval_seconds = _INTERVAL_SECONDS

    def __init__(self, entry: str, key: bytes) -> None:
        self._entry = entry
        self._key = key

    def value(self) -> int:
        """The number now."""
        line = _keyring().get(self._entry)
        if line is None:
            raise RefusedError("the sealed cache's counter is gone from the keyring")
        return read_count(line.encode(), self._key, "the keyring's entry")

    def advance(self) -> None:
        """Add one."""
        _keyring().set(self._entry, count_line(self.value() + 1, self._key).decode())


class _Keyring:
    """The keyring, with every failure of its libraries as one of ours."""

    def __init__(self, backend: "KeyringBackend") -> None:
        self._backend = backend

    def get(self, entry: str) -> str | None:
        try:
            return self._backend.get_password(SERVICE, entry)
        except Exception as error:  # noqa: BLE001  # backends raise what their systems raise
            failed = type(error).__name__
        raise self._unavailable(failed)

    def set(self, entry: str, text: str) -> None:
        try:
            self._backend.set_password(SERVICE, entry, text)
        except Exception as error:  # noqa: BLE001  # backends raise what their systems raise
            failed = type(error).__name__
        else:
            return
        raise self._unavailable(failed)  # out here: the exception's frames hold the key

    def delete(self, entry: str) -> None:
        with suppress(Exception):  # it is gone, or stays: nothing more can be done
            self._backend.delete_password(SERVICE, entry)

    def _unavailable(self, failed: str) -> UnavailableError:
        return UnavailableError(
            f"the keyring {_name_of(self._backend)} does not answer ({failed})",
            hint="unlock it, or give the broker's user a session with a keyring",
        )


def _keyring() -> _Keyring:
    try:
        import keyring  # noqa: PLC0415  # needed only where the master key is kept like that
    except ImportError:
        raise UnavailableError(
            "the keyring library is not installed", hint="install secret-broker with its extra `keyring`"
        ) from None
    try:
        backend = keyring.get_keyring()
        priority = float(backend.priority)
    except Exception as error:  # noqa: BLE001  # finding a backend asks the system in many ways
        raise UnavailableError(
            f"no keyring can be found ({type(error).__name__})", hint="see `keyring diagnose`"
        ) from None
    if priority < _LEAST_PRIORITY:
        raise UnavailableError(
            f"this user has no keyring that protects what is in it, only {_name_of(backend)}",
            hint="unlock the session's keyring, or choose another master_key",
        )
    return _Keyring(backend)


def _name_of(backend: "KeyringBackend") -> str:
    return f"{type(backend).__module__}.{type(backend).__name__}"


def _named(parameters: bytes) -> bytes:
    if len(parameters) != _NAME_BYTES:
        raise RefusedError("the sealed cache's key file names a keyring entry in a way that is never written")
    return parameters


def _counter_name(name: bytes) -> str:
    return f"{name.hex()}:count"
