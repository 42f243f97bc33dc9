"""What a Vault server answered: a status and a JSON object, or how the asking went wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class Trouble(StrEnum):
    """Why there is no answer that could be read."""

    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    TLS = "tls"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Args:
        status: the HTTP status; 0 if none was received.
        body: the JSON object; empty if there is none. Never shown by `repr`: it may hold values.
        retry_after: ms from now, if the server asks to wait.
        trouble: why `body` cannot be relied on; None if it can.
    """

    status: int
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    retry_after: int | None = None
    trouble: Trouble | None = None

    @property
    def is_good(self) -> bool:
        """Whether the request was carried out and its answer was understood."""
        return self.trouble is None and 200 <= self.status < 300

    def part(self, name: str) -> Mapping[str, Any]:
        """An object within the body; empty if there is none of that name."""
        found = self.body.get(name)
        return found if isinstance(found, dict) else {}


class VaultApi(Protocol):
    """The requests that are made, each blocking until its deadline at most and raising nothing.

    Paths are those of references: they hold nothing that would have to be escaped but spaces.
    """

    def with_token(self, token: str) -> "VaultApi":
        """The same server, asked with a token."""
        ...

    def log_in(self, method: str, mount: str, credentials: Mapping[str, str]) -> Answer:
        """Log in by `approle`, `kubernetes` or `jwt`."""
        ...

    def look_up_self(self) -> Answer:
        """What the token is."""
        ...

    def renew_self(self) -> Answer:
        """Have the token live longer."""
        ...

    def mount_of(self, path: str) -> Answer:
        """Which secrets engine serves a path."""
        ...

    def read(self, path: str) -> Answer:
        """Read a path as it is: KV v1 and engines that make credentials."""
        ...

    def read_version(self, mount: str, path: str, version: int | None) -> Answer:
        """Read a secret of KV v2."""
        ...

    def write(self, mount: str, path: str, fields: Mapping[str, object]) -> Answer:
        """Replace a secret of KV v1."""
        ...

    def write_version(self, mount: str, path: str, fields: Mapping[str, object], current: int) -> Answer:
        """Add a version to a secret of KV v2, if `current` is its current one; 0 if there must be none."""
        ...

    def renew_lease(self, lease_id: str, seconds: int) -> Answer:
        """Have a credential live for `seconds` from now on, as far as its role allows."""
        ...

    def revoke_lease(self, lease_id: str) -> Answer:
        """Have a credential taken back before the answer comes."""
        ...

    def list(self, path: str) -> Answer:
        """The names at a path."""
        ...

    def capabilities(self, paths: Sequence[str]) -> Answer:
        """What the token may do at each of these paths."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...
