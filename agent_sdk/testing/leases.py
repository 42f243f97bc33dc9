"""The leases of a fake desk."""

import secrets
from dataclasses import dataclass, field
from typing import Literal

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Result, lease_id


@dataclass(slots=True, eq=False)
class FakeLease:
    """What a run holds. Times are ms since the epoch.

    Args:
        name: the secret.
        run_key: the public key of the run.
        expires_at: when it ends, unless it is renewed.
        ends_at: its hard end.
        token: what the run shows to renew it or to give it back.
        uses: how often it was served.
        ended: why it is over, if it ended before its time.
    """

    name: str
    run_key: bytes
    expires_at: int
    ends_at: int
    token: bytes = field(default_factory=lambda: secrets.token_bytes(48), repr=False)
    uses: int = 1
    ended: Literal["released", "revoked", "superseded"] | None = None

    @property
    def lease_id(self) -> bytes:
        """Its id, as `Secret.lease_id` has it."""
        return lease_id(self.token)

    def is_open(self, now: int) -> bool:
        """Whether the run holds it."""
        return self.ended is None and now < self.expires_at


class FakeLeases:
    """Keeps leases, renews them and takes them back."""

    def __init__(self) -> None:
        self.issued: list[FakeLease] = []
        self._latest: dict[tuple[bytes, str], FakeLease] = {}

    def open(self, name: str, run_key: bytes, expires_at: int, ends_at: int, now: int) -> FakeLease:
        """The lease under which a run has a name: one more use of the open one, or a new one."""
        lease = self._latest.get((run_key, name))
        if lease is not None and lease.is_open(now):
            lease.uses += 1
            lease.expires_at = max(lease.expires_at, expires_at)
            return lease
        lease = self._latest[run_key, name] = FakeLease(name, run_key, expires_at, ends_at)
        self.issued.append(lease)
        return lease

    def of_run(self, token: bytes, run_key: bytes) -> FakeLease | None:
        """The lease of a token, if it is that run's."""
        return next((lease for lease in self.issued if lease.token == token and lease.run_key == run_key), None)

    def renew(self, lease: FakeLease, ttl: int, now: int) -> Result:
        """Prolong a lease up to its hard end.

        Args:
            lease: which.
            ttl: for how long, ms.
            now: the time, ms since the epoch.
        """
        if lease.ended == "revoked":
            return Result(lease.name, "refused", Code.REVOKED)
        if not lease.is_open(now):
            return Result(lease.name, "refused", Code.EXPIRED)
        lease.expires_at = min(now + ttl, lease.ends_at)
        return Result(lease.name, "granted", expires_at=lease.expires_at, lease=lease.token)

    def release(self, lease: FakeLease) -> Result:
        """Take a lease back."""
        lease.ended = lease.ended or "released"
        return Result(lease.name, "granted", lease=lease.token)

    def end(self, name: str, reason: Literal["revoked", "superseded"], now: int) -> list[FakeLease]:
        """End the open leases of a name.

        Returns:
            Those that were ended by it.
        """
        ended = [lease for lease in self.issued if lease.name == name and lease.is_open(now)]
        for lease in ended:
            lease.ended = reason
        return ended
