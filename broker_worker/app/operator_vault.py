"""The operator's own way to write: the same places, the same create-only rule, the same records as for agents."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Literal

from msgspec import structs
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from agent_sdk.wire.audit import AuditRecord, EventType, format_time
from broker_worker.app.clock import SystemClock
from broker_worker.app.vaults import provider_names, providers_of
from broker_worker.audit.publisher import AuditPublisher
from broker_worker.audit.sink import AuditInUseError, JsonlSink
from broker_worker.core.announcements import Announcement, sign_announcement
from broker_worker.core.configuration import Configuration, SecretEntry
from broker_worker.core.control import write_message
from broker_worker.core.errors import FailureKind, ProviderError, SetupError
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import QUEUE, load_broker_keys, load_seed
from broker_worker.people.announcing import announce
from broker_worker.pipeline.writing import NOTHING_WRITTEN
from broker_worker.ports import AuditSink, Clock, Fetched, Provider, WriteLog, WriteNote
from broker_worker.queue.acl import broker_url
from broker_worker.settings import OPERATOR_CHAIN, Settings
from broker_worker.state.write_file import WriteFile

WriteAction = Literal["put", "generate"]
_PUBLISH_SECONDS = 2.0
_TURN_SECONDS = 20.0
_POLL_SECONDS = 0.1


class OperatorVault:
    """Reads and writes places in the name of an operator.

    Args:
        configuration: the operator's files.
        providers: by scheme.
        sink: where records become durable.
        log: where workers hear of writes.
        identity_secret: signs announcements for other hosts.
        clock: the time.
        by: who orders it, for the audit.
        announce: puts messages onto the control stream, as far as that works now.
    """

    def __init__(
        self,
        configuration: Configuration,
        providers: Mapping[str, Provider],
        sink: AuditSink,
        log: WriteLog,
        identity_secret: bytes,
        clock: Clock,
        by: str,
        announce: Callable[[Sequence[bytes]], Awaitable[object]],
    ) -> None:
        self.configuration = configuration
        self.clock = clock
        self._unannounced: list[bytes] = []
        self._providers = providers
        self._provider_name = provider_names(providers)
        self._sink = sink
        self._log = log
        self._identity_secret = identity_secret
        self._by = by
        self._announce = announce

    def entry_of(self, name: str) -> SecretEntry:
        """Where a name is kept.

        Raises:
            ProviderError: kind `BAD_REFERENCE` if it has no place.
        """
        entry = self.configuration.entry_of(name)
        if entry is None:
            message = f"{name} has no place: neither the registry nor `create_in` of secrets.yaml covers it"
            raise ProviderError(FailureKind.BAD_REFERENCE, message, hint="add it under `secrets:`, or a rule")
        return entry

    async def fetch(self, ref: str) -> Fetched | ProviderError:
        """What a place holds, or why that cannot be said."""
        try:
            found = (await self._provider(ref).get_many([ref])).get(ref)
        except ProviderError as error:
            return error
        return ProviderError(FailureKind.UNKNOWN, "the provider gave no answer") if found is None else found

    async def put(self, ref: str, value: bytes, expected: str | None) -> str | None:
        """Write a place that no name stands for, such as a draft's; it is not recorded by itself."""
        return await self._provider(ref).put(ref, value, expected=expected)

    async def write(self, name: str, value: bytes, *, replaces: str | None, action: WriteAction) -> str | None:
        """Store a value under a name: recorded before and after, and told to all workers.

        Args:
            name: a canonical secret name.
            value: 1 byte to 128 KiB.
            replaces: the version that is there; None to create the name.
            action: `put` or `generate`, for the audit.

        Returns:
            The new version, if the vault has versions.

        Raises:
            ProviderError: if it was not written; kind `CONFLICT` if the place holds something else.
            AuditError: if it could not be recorded; before the vault is asked, nothing is then written.
        """
        entry, write_id = self.entry_of(name), secrets.token_hex(16)
        note = WriteNote(write_id, "begun", name, entry.ref, self.clock.now())
        self._sink.append([self._record("write_started", name, write_id, action)])
        self._log.note([note])
        try:
            version = await self._provider(entry.ref).put(entry.ref, value, expected=replaces or "")
        except ProviderError as error:
            is_sure = error.kind in NOTHING_WRITTEN
            self._end(replace(note, state="failed" if is_sure else "unknown"), action, f"provider_{error.kind}")
            raise
        self._end(replace(note, state="written", version=version), action, None)
        return version

    def _end(self, note: WriteNote, action: WriteAction, reason: str | None) -> None:
        note = replace(note, at=self.clock.now())
        record = self._record("value_written", note.name, note.write_id, action)
        self._tell(note)
        outcome = "granted" if reason is None else "refused"
        self._sink.append([structs.replace(record, reason=reason, version=note.version, outcome=outcome)])

    def note_written(self, name: str, version: str | None) -> None:
        """Tell all workers of a version that a process wrote which died before it could say so."""
        note = WriteNote(secrets.token_hex(16), "written", name, self.entry_of(name).ref, self.clock.now())
        self._tell(replace(note, version=version))

    def _tell(self, note: WriteNote) -> None:
        self._log.note([note])
        if note.state != "failed":
            told = Announcement(note.write_id, note.name, note.at, note.version)
            self._unannounced.append(write_message(sign_announcement(told, self._identity_secret)))

    async def announce_all(self) -> None:
        """Tell the workers of other hosts what was written; this host's hear of it by the broker's own file."""
        messages, self._unannounced = self._unannounced, []
        if messages:
            await self._announce(messages)

    def record(self, name: str, reason: str, *, refused: bool = False, version: str | None = None) -> None:
        """Record a step of a rotation.

        Raises:
            AuditError: if that could not be made durable.
        """
        record = self._record("rotation", name, None, None)
        outcome = "refused" if refused else "granted"
        self._sink.append([structs.replace(record, reason=reason, outcome=outcome, version=version)])

    def _record(self, event: EventType, name: str, write_id: str | None, action: WriteAction | None) -> AuditRecord:
        entry = self.configuration.entry_of(name)
        return AuditRecord(
            v=1,
            event=event,
            timestamp=format_time(self.clock.now()),
            secret_name=name,
            action=action,
            provider=None if entry is None else self._provider_name(entry.ref),
            policy=self.configuration.policy.digest,
            approver=self._by,
            request_id=write_id,
        )

    def _provider(self, ref: str) -> Provider:
        provider = self._providers.get(ref.partition("://")[0])
        if provider is None:
            raise ProviderError(FailureKind.BAD_REFERENCE, "no provider is configured for this scheme")
        return provider


