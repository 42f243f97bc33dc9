"""Where what happened becomes durable: the audit, and the broker's own files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from agent_sdk.wire.audit import AuditRecord
from broker_worker.core.leases import Holding
from broker_worker.core.revocations import Revocation


class AuditSink(Protocol):
    """Where records become durable. No audit, no secret."""

    def prepare(self, records: Sequence[AuditRecord], *, begin: bool = False) -> None:
        """Get ready to append what will probably be appended next: that very sequence, unchanged.

        A sink may do nothing here. What it does must leave no trace if something else is prepared or appended in its
        place, unless the process dies first: the audit may then hold records of what was decided and not released.

        Args:
            records: what will probably be appended; nothing takes back what was prepared.
            begin: have the disk begin with it, so that `append` has less to wait for.
        """
        ...

    def append(self, records: Sequence[AuditRecord]) -> None:
        """Chain the records, write them, sign a checkpoint and sync it all to disk, once for the batch.

        Raises:
            AuditError: if that did not happen; the caller then releases nothing.
        """
        ...


class OnceLog(Protocol):
    """Which single-use approvals were used; it outlives restarts and a queue that forgets."""

    def use(self, approval_id: str, request_id: str, ends_at: int) -> bool:
        """Use an approval for a request, durably, before anything is released on it.

        Args:
            approval_id: the approval, 16 hexadecimal digits.
            request_id: the request, 32 hexadecimal digits; the same one, processed again after a crash, may.
            ends_at: until when the approval could be used, ms since the epoch; it is remembered for longer than that.

        Returns:
            Whether this request may use it: False if another one did.

        Raises:
            AuditError: if that could not be made durable; nothing may then be released.
        """
        ...

    def used(self, but_by: str | None = None) -> frozenset[str]:
        """The ids of all approvals that were used, also by other workers of this host, as of a moment ago.

        Args:
            but_by: a request, 32 hexadecimal digits, whose own uses are left out: it may go on with them.
        """
        ...


class RevocationLog(Protocol):
    """The orders of operators, kept where no queue can undo them."""

    def append(self, signed: bytes) -> bool:
        """Keep a signed order; one that is known changes nothing.

        Returns:
            Whether it was new.

        Raises:
            BrokerError: if it could not be made durable; it is in force in this process all the same.
        """
        ...

    def poll(self) -> Sequence[Revocation]:
        """The orders that were added since the last call, by this process or another.

        Raises:
            BrokerError: at the first call only, if what is kept cannot be trusted.
        """
        ...


class LeaseLog(Protocol):
    """What runs hold, noted for the workers that come after: whoever is gone cannot tell anybody that a lease ended.

    Nothing waits for it, and nothing is released or refused by it. What is lost costs a notice: the lease still ends at
    its time, and is still refused when it was revoked.
    """

    def note(self, news: Iterable[Holding | str]) -> None:
        """Note leases that began, and the ids of leases that ended early; never raises, and need not be durable."""
        ...

    def inherit(self) -> Sequence[Holding]:
        """The open leases of workers that are gone. From then on they are this worker's, and nobody else's."""
        ...

    def close(self) -> None:
        """Leave what was noted to whoever inherits."""
        ...


@dataclass(frozen=True, slots=True)
class WriteNote:
    """What the broker notes of one write of a value, for all its workers.

    Args:
        write_id: 32 hexadecimal digits: of an agent's write its request id.
        state: `begun` before the vault is asked; then `written`, `failed` (nothing was written), or `unknown`.
        name: the secret.
        ref: its place.
        at: when, ms since the epoch.
        mark: of a write that began: stands for the value (`Opener.mark`), hexadecimal.
        version: the version that was written, if the vault has versions.
    """

    write_id: str
    state: Literal["begun", "written", "failed", "unknown"]
    name: str
    ref: str
    at: int
    mark: str = ""
    version: str | None = None


class WriteLog(Protocol):
    """Which values were written, and which writes began; it outlives restarts, and a host's workers share it."""

    def note(self, notes: Sequence[WriteNote]) -> None:
        """Keep notes, durably.

        Raises:
            AuditError: if that could not be made durable.
        """
        ...

    def marks(self, ref: str) -> frozenset[str]:
        """The marks of writes to a place of which nobody knows yet what came of them."""
        ...

    def written(self, write_id: str) -> WriteNote | None:
        """What a write of the last minutes wrote, if it did."""
        ...

    def poll(self) -> Sequence[WriteNote]:
        """What was written, or may have been, since the last call, by this process or another."""
        ...

    def overdue(self, before: int) -> Sequence[WriteNote]:
        """Writes that began before a time, ms since the epoch, and never ended: their workers died."""
        ...
