"""References: where a vault keeps a value, written `scheme://…` in the registry.

A reference that cannot be meant is refused when the file is read, not when an agent asks. What was written there is
never repeated in an error, because it may be a value that somebody pasted in the reference's place.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches

from agent_sdk.wire.names import is_secret_name
from broker_worker.core import aws_references
from broker_worker.core.commands import NAME_FORM, Command, command_and_name, is_command_path
from broker_worker.core.configuration import ProviderSettings
from broker_worker.core.own_variables import OWN, credential_variables

MAX_REFERENCE = 512
"""Longest reference, in characters."""

SCHEMES: Mapping[str, str] = {
    "op": "onepassword",
    "connect": "connect",
    "local": "local",
    "env": "env",
    "aws-sm": "aws-sm",
    "aws-ssm": "aws-ssm",
    "exec": "exec",
    "vault": "vault",
}
"""The scheme of a reference, and the provider type of `broker.yaml` that serves it."""

READ_ONLY_SCHEMES = frozenset({"env"})
"""Schemes whose places nobody can write to."""

UNVERSIONED_SCHEMES = READ_ONLY_SCHEMES | {"exec"}
"""Schemes whose places take no names that agents create and no rotation, because they tell no versions. What the
registry names there can be written where there is a command for it."""

FORMS: Mapping[str, str] = {
    "op": "op://vault/item/field or op://vault/item/section/field",
    "connect": 'connect://vault/item/field or connect://vault/item/section/field, without ? " and \\',
    "local": "local://name, a name such as openai.api_key",
    "env": "env://NAME, upper-case letters, digits and '_'",
    "aws-sm": "aws-sm://name, then perhaps ?version=… or ?stage=…, then perhaps #field of a JSON object",
    "aws-ssm": "aws-ssm:///path/to/name or aws-ssm://name, then perhaps :version or :label",
    "exec": f"exec://command or exec://command/name, a name of {NAME_FORM}",
    "vault": "vault://mount/path#field or vault://mount/path?version=3#field",
}
"""What a reference of each scheme looks like, for error messages."""

_OTHER_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("1password", "1p", "op-service-account", "service-account"), "onepassword"),
    **dict.fromkeys(("1password-connect", "op-connect"), "connect"),
    **dict.fromkeys(("hashicorp", "hashicorp-vault", "hcvault", "openbao", "bao"), "vault"),
    **dict.fromkeys(
        ("aws", "secretsmanager", "secrets-manager", "aws-secretsmanager", "aws-secrets-manager"), "aws-sm"
    ),
    **dict.fromkeys(("ssm", "parameter-store", "aws-parameter-store", "parameterstore"), "aws-ssm"),
    **dict.fromkeys(("file", "keyfile", "encrypted-file"), "local"),
    **dict.fromkeys(("environment", "environ", "dotenv"), "env"),
    **dict.fromkeys(("command", "program", "shell", "script"), "exec"),
}
"""What people call vaults elsewhere, and the type that is meant."""
_INSTALLED_TYPE = re.compile(r"[a-z][a-z0-9-]{1,31}", re.ASCII)
_ATTRIBUTE = re.compile(r"(?:attribute|ssh-format)=[a-z0-9-]+", re.ASCII)
_VAULT_PART = r"[A-Za-z0-9_@:+=,~.-]+(?: +[A-Za-z0-9_@:+=,~.-]+)*"
_VAULT = re.compile(rf"({_VAULT_PART}(?:/{_VAULT_PART})+)(?:\?version=[1-9][0-9]{{0,8}})?#(.{{1,128}})")
_VAULT_OWN = frozenset({"sys", "auth", "identity", "cubbyhole"})
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,127}", re.ASCII)


def scheme_of(reference: str) -> str:
    """The part of a reference before `://`; it chooses the provider."""
    return reference.partition("://")[0]


def type_of(reference: str) -> str:
    """The provider type that serves a reference's scheme: a type that is not built in serves the scheme of its name."""
    scheme = scheme_of(reference)
    return SCHEMES.get(scheme, scheme)


def is_built_in(kind: str) -> bool:
    """Whether a provider type comes with the broker."""
    return kind in SCHEMES.values()


def can_be_installed(kind: str) -> bool:
    """Whether a package of others may call a provider type so: a scheme's name that is neither type nor scheme here."""
    return _INSTALLED_TYPE.fullmatch(kind) is not None and not is_built_in(kind) and kind not in SCHEMES


