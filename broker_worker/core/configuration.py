"""Everything that the operator's files say about decisions, read as one and swapped as one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent_sdk.wire.names import NamePattern
from agent_sdk.wire.static_tokens import RUN_PREFIX
from agent_sdk.wire.tokens import TrustAnchor
from broker_worker.core.approvers import Approvers
from broker_worker.core.budget import Budget
from broker_worker.core.commands import Command
from broker_worker.core.notifications import NotificationTarget
from broker_worker.core.places import versioned_part
from broker_worker.core.policy import Origin, Policy
from broker_worker.core.rotation import RotationRule


@dataclass(frozen=True, slots=True)
class SecretEntry:
    """One entry of the registry: a name that agents use, and where the vault keeps its value.

    Args:
        name: canonical secret name.
        ref: the reference whose scheme chooses the provider, such as `op://vault/item/field`.
        ttl_seconds: how long a fetched value may be used; None for the cache's default.
        origin: where the entry stands.
        max_stale_seconds: for how long after that a cached value may still be served while its vault fails.
        critical: whether fetching it may use the reserve of its vault's budget.
        is_created: whether it is a place for a name that agents may create, by `create_in`.
        rotation: how its next version is made and tried; None if it is not rotated here.
    """

    name: str
    ref: str
    ttl_seconds: int | None
    origin: Origin
    max_stale_seconds: int = 0
    critical: bool = False
    is_created: bool = False
    rotation: RotationRule | None = None


NAME_FIELD = "{name}"


@dataclass(frozen=True, slots=True)
class CreationRule:
    """Where names that agents create are kept: an entry of `create_in`.

    The whole name stands in the place of `{name}`, so two names never share a place, and a name, having no slash and
    no empty part, leads nowhere else.

    Args:
        pattern: the names.
        template: the reference, with `{name}` once.
        ttl_seconds: how long a fetched value may be used; None for the cache's default.
        origin: where the rule stands.
    """

    pattern: NamePattern
    template: str
    ttl_seconds: int | None
    origin: Origin

    def entry_of(self, name: str) -> SecretEntry:
        """The entry of a name that the pattern covers."""
        ref = self.template.replace(NAME_FIELD, name)
        return SecretEntry(name, ref, self.ttl_seconds, self.origin, is_created=True)

    def name_at(self, ref: str) -> str | None:
        """The name whose item or secret a reference is in by this template, without regard to case; None if none."""
        before, _, after = versioned_part(self.template).casefold().partition(NAME_FIELD)
        ref = versioned_part(ref).casefold()
        if len(ref) <= len(before) + len(after) or not (ref.startswith(before) and ref.endswith(after)):
            return None
        return ref[len(before) : len(ref) - len(after)]


MASTER_KEYS = ("auto", "tpm", "dpapi", "keyring", "systemd", "passphrase")
"""What can wrap the sealed cache's master key; `auto` takes the first of the others that the host has."""


@dataclass(frozen=True, slots=True)
class SealedSettings:
    """How values survive a restart.

    Args:
        master_key: one of `MASTER_KEYS`.
        key_file: where the wrapped master key is kept; None for the home's keys folder.
        pcrs: the TPM's registers that the key is sealed to.
        tcti: how the TPM is reached, as tpm2-tss writes it.
        credential: the name of systemd's credential.
        passphrase_env: the environment variable that holds the passphrase.
        passphrase_file: the file that holds it in the variable's place.
    """

    master_key: str = MASTER_KEYS[0]
    key_file: str | None = None
    pcrs: tuple[int, ...] = ()
    tcti: str = "device:/dev/tpmrm0"
    credential: str = "secret-broker-cache"
    passphrase_env: str = "SECRET_BROKER_CACHE_PASSPHRASE"  # noqa: S105  # a variable's name
    passphrase_file: str | None = None


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """How long and how many values are kept.

    Args:
        default_ttl_seconds: for secrets without a life of their own.
        max_ttl_seconds: for all; None is no maximum.
        max_entries: how many values are kept.
        sealed: how they survive a restart; None if they are kept in memory only.
    """

    default_ttl_seconds: int = 300
    max_ttl_seconds: int | None = 900
    max_entries: int = 10_000
    sealed: SealedSettings | None = None


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """Which provider serves the registry, with the options of its section in `broker.yaml`.

    Args:
        type: a built-in type such as `local` (`references.SCHEMES`), or one of an installed package.
        options: the section's other keys, checked by the provider when it is made.
        origin: where the section stands.
        budget: how many reads its vault may be asked for; None for no budget.
        commands: the commands of a section of type `exec`, by their names.
    """

    type: str
    options: Mapping[str, str | int | bool]
    origin: Origin
    budget: Budget | None = None
    commands: Mapping[str, Command] = field(default_factory=dict)