@asynccontextmanager
async def operator_vault(
    settings: Settings, by: str, configuration: Configuration | None = None
) -> AsyncIterator[OperatorVault]:
    """The vaults of an installation, for one command; what it wrote is announced when it ends.

    Args:
        settings: the installation.
        by: who orders it, for the audit.
        configuration: what holds for this command; the operator's files as they are if left out.

    Raises:
        BrokerError: if a file, a key, a provider's section or the audit cannot be used.
    """
    clock = SystemClock()
    if configuration is None:
        configuration = load_configuration(settings.config_dir)
    keys = load_broker_keys(settings.keys_dir)
    sink = await _sink_in_turn(settings, keys.identity_seed, clock)
    try:
        providers = providers_of(configuration, settings, clock)
        log, secret = WriteFile(settings.writes_file, clock.now), keys.identity_seed + keys.identity_public
        vault = OperatorVault(configuration, providers, sink, log, secret, clock, by, partial(announce, settings))
        try:
            yield vault
        finally:
            for provider in set(providers.values()):
                await provider.close()
            await vault.announce_all()
            await _publish(settings, sink)
    finally:
        sink.close()


async def _sink_in_turn(settings: Settings, identity_seed: bytes, clock: Clock) -> JsonlSink:
    """The operators' chain, as soon as no other command writes it."""
    until = time.monotonic() + _TURN_SECONDS
    while True:
        try:
            return JsonlSink(settings.audit_dir, OPERATOR_CHAIN, identity_seed, clock)
        except AuditInUseError:
            if time.monotonic() > until:
                hint = "this one did nothing: run it again when that one is over"
                raise SetupError("another command stores or rotates a value at the moment", hint=hint) from None
        await asyncio.sleep(_POLL_SECONDS)


async def _publish(settings: Settings, sink: JsonlSink) -> None:
    """Copy the operator's chain to the audit's stream; where that is not possible now, the next command does it."""
    try:
        url = broker_url(settings.queue_address, load_seed(settings.keys_dir / QUEUE))
    except SetupError:
        return
    client = Redis.from_url(url, socket_timeout=_PUBLISH_SECONDS, retry=Retry(NoBackoff(), 0))
    try:
        await client.ping()
        publisher = AuditPublisher(client, sink)
        publishing = asyncio.ensure_future(publisher.run())
        await publisher.drain(_PUBLISH_SECONDS)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    except (RedisError, OSError):
        return
    finally:
        await client.aclose()
