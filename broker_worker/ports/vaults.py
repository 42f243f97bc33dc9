"""What the broker needs of vaults, and what it remembers of them and of their values."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from broker_worker.core.errors import ProviderError
from broker_worker.core.vault_state import Moment, VaultState

T = TypeVar("T")


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
class PartedProvider(Provider, Protocol):
    """Several vaults in one: what one of them suffers from says nothing of the others."""

    @property
    def leaves_failing_parts_alone(self) -> bool:
        """Whether it keeps the circuit breakers of its parts itself; always true."""
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

    @property
    def is_refused_for_good(self) -> bool:
        """Whether a credential that was refused stays so until somebody replaces it.

        If not, because a role is given others all the time, the vault is tried again sooner.
        """
        ...

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
    """What a provider's credential can do, as far as the vault tells. Names and phrases, never values.

    Args:
        noun: what `beyond` lists, in the plural: `vaults`, `entries`, `variables`.
        beyond: what it can reach and no reference needs.
        hint: how to narrow it.
        writes: places that it may change although nothing writes there.
        powers: what else it may do that no broker needs, each such as `administer Vault`.
        untold: what the vault does not tell, and why; each a whole phrase.
    """

    noun: str
    beyond: tuple[str, ...]
    hint: str
    writes: tuple[str, ...] = ()
    powers: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()

    @property
    def is_narrow(self) -> bool:
        """Whether nothing was found that is not needed."""
        return not (self.beyond or self.writes or self.powers)


@runtime_checkable
class ScopeReporter(Protocol):
    """A provider that can tell what its credential reaches."""

    async def visible(self, refs: Sequence[str], written: Collection[str]) -> Scope | None:
        """Compare what the credential can do with what is needed. Values are not read for that.

        Args:
            refs: every reference of this provider's schemes that secrets, rotations or new names need.
            written: those among them that the policy, a rotation or `create_in` has written.

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