_NAMES_OF_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the HTTP gateway listens: a loopback address only."""

    host: str = "127.0.0.1"
    port: int = 7700

    @property
    def origins(self) -> tuple[str, ...]:
        """What a client on this host may call the gateway, without a path; the first is what documents call it."""
        names = _NAMES_OF_LOOPBACK if self.host in _NAMES_OF_LOOPBACK else (self.host,)
        return tuple(f"http://{f'[{name}]' if ':' in name else name}:{self.port}" for name in names)


DASHBOARD_PORT = 7710


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Where people look: it listens on 127.0.0.1, and is visited at an origin whose host is a name.

    A WebAuthn credential belongs to a host name, so the address to visit is `localhost`, not an IP address.

    Args:
        port: the port on 127.0.0.1.
        origin: what a browser shows as its address, without a path.
    """

    port: int = DASHBOARD_PORT
    origin: str = f"http://localhost:{DASHBOARD_PORT}"

    @property
    def rp_id(self) -> str:
        """The host name that people's credentials belong to (WebAuthn Level 3, section 4, "RP ID")."""
        return self.origin.partition("://")[2].partition(":")[0]


@dataclass(frozen=True, slots=True)
class StaticToken:
    """A long-lived token of one agent, for scripts that cannot be launched as a run; the token itself is nowhere.

    Args:
        token_id: what people call it, and the first part of the token.
        agent: whose it is.
        sha256: the SHA-256 of the token, 32 bytes.
        created_at: when it was issued, ms since the epoch.
        expires_at: until when it is good, ms since the epoch.
        origin: where it stands.
    """

    token_id: str
    agent: str
    sha256: bytes
    created_at: int
    expires_at: int
    origin: Origin

    @property
    def run_id(self) -> str:
        """The run that its requests count as, which no identity token can name."""
        return RUN_PREFIX + self.token_id


@dataclass(frozen=True, slots=True)
class Configuration:
    """The operator's files, valid as a whole.

    Args:
        policy: who may have what.
        registry: secret names and their references.
        cache: how long values are kept.
        anchors: the issuers whose tokens count.
        providers: the providers that the registry's references need.
        digest: SHA-256 over all of it, hexadecimal.
        server: the HTTP gateway's address; None if the files name none.
        policy_only: whether a policy was read by itself, to check or test it; nothing can be released with that.
        approvers: the people who may decide; nobody if the files name nobody.
        dashboard: where people look.
        notifications: whom to tell that an approval waits.
        create_in: where names are kept that the registry does not have, and that agents may create.
        static_tokens: the static tokens, by their id.
    """

    policy: Policy
    registry: Mapping[str, SecretEntry]
    cache: CacheSettings
    anchors: tuple[TrustAnchor, ...]
    providers: tuple[ProviderSettings, ...]
    digest: str
    server: ServerSettings | None = None
    policy_only: bool = False
    approvers: Approvers = Approvers()  # noqa: RUF009  # a frozen value
    dashboard: Dashboard = Dashboard()
    notifications: tuple[NotificationTarget, ...] = ()
    create_in: tuple[CreationRule, ...] = ()
    static_tokens: Mapping[str, StaticToken] = field(default_factory=dict)

    @property
    def has_rotation_schedule(self) -> bool:
        """Whether a secret is to be rotated by the schedule."""
        return any(entry.rotation and entry.rotation.every_seconds for entry in self.registry.values())

    def entry_of(self, name: str) -> SecretEntry | None:
        """The registry's entry of a name, or else that of the place where the name would be created.

        Args:
            name: a canonical secret name.
        """
        entry = self.registry.get(name)
        if entry is None and self.create_in:
            return next((rule.entry_of(name) for rule in self.create_in if rule.pattern.matches(name)), None)
        return entry

    def ttl_of(self, entry: SecretEntry) -> int:
        """Seconds that a value of `entry` may be used after it was fetched."""
        ttl = self.cache.default_ttl_seconds if entry.ttl_seconds is None else entry.ttl_seconds
        return ttl if self.cache.max_ttl_seconds is None else min(ttl, self.cache.max_ttl_seconds)

    def stale_ms_of(self, entry: SecretEntry) -> int:
        """Until which age, in ms, a value of `entry` may be served while its vault fails."""
        return (self.ttl_of(entry) + entry.max_stale_seconds) * 1000

    def critical_refs(self) -> frozenset[str]:
        """The references that may use the reserve of their vault's budget."""
        return frozenset(entry.ref for entry in self.registry.values() if entry.critical)
