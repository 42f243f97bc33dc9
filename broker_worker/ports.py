"""Protocols for everything outside: what the pipeline and the worker need, and who provides it.

Adapters are made in `broker_worker.app` only. Each port has a fault test: what happens when it fails is part of
the contract written here.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, runtime_checkable

from agent_sdk.wire.audit import AuditRecord
from broker_worker.core.errors import ProviderError
from broker_worker.core.limits import Rate
from broker_worker.core.revocations import Revocation
from broker_worker.core.vault_state import Moment, VaultState

T = TypeVar("T")


class Clock(Protocol):
    """The time, passed in so that tests can turn it."""

    def now(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    def monotonic_us(self) -> int:
        """Microseconds of a clock that never goes back."""
        ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """A value as a vault gave it.

    Args:
        value: 1 byte to 128 KiB; never shown by `repr`.
        version: the vault's own version, if it has one.
        upstream_lease: what the vault calls its lease, if it made the value for us and takes it back
            (`DynamicProvider.revoke`).
        lasts_ms: for how long from now on the vault lets such a value live; None without an end.
    """

    value: bytes = field(repr=False)
    version: str | None = None
    upstream_lease: str | None = None
    lasts_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a provider can serve, and what to do if not."""

    ok: bool
    detail: str
    hint: str = ""


class Provider(Protocol):
    """A vault. All providers pass `tests/integration/provider_conformance.py`."""

    @property
    def name(self) -> str:
        """The provider's type, as in `broker.yaml` and in the audit."""
        ...

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Fetched | ProviderError]:
        """Fetch values.

        Args:
            refs: references of this provider's scheme, without repetition.

        Returns:
            For every reference either its value or why there is none. One reference's failure never costs
            another its value.

        Raises:
            ProviderError: if the vault as a whole cannot serve; it then holds for every reference.
        """
        ...

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Store a value at one place, whole or not at all.

        Checking `expected` and writing are one step: of two writers that expect the same, one gets `CONFLICT`.

        Args:
            ref: a reference of this provider's scheme.
            value: 1 byte to 128 KiB.
            expected: None to replace whatever is there; the empty text to create only: the place must hold nothing;
                otherwise a version, as `Fetched.version` gave it: only if that one is current.

        Returns:
            The new version; None if the vault has no versions.

        Raises:
            ProviderError: kind `CONFLICT` if the place does not hold what was expected, and nothing was written;
                `READ_ONLY` if this provider cannot write.
        """
        ...

    async def health(self) -> Health:
        """Whether the vault can be reached and lets us in; never raises."""
        ...

    async def close(self) -> None:
        """Forget the vault's credentials and close connections."""
        ...


@runtime_checkable
class DynamicProvider(Provider, Protocol):
    """A vault that makes credentials when asked, and takes them back."""

    async def revoke(self, upstream_lease: str) -> None:
        """Take a credential back; one that is gone already is no error.

        Raises:
            ProviderError: if the vault did not confirm it; it is then tried again.
        """
        ...


@runtime_checkable
class MeteredProvider(Provider, Protocol):
    """A vault that counts reads, and not one a reference."""

    def reads_of(self, refs: Sequence[str]) -> int:
        """How many reads a call for these references costs at most; not fewer for more of them."""
        ...


@runtime_checkable
class CredentialedProvider(Provider, Protocol):
    """A vault whose credential can be replaced while the broker runs."""

    def fingerprint(self, salt: bytes) -> str:
        """Tells the credential that the next call will use from others, and nothing else of it; it may block.

        Args:
            salt: 16 random bytes of this home, kept in a private file beside the fingerprint.

        Returns:
            16 hexadecimal digits; the empty text if there is no credential.
        """
        ...


@dataclass(frozen=True, slots=True)
class Scope:
    """What a provider's credential can reach, as far as the vault tells.

    Args:
        noun: what `beyond` lists, in the plural: `vaults`, `entries`, `variables`.
        beyond: names, never values, of what it can reach and no reference needs.
        can_write: whether it may change what it can read; None if the vault does not tell.
        hint: how to narrow it.
    """

    noun: str
    beyond: tuple[str, ...]
    can_write: bool | None
    hint: str


@runtime_checkable
class ScopeReporter(Protocol):
    """A provider that can tell what its credential reaches."""

    async def visible(self, refs: Sequence[str]) -> Scope | None:
        """Compare what the credential can reach with what is needed.

        Args:
            refs: every reference of this provider's schemes that the registry has.

        Returns:
            None if the vault does not tell.

        Raises:
            ProviderError: if it cannot be asked.
        """
        ...


class VaultStates(Protocol):
    """What all workers of a home know together of its vaults; it outlives restarts."""

    def moment(self) -> Moment:
        """What the host's clocks say now."""
        ...

    def look(self, vault: str) -> VaultState:
        """The state of a vault as it is now.

        Raises:
            SetupError: if it cannot be read, or is not what the broker wrote.
        """
        ...

    def change(self, vault: str, step: Callable[[VaultState, Moment], tuple[VaultState, T]]) -> T:
        """Change the state of a vault while no other process does; durable when it returns.

        Args:
            vault: the provider's name.
            step: makes the new state, and a result, of the old one; the old one itself if nothing changes.

        Returns:
            The result.

        Raises:
            SetupError: if it cannot be read or written; the state is then what it was.
        """
        ...


