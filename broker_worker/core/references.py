"""References: where a vault keeps a value, written `scheme://…` in the registry.

A reference that cannot be meant is refused when the file is read, not when an agent asks. What was written there is
never repeated in an error, because it may be a value that somebody pasted in the reference's place.
"""

import re
from collections.abc import Callable, Mapping

from agent_sdk.wire.names import is_secret_name
from broker_worker.core import aws_references

MAX_REFERENCE = 512
"""Longest reference, in characters."""

SCHEMES: Mapping[str, str] = {
    "op": "onepassword",
    "connect": "connect",
    "local": "local",
    "env": "env",
    "aws-sm": "aws-sm",
    "aws-ssm": "aws-ssm",
}
"""The scheme of a reference, and the provider type of `broker.yaml` that serves it."""

READ_ONLY_SCHEMES = frozenset({"env"})
"""Schemes whose places nobody can write to."""

FORMS: Mapping[str, str] = {
    "op": "op://vault/item/field or op://vault/item/section/field",
    "connect": 'connect://vault/item/field or connect://vault/item/section/field, without ? " and \\',
    "local": "local://name, a name such as openai.api_key",
    "env": "env://NAME, upper-case letters, digits and '_'",
    "aws-sm": "aws-sm://name, then perhaps ?version=… or ?stage=…, then perhaps #field of a JSON object",
    "aws-ssm": "aws-ssm:///path/to/name or aws-ssm://name, then perhaps :version or :label",
}
"""What a reference of each scheme looks like, for error messages."""

_SELECTOR = re.compile(r"[?#:]")
"""What begins the part of a reference that chooses a field, a version or a form."""
_ATTRIBUTE = re.compile(r"(?:attribute|ssh-format)=[a-z0-9-]+", re.ASCII)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,127}", re.ASCII)


def scheme_of(reference: str) -> str:
    """The part of a reference before `://`; it chooses the provider."""
    return reference.partition("://")[0]


def versioned_part(reference: str) -> str:
    """The part of a reference that a vault versions as one: an item, or a secret with all its fields.

    To write one field of it changes the version of all.
    """
    scheme, separator, path = reference.partition("://")
    path = _SELECTOR.split(path, maxsplit=1)[0]
    if scheme in {"op", "connect"}:
        path = "/".join(path.split("/")[:2])
    return f"{scheme}{separator}{path}"


def check_reference(reference: str) -> str:
    """Check a reference's form.

    Args:
        reference: as it stands in the registry.

    Returns:
        The reference, unchanged.

    Raises:
        ValueError: if no provider could serve it. The message says what was expected and does not repeat it.
    """
    scheme, separator, path = reference.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"expected a reference that begins with {', '.join(f'{known}://' for known in SCHEMES)}")
    if len(reference) > MAX_REFERENCE:
        raise ValueError(f"the reference has {len(reference)} characters; at most {MAX_REFERENCE} are allowed")
    if not _CHECKS[scheme](path):
        raise ValueError(f"the reference is not of the form {FORMS[scheme]}")
    return reference


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


_CHECKS: Mapping[str, Callable[[str], bool]] = {
    "op": _is_onepassword,
    "connect": _is_connect,
    "local": is_secret_name,
    "env": _is_variable,
    "aws-sm": aws_references.is_secret,
    "aws-ssm": aws_references.is_parameter,
}
