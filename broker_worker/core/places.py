"""Which part of a reference a vault versions as one."""

import re

_SELECTOR = re.compile(r"[?#:]")
"""What begins the part of a reference that chooses a field, a version or a form."""
_ITEMS = frozenset({"op", "connect"})
"""Schemes whose first two parts are a vault and an item."""


def versioned_part(reference: str) -> str:
    """The part of a reference that a vault versions as one: an item, or a secret with all its fields.

    To write one field of it changes the version of all.
    """
    scheme, separator, path = reference.partition("://")
    path = _SELECTOR.split(path, maxsplit=1)[0]
    if scheme in _ITEMS:
        path = "/".join(path.split("/")[:2])
    return f"{scheme}{separator}{path}"
