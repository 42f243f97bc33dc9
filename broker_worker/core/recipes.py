"""Recipes: in which form the broker makes a value. All of them hold 128 bits of randomness at least."""

import re
from dataclasses import dataclass
from typing import Final

_RECIPE = re.compile(r"([a-z0-9]+)(?::([1-9][0-9]{0,4}))?", re.ASCII)
_SIZES: Final = {
    "hex": (16, 1024, "bytes"),
    "base64url": (16, 1024, "bytes"),
    "alnum": (22, 1024, "characters"),
    "password": (20, 1024, "characters"),
    "rsa": (2048, 8192, "bits"),
}
_SIZELESS: Final = frozenset({"uuid4", "ed25519"})
FORMS: Final = "hex:32, base64url:32 (bytes), alnum:24, password:24 (characters), uuid4, ed25519, rsa:3072 (bits)"
"""What recipes look like, for messages."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a value is made.

    Args:
        kind: `hex`, `base64url`, `alnum`, `password`, `uuid4`, `ed25519` or `rsa`.
        size: bytes, characters or bits; 0 where there is no choice.
    """

    kind: str
    size: int = 0


def parse_recipe(text: str) -> Recipe:
    """Read a recipe such as `hex:32`.

    Raises:
        ValueError: says what was expected; it does not repeat the text.
    """
    match = _RECIPE.fullmatch(text)
    kind, size = match.groups() if match is not None else ("", None)
    if kind in _SIZELESS and size is None:
        return Recipe(kind)
    if kind not in _SIZES or size is None:
        raise ValueError(f"expected a recipe such as {FORMS}")
    least, most, unit = _SIZES[kind]
    if not least <= int(size) <= most:
        raise ValueError(f"expected {kind}:{least} to {kind}:{most}, in {unit}")
    if kind == "rsa" and int(size) % 256:
        raise ValueError("expected a multiple of 256 bits")
    return Recipe(kind, int(size))
