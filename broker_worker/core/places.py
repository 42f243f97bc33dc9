"""Which part of a reference a vault versions as one, and what a write to one part means for another."""

import re

_SELECTOR = re.compile(r"[?#:]")
"""What begins the part of a reference that chooses a field, a version or a form."""
_FIXED = {
    "vault": re.compile(r"\?version="),
    "aws-sm": re.compile(r"\?(?:version=|stage=(?!AWSCURRENT|AWSPREVIOUS))"),
    "aws-ssm": re.compile(r":[^/]*$"),
}
"""By scheme: what fixes the version, or a label that does not move by a write."""
_COUNTED = re.compile(r"[0-9]{1,18}", re.ASCII)
_ITEMS = frozenset({"op", "connect"})
"""Schemes whose first two parts are a vault and an item."""


def versioned_part(reference: str) -> str:
    """The part of a reference that a vault versions as one: an item, or a secret with all its fields.

    To write one field of it changes the version of all. Of `op` it is in one case, as 1Password reads it in any.
    """
    scheme, separator, path = reference.partition("://")
    path = _SELECTOR.split(path, maxsplit=1)[0]
    if scheme in _ITEMS:
        path = "/".join(path.split("/")[:2])
        path = path.casefold() if scheme == "op" else path
    return f"{scheme}{separator}{path}"


def changes_with(reference: str, written: str, *, versioned: bool) -> bool:
    """Whether what a reference gives, or its version, is another one after a write.

    Args:
        reference: what is asked about.
        written: where was written.
        versioned: whether the vault told a version of what was written. If so, all of the item or secret have it;
            otherwise only what holds the written field is known to be another.
    """
    if versioned_part(reference) != versioned_part(written):
        return False
    scheme, _, path = reference.partition("://")
    if scheme in _FIXED and _FIXED[scheme].search(path.partition("#")[0]):
        return False
    return versioned or reference == written or _is_whole(reference) or _is_whole(written)


def is_older(version: str | None, newest: str | None) -> bool | None:
    """Whether a version is older than the newest one, where versions are counted; None where they are not."""
    if version is None or newest is None or not (_COUNTED.fullmatch(version) and _COUNTED.fullmatch(newest)):
        return None
    return int(version) < int(newest)


def _is_whole(reference: str) -> bool:
    """Whether a reference means a whole secret, with all of its fields."""
    scheme, _, path = reference.partition("://")
    field = path.partition("#")[2]
    return (scheme == "aws-sm" and not field) or (scheme == "vault" and field == "*")