def nearest_type(kind: str, known: Iterable[str] = ()) -> str | None:
    """The provider type that was probably meant by one that there is not; None if nothing comes near.

    Args:
        kind: what was written.
        known: types that are not built in.
    """
    text, types = kind.strip().lower(), (*SCHEMES.values(), *known)
    if text in SCHEMES:
        return SCHEMES[text]
    if text in _OTHER_NAMES:
        return _OTHER_NAMES[text]
    return next(iter(get_close_matches(text, types, 1)), None)


def check_reference(reference: str, installed: Collection[str] = ()) -> str:
    """Check a reference's form.

    Args:
        reference: as it stands in the registry.
        installed: provider types that are not built in. What stands behind their schemes is theirs to check, when
            they are made; here it is printable and not empty.

    Returns:
        The reference, unchanged.

    Raises:
        ValueError: if no provider could serve it. The message says what was expected and does not repeat it.
    """
    scheme, separator, path = reference.partition("://")
    if not separator or (scheme not in SCHEMES and scheme not in installed):
        known = ", ".join(f"{known}://" for known in (*SCHEMES, *installed))
        raise ValueError(f"expected a reference that begins with {known}")
    if len(reference) > MAX_REFERENCE:
        raise ValueError(f"the reference has {len(reference)} characters; at most {MAX_REFERENCE} are allowed")
    if not _CHECKS.get(scheme, _is_shown)(path):
        raise ValueError(f"the reference is not of the form {FORMS.get(scheme, f'{scheme}://…')}")
    return reference


def check_for(providers: Iterable[ProviderSettings]) -> Callable[[str], str]:
    """The check of a registry's references against the sections that are to serve them.

    Args:
        providers: the sections of `broker.yaml`.

    Returns:
        A function like `check_reference`. It takes the schemes of installed types that have a section, and of the
        commands of `exec` those that are there.
    """
    installed: list[str] = []
    commands: Mapping[str, Command] | None = None
    own: set[str] = set()
    for provider in providers:
        own.update(credential_variables(provider))
        if not is_built_in(provider.type):
            installed.append(provider.type)
        elif provider.type == SCHEMES["exec"]:
            commands = provider.commands

    def check(reference: str) -> str:
        check_reference(reference, installed)
        if scheme_of(reference) == "env":
            _check_variable(reference, own)
        if commands is not None and scheme_of(reference) == "exec":
            _check_command(reference, commands)
        return reference

    return check


def _check_variable(reference: str, own: Collection[str]) -> None:
    name = reference.partition("://")[2]
    if name.startswith(OWN) or name in own:
        raise ValueError("expected a variable of the secret's own: this one holds what the broker itself uses")


def _check_command(reference: str, commands: Mapping[str, Command]) -> None:
    called, name = command_and_name(reference.partition("://")[2])
    command = commands.get(called)
    if command is None:
        raise ValueError(f"expected one of the commands in broker.yaml: {', '.join(commands)}")
    if command.takes_name != (name is not None):
        expected = f"exec://{called}/name" if command.takes_name else f"exec://{called} without a name"
        raise ValueError(f"expected {expected}, as the command's arguments are written in broker.yaml")


def _is_shown(path: str) -> bool:
    return path.isprintable() and path.strip() == path != ""


def _is_onepassword(path: str) -> bool:
    """Vault, item, perhaps section, and field (1Password, "Secret reference syntax")."""
    path, question, query = path.partition("?")
    if question and _ATTRIBUTE.fullmatch(query) is None:
        return False
    parts = path.split("/")
    return len(parts) in {3, 4} and all(
        part.isprintable() and part == part.strip() and part not in {"", ".", ".."} for part in parts
    )


def _is_connect(path: str) -> bool:
    """Vault, item, perhaps section, and field or file; names go into filters, where quotes would have a meaning."""
    return not set(path) & set('?"\\') and _is_onepassword(path)


def _is_variable(path: str) -> bool:
    return _VARIABLE.fullmatch(path) is not None


def _is_vault(path: str) -> bool:
    """Mount, path and field; never Vault's own mounts, which would show the broker's own token (HTTP API, "Paths")."""
    found = _VAULT.fullmatch(path)
    if found is None:
        return False
    parts, field = found[1].split("/"), found[2]
    is_below = parts[0].lower() not in _VAULT_OWN and not any(set(part) == {"."} for part in parts)
    return is_below and field.isprintable() and field == field.strip()


_CHECKS: Mapping[str, Callable[[str], bool]] = {
    "op": _is_onepassword,
    "connect": _is_connect,
    "local": is_secret_name,
    "env": _is_variable,
    "aws-sm": aws_references.is_secret,
    "aws-ssm": aws_references.is_parameter,
    "exec": is_command_path,
    "vault": _is_vault,
}
