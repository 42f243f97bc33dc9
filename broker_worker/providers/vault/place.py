"""What a `vault://` reference names: a path, perhaps a version of it, and a field."""

from dataclasses import dataclass
from typing import Final

from broker_worker.providers.reference import place_of

SCHEME: Final = "vault"
WHOLE: Final = "*"
"""The field that stands for all of them: one JSON object."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is.

    Args:
        path: mount and path below it, as `vault kv get` takes it.
        version: the version of a KV v2 secret; None for the current one.
        field: the field, or `WHOLE`.
    """

    path: str
    version: int | None
    field: str


def read_place(ref: str) -> Place:
    """What a reference names.

    Raises:
        ProviderError: kind `BAD_REFERENCE`; the reference is not repeated.
    """
    written, _, field = place_of(ref, SCHEME).partition("#")
    path, _, query = written.partition("?")
    version = query.removeprefix("version=")
    return Place(path, int(version) if version else None, field)
