"""Which provider serves which scheme: one explicit table, and the only place where providers are made.

| type | scheme | options |
| --- | --- | --- |
| `onepassword` | `op` | `token_env` or `token_file`, `timeout_seconds` |
| `local` | `local` | `path`, `key_file`, `passphrase_env` |
| `env` | `env` | none |

A scheme that the registry uses needs its provider's section in `broker.yaml` (checked when the files are read):
nothing is served by default.
"""

import difflib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final

from broker_worker.core.configuration import ProviderSettings
from broker_worker.core.errors import ConfigError, FailureKind, ProviderError
from broker_worker.ports import Provider
from broker_worker.private_files import read_private
from broker_worker.providers import env, local, onepassword
from broker_worker.providers.local_vault import PASSPHRASE_VARIABLE, LocalVault, VaultKeys
from broker_worker.providers.onepassword_sdk import SdkClient
from broker_worker.providers.onepassword_session import OnePasswordSession
from broker_worker.providers.service_account_token import MAX_TOKEN

TOKEN_VARIABLE: Final = "OP_SERVICE_ACCOUNT_TOKEN"  # noqa: S105  # a variable's name
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}", re.ASCII)  # a token or a passphrase would hardly pass for one


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What providers may use of this host.

    Args:
        vault_file: the local vault, unless the section says `path`.
        vault_key_file: its key file, unless the section says `key_file`.
        load_vault_key: reads a key file's 32 bytes; raises `SetupError` if that cannot be done.
        environ: the environment; taken now, so a later change has no effect.
        now: the time, ms since the epoch.
        monotonic: a clock in seconds that never goes back.
    """

    vault_file: Path
    vault_key_file: Path
    load_vault_key: Callable[[Path], bytes] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    now: Callable[[], int]
    monotonic: Callable[[], float] = time.monotonic


class _Options:
    """Typed access to a section's options, with the section's place in every error."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings

    def refuse(self, message: str, hint: str) -> ConfigError:
        origin = self._settings.origin
        return ConfigError(f"provider {self._settings.type}: {message}", file=origin.file, line=origin.line, hint=hint)

    def check_keys(self, known: Sequence[str]) -> None:
        for key in self._settings.options:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                listed = f"it takes {', '.join(known)}" if known else "it takes no options"
                raise self.refuse(f"unknown option {key!r}", f"did you mean {near[0]!r}?" if near else listed)

    def has(self, key: str) -> bool:
        return key in self._settings.options

    def path(self, key: str, default: Path) -> Path:
        value = self._settings.options.get(key)
        if value is None:
            return default
        if not isinstance(value, str) or not value or "\x00" in value or not Path(value).expanduser().is_absolute():
            raise self.refuse(f"{key} is not an absolute path", "write it from / on, or from ~/ on")
        return Path(value).expanduser()

    def variable(self, key: str, default: str) -> str:
        value = self._settings.options.get(key, default)
        if not isinstance(value, str) or _VARIABLE.fullmatch(value) is None:
            raise self.refuse(  # the value is not repeated: somebody may have put the secret itself there
                f"{key} is not the name of an environment variable",
                f"write the name in upper case, such as {default}, not the value",
            )
        return value

    def seconds(self, key: str, default: int, most: int) -> int:
        value = self._settings.options.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise self.refuse(f"{key} is not a whole number from 1 to {most}", f"leave it out for {default}")
        return value


def _make_onepassword(options: _Options, around: Surroundings) -> Provider:
    if options.has("token_env") and options.has("token_file"):
        raise options.refuse("both token_env and token_file are given", "keep one of them")
    if find_spec("onepassword") is None:
        raise options.refuse("onepassword-sdk is not installed", "pip install 'secret-broker[onepassword]'")
    timeout = options.seconds("timeout_seconds", 10, 60)
    if options.has("token_file"):
        path = options.path("token_file", Path())
        hint = "put the service-account token there"

        def read_token() -> str:
            return read_private(path, "1Password token file", MAX_TOKEN, hint=hint).decode("ascii", "replace")
    else:
        variable = options.variable("token_env", TOKEN_VARIABLE)
        text = around.environ.get(variable)

        def read_token() -> str:
            if not text:
                message = f"the 1Password service-account token is missing: {variable} is not set"
                hint = f"set {variable} before the broker starts, or write token_file in broker.yaml"
                raise ProviderError(FailureKind.UNAUTHENTICATED, message, hint=hint)
            return text

    session = OnePasswordSession(read_token, SdkClient.sign_in, timeout_seconds=timeout, monotonic=around.monotonic)
    return onepassword.OnePasswordProvider(session, timeout)


def _make_local(options: _Options, around: Surroundings) -> Provider:
    key_file = options.path("key_file", around.vault_key_file)
    passphrase = around.environ.get(options.variable("passphrase_env", PASSPHRASE_VARIABLE))
    keys = VaultKeys(lambda: around.load_vault_key(key_file), lambda: passphrase)
    vault = LocalVault(options.path("path", around.vault_file), keys)
    return local.LocalProvider(vault, keys.forget, around.now)


def _make_env(options: _Options, around: Surroundings) -> Provider:
    return env.EnvProvider(around.environ)


@dataclass(frozen=True, slots=True)
class _Scheme:
    scheme: str
    options: tuple[str, ...]
    make: Callable[[_Options, Surroundings], Provider]


_TYPES: Final = MappingProxyType(
    {
        "onepassword": _Scheme(onepassword.SCHEME, ("token_env", "token_file", "timeout_seconds"), _make_onepassword),
        "local": _Scheme(local.SCHEME, ("path", "key_file", "passphrase_env"), _make_local),
        "env": _Scheme(env.SCHEME, (), _make_env),
    }
)


def check_sections(settings: Iterable[ProviderSettings]) -> None:
    """Check what the operator's sections name, as far as that does not depend on this host.

    Args:
        settings: the sections, in order.

    Raises:
        ConfigError: for an unknown type or option, or two sections of one type.
    """
    seen: set[str] = set()
    for section in settings:
        options = _Options(section)
        found = _TYPES.get(section.type)
        if found is None:
            near = difflib.get_close_matches(section.type, _TYPES, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known types are {', '.join(_TYPES)}"
            raise options.refuse("there is no such type", hint)
        if section.type in seen:
            raise options.refuse("there is a section of this type already", "keep one section a type")
        seen.add(section.type)
        options.check_keys(found.options)


def make_providers(settings: Iterable[ProviderSettings], around: Surroundings) -> Mapping[str, Provider]:
    """Make the providers of the operator's sections. None of them is contacted yet.

    Args:
        settings: the sections, in order.
        around: what they may use of this host.

    Returns:
        Per scheme (`op`, `local`, `env`) its provider.

    Raises:
        ConfigError: for an unknown type or option, a wrong value, or two sections of one type.
    """
    sections = tuple(settings)
    check_sections(sections)
    types = [_TYPES[section.type] for section in sections]
    made = {known.scheme: known.make(_Options(section), around) for known, section in zip(types, sections, strict=True)}
    return MappingProxyType(made)
