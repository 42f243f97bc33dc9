"""Which provider serves which scheme: one explicit table, and the only place where providers are made.

| type | scheme | options |
| --- | --- | --- |
| `onepassword` | `op` | `token_env` or `token_file`, `timeout_seconds`, `versions` |
| `connect` | `connect` | `url`, `token_env` or `token_file`, `timeout_seconds`, `ca_file`, `allow_plain_http` |
| `local` | `local` | `path`, `key_file`, `passphrase_env` |
| `env` | `env` | none |
| `aws-sm`, `aws-ssm` | the same | `region`, `profile`, `endpoint_url`, `timeout_seconds` |
| `exec` | `exec` | `commands` |
| `vault` | `vault` | `vault.section.OPTIONS` |

A scheme that the registry uses needs its provider's section in `broker.yaml` (checked when the files are read):
nothing is served by default. Types of other packages join through their entry points (`installed`).
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final

from broker_worker.core.configuration import Configuration, ProviderSettings
from broker_worker.core.references import nearest_type
from broker_worker.ports import Provider
from broker_worker.providers import (
    aws_parameter_store,
    aws_secrets_manager,
    aws_section,
    command,
    connect_section,
    env,
    local,
    onepassword,
)
from broker_worker.providers.installed import InstalledKind, InstalledTypes
from broker_worker.providers.local_vault import PASSPHRASE_VARIABLE, LocalVault, VaultKeys
from broker_worker.providers.onepassword_sdk import SdkClient
from broker_worker.providers.onepassword_session import OnePasswordSession
from broker_worker.providers.options import Options, Surroundings
from broker_worker.providers.service_account_token import MAX_TOKEN
from broker_worker.providers.token_reader import token_reader
from broker_worker.providers.vault import section as vault_section
from broker_worker.providers.vault.place import SCHEME as VAULT

TOKEN_VARIABLE: Final = "OP_SERVICE_ACCOUNT_TOKEN"  # noqa: S105  # a variable's name


def _make_onepassword(options: Options, around: Surroundings) -> Provider:
    timeout = options.seconds("timeout_seconds", 10, 60)
    read_token = token_reader(
        options, around, what="1Password service-account token", variable=TOKEN_VARIABLE, most=MAX_TOKEN
    )
    session = OnePasswordSession(read_token, SdkClient.sign_in, timeout_seconds=timeout, monotonic=around.monotonic)
    return onepassword.OnePasswordProvider(session, timeout, versions=options.flag("versions"))


def _make_local(options: Options, around: Surroundings) -> Provider:
    key_file = options.path("key_file", around.vault_key_file)
    passphrase = around.environ.get(options.variable("passphrase_env", PASSPHRASE_VARIABLE))
    keys = VaultKeys(lambda: around.load_vault_key(key_file), lambda: passphrase)
    vault = LocalVault(options.path("path", around.vault_file), keys)
    return local.LocalProvider(vault, keys.forget, around.now)


def _make_env(options: Options, around: Surroundings) -> Provider:
    return env.EnvProvider(around.environ)


def _make_exec(options: Options, around: Surroundings) -> Provider:
    return command.CommandProvider(options.commands, around.environ, around.monotonic)


@dataclass(frozen=True, slots=True)
class _Scheme:
    """A built-in type.

    Args:
        scheme: what its references begin with.
        options: what its section takes.
        make: makes its provider; contacts, reads and needs nothing of this host yet.
        needs: the module of an optional part without which it cannot be used.
        part: that optional part: how it is called, and the extra that installs it.
    """

    scheme: str
    options: tuple[str, ...]
    make: Callable[[Options, Surroundings], Provider]
    needs: str | None = None
    part: tuple[str, str] = ("", "")

    def require(self, options: Options) -> None:
        """Check that this host has what the type needs.

        Raises:
            ConfigError: if not.
        """
        if self.needs is not None and find_spec(self.needs) is None:
            what, extra = self.part
            raise options.refuse(
                f"{what} is not installed", f"install secret-broker with its extra `{extra}`, or `all`"
            )
        if self.scheme == command.SCHEME and os.name != "posix":
            raise options.refuse(
                "commands need process groups, which this system lacks", "run the broker on Linux or macOS"
            )


_BOTO3: Final = ("boto3", ("boto3", "aws"))
_TYPES: Final = MappingProxyType(
    {
        "onepassword": _Scheme(
            onepassword.SCHEME,
            ("token_env", "token_file", "timeout_seconds", "versions"),
            _make_onepassword,
            "onepassword",
            ("onepassword-sdk", "onepassword"),
        ),
        "connect": _Scheme(connect_section.SCHEME, connect_section.OPTIONS, connect_section.make_connect),
        "local": _Scheme(local.SCHEME, ("path", "key_file", "passphrase_env"), _make_local),
        "env": _Scheme(env.SCHEME, (), _make_env),
        "aws-sm": _Scheme(aws_secrets_manager.SCHEME, aws_section.OPTIONS, aws_section.make_secrets_manager, *_BOTO3),
        "aws-ssm": _Scheme(aws_parameter_store.SCHEME, aws_section.OPTIONS, aws_section.make_parameter_store, *_BOTO3),
        "exec": _Scheme(command.SCHEME, (), _make_exec),
        "vault": _Scheme(VAULT, vault_section.OPTIONS, vault_section.make_vault, "hvac", ("hvac", "vault")),
    }
)


_NO_HOST: Final = Surroundings(Path("/"), Path("/"), lambda _: b"", {}, lambda: 0)
"""What a provider is made from that is never used."""


def check_configuration(configuration: Configuration) -> None:
    """Check what the operator's files say of providers, as far as that does not depend on this host.

    The types of other packages are imported for that, those that a section names; their references are checked here.
    The options of built-in types are read as they are when the provider is made.

    Raises:
        ConfigError: for an unknown type or option, an option that cannot be meant, two sections of one type, a
            reference that cannot be meant, or a package that cannot be used.
    """
    for options, found in _checked(configuration.providers):
        if isinstance(found, InstalledKind):
            found.check(configuration.registry.values())
        else:
            found.make(options, _NO_HOST)


def make_providers(settings: Iterable[ProviderSettings], around: Surroundings) -> Mapping[str, Provider]:
    """Make the providers of the operator's sections. None of them is contacted yet.

    Args:
        settings: the sections, in order.
        around: what they may use of this host.

    Returns:
        Per scheme (`op`, `local`, `env`) its provider.

    Raises:
        ConfigError: for an unknown type or option, a wrong value, two sections of one type, or a package that cannot
            be used.
    """
    made: dict[str, Provider] = {}
    for options, found in _checked(settings):
        if isinstance(found, _Scheme):
            found.require(options)
        made[found.scheme] = found.make(options, around)
    return MappingProxyType(made)


def _checked(settings: Iterable[ProviderSettings]) -> list[tuple[Options, _Scheme | InstalledKind]]:
    """What serves each section, after a look at its type and the names of its options."""
    sections = {}
    others = InstalledTypes()
    for section in settings:
        options = Options(section)
        if section.type in sections:
            raise options.refuse("there is a section of this type already", "keep one section a type")
        found = _find(section.type, options, others)
        options.check_keys(found.options)
        sections[section.type] = options, found
    return list(sections.values())


def _find(kind: str, options: Options, others: InstalledTypes) -> _Scheme | InstalledKind:
    built_in = _TYPES.get(kind)
    if built_in is not None:
        others.refuse_collision(kind, options)
        return built_in
    if kind in others.names:
        return others.load(kind, options)
    known = (*_TYPES, *others.names)
    near = nearest_type(kind, others.names)
    hint = f"did you mean {near!r}?" if near else f"known types are {', '.join(known)}"
    raise options.refuse("there is no such type", hint)
