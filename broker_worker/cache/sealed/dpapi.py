"""A wrapping key that Windows protects for this user (DPAPI: CryptProtectData, CryptUnprotectData).

Thin, because it cannot run in the project's tests: those hold only the layout and the handling of failures against a
double.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol

from agent_sdk.wire.aead import KEY_BYTES
from broker_worker.cache.sealed.counter import Counter
from broker_worker.cache.sealed.errors import RefusedError, UnavailableError
from broker_worker.cache.sealed.wrapping import MAX_PARAMETERS, Wrapped

UI_FORBIDDEN: Final = 0x1  # dpapi.h, CRYPTPROTECT_UI_FORBIDDEN
_ENTROPY = b"secret-broker sealed cache v1"


class Blob(ctypes.Structure):
    """DATA_BLOB (dpapi.h)."""

    _fields_ = (("size", ctypes.c_uint32), ("data", ctypes.POINTER(ctypes.c_char)))


class Functions(Protocol):
    """The three functions of Windows that are needed."""

    def CryptProtectData(self, *arguments: Any) -> int:  # noqa: N802  # Windows' own name
        """Encrypt a blob."""
        ...

    def CryptUnprotectData(self, *arguments: Any) -> int:  # noqa: N802  # Windows' own name
        """Decrypt a blob."""
        ...

    def LocalFree(self, memory: Any) -> Any:  # noqa: N802  # Windows' own name
        """Give back what the others allocated."""
        ...


class DpapiWrapping:
    """Implements `Wrapping`.

    Args:
        functions: gives Windows' functions; None where there are none.
    """

    def __init__(self, functions: Callable[[], Functions | None] | None = None) -> None:
        self._functions = functions or _of_windows

    def make(self) -> Wrapped:
        """Make a new wrapping key."""
        key = os.urandom(KEY_BYTES)
        functions = self._there()
        protected = _call(functions, functions.CryptProtectData, key)
        if not protected or len(protected) > MAX_PARAMETERS:
            raise UnavailableError("Windows did not protect the sealed cache's key", hint="see the event log")
        return Wrapped(protected, key)

    def open(self, parameters: bytes) -> bytes:
        """Find a wrapping key again."""
        functions = self._there()
        key = _call(functions, functions.CryptUnprotectData, parameters)
        if key is None or len(key) != KEY_BYTES:
            raise RefusedError("Windows does not give the sealed cache's key to this user on this host")
        return key

    def counter(self, parameters: bytes, key: bytes) -> Counter | None:
        """None: there is no other place than a file."""

    def forget(self, parameters: bytes) -> None:
        """Nothing is kept."""

    def _there(self) -> Functions:
        functions = self._functions()
        if functions is None:
            raise UnavailableError("DPAPI is a part of Windows", hint="choose another master_key")
        return functions


def _call(functions: Functions, function: Callable[..., int], data: bytes) -> bytes | None:
    """Run one of the two functions, which take the same arguments; None if it failed."""
    given, entropy, out = _blob(data), _blob(_ENTROPY), Blob()
    done = function(ctypes.byref(given), None, ctypes.byref(entropy), None, None, UI_FORBIDDEN, ctypes.byref(out))
    if not done:
        return None
    try:
        return ctypes.string_at(out.data, out.size)
    finally:
        functions.LocalFree(out.data)


def _blob(data: bytes) -> Blob:
    return Blob(len(data), ctypes.cast(ctypes.create_string_buffer(data, len(data)), ctypes.POINTER(ctypes.c_char)))


class _Windows:
    """The functions where Windows has them."""

    def __init__(self, crypt32: Any, kernel32: Any) -> None:
        self.CryptProtectData = crypt32.CryptProtectData
        self.CryptUnprotectData = crypt32.CryptUnprotectData
        self.LocalFree = kernel32.LocalFree
        self.LocalFree.argtypes = [ctypes.c_void_p]  # a pointer has more bits than ctypes' default


def _of_windows() -> Functions | None:
    if sys.platform != "win32":
        return None
    return _Windows(ctypes.WinDLL("crypt32"), ctypes.WinDLL("kernel32"))