class JobQueue(Protocol):
    """Hands over work that may be late to another process."""

    def enqueue(self, job: str, payload: Mapping[str, object]) -> None:
        """Hand over a job; never waits, never raises. A job that could not be handed over is logged.

        Args:
            job: the name of a registered function.
            payload: text, numbers, and lists and mappings of them; never a value. It is sealed before it is queued.
        """
        ...


class AuditSink(Protocol):
    """Where records become durable. No audit, no secret."""

    def prepare(self, records: Sequence[AuditRecord], *, begin: bool = False) -> None:
        """Get ready to append what will probably be appended next: that very sequence, unchanged.

        A sink may do nothing here. What it does must leave no trace if something else is prepared or appended in its
        place, unless the process dies first: the audit may then hold records of what was decided and not released.

        Args:
            records: what will probably be appended; nothing takes back what was prepared.
            begin: have the disk begin with it: `flush` follows, and then `append`.
        """
        ...

    def flush(self) -> None:
        """Wait for the disk to have what was begun, so that `append` need not; never raises."""
        ...

    def append(self, records: Sequence[AuditRecord]) -> None:
        """Chain the records, write them, sign a checkpoint and sync it all to disk, once for the batch.

        Raises:
            AuditError: if that did not happen; the caller then releases nothing.
        """
        ...


@dataclass(slots=True)
class Entry:
    """One entry of an agent's request stream, as read.

    Args:
        agent_id: whose stream it is; the only writer that the queue's ACL admits.
        entry_id: the stream's id of it.
        raw: the envelope.
        received_us: when it was read, on the monotonic clock.
        fault: why it is not even looked at, if so: `not_one_field`, `delivered_too_often`.
    """

    agent_id: str
    entry_id: bytes
    raw: bytes
    received_us: int
    fault: str | None = None


@dataclass(slots=True)
class Answer:
    """What is to be done about an entry: send a sealed reply where there is somebody to answer, and acknowledge.

    Args:
        entry: the entry.
        reply_stream: where the envelope goes.
        envelope: the sealed reply; None if nobody is answered.
    """

    entry: Entry
    reply_stream: str = ""
    envelope: bytes | None = None


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


@dataclass(slots=True)
class Limit:
    """A limit that something counts against: the queue key that keeps its state, and the rate."""

    key: str
    rate: Rate


@dataclass(slots=True)
class AdmissionAsk:
    """What the admission must know of one request.

    Args:
        replay_key: the queue key of the hash that keeps its replay mark.
        request_id: what is marked, 16 bytes.
        entry_id: the stream entry that carries it; the same entry, claimed after a crash, is no replay.
        keep_ms: how long the mark must be kept.
        count: how many names count against `limits`.
        limits: the agent's and the run's.
        name_limits: per name that the policy allows, the limits that it counts against once.
    """

    replay_key: str
    request_id: bytes
    entry_id: bytes
    keep_ms: int
    count: int
    limits: tuple[Limit, ...]
    name_limits: tuple[tuple[Limit, ...], ...] = ()


@dataclass(slots=True)
class Verdict:
    """What the admission says of one request.

    Args:
        replay: whether the request was seen before, in another entry.
        wait_us: microseconds until the agent's and the run's limits admit it; 0 for now.
        name_waits_us: the same for each of `name_limits`, in order; empty if the request is not admitted.
    """

    replay: bool
    wait_us: int = 0
    name_waits_us: tuple[int, ...] = ()


class Admission(Protocol):
    """Replay marks and rate limits, shared by all workers."""

    def admit(self, asks: Sequence[AdmissionAsk]) -> Awaitable[Sequence[Verdict]]:
        """Mark and count a batch of requests in one call; those that count alike, in order.

        Returns:
            The verdicts, to be awaited once and before anything else is asked. Whoever has something to do can do that
            first: the question may be on its way already.

        Raises:
            QueueError: if it is not certain that all were marked and counted; nothing may then be released.
        """
        ...


@dataclass(frozen=True, slots=True)
class CachedValue:
    """A value in the cache and when it was fetched, ms since the epoch."""

    fetched: Fetched
    fetched_at: int

    @property
    def lent_until(self) -> int | None:
        """When the vault ends what it made for us, ms since the epoch; None if that has no end."""
        return None if self.fetched.lasts_ms is None else self.fetched_at + self.fetched.lasts_ms


class Cache(Protocol):
    """Values, and failures, between two uses."""

    def get(self, ref: str, ttl_ms: int, now: int) -> CachedValue | ProviderError | None:
        """What is known of a reference: a value younger than `ttl_ms`, a remembered failure, or nothing."""
        ...

    def get_stale(self, ref: str, max_age_ms: int, now: int) -> CachedValue | None:
        """A value that is younger than `max_age_ms`, whatever its vault says now."""
        ...

    def put(self, ref: str, fetched: Fetched, ttl_ms: int, now: int) -> None:
        """Keep a value for at most `ttl_ms`, and no longer than the vault lets it live; it ends a failure."""
        ...

    def put_failure(self, ref: str, error: ProviderError, ttl_ms: int, now: int) -> None:
        """Remember briefly that there is no value; one that is about the name ends the value that was kept."""
        ...

    def forget_lent(self, upstream_leases: Collection[str]) -> None:
        """Drop every value that belongs to one of these leases of a vault's."""
        ...

    def redact(self, text: str) -> str:
        """The text, or a note in its place if it contains a value that the cache holds."""
        ...

    def purge(self, now: int) -> None:
        """Drop what is over."""
        ...

    def forget(self, ref: str) -> None:
        """Drop what is known of a reference."""
        ...

    def clear(self) -> None:
        """Drop everything."""
        ...
