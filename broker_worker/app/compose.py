"""Making one worker process out of its parts."""

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from redis.asyncio import Redis

from agent_sdk.wire.audit import AuditRecord, EventType, format_time
from agent_sdk.wire.tokens import TokenVerifier
from broker_worker.app.clock import SystemClock
from broker_worker.audit.publisher import AuditPublisher
from broker_worker.audit.sink import JsonlSink
from broker_worker.cache.memory import MemoryCache
from broker_worker.core.configuration import Configuration
from broker_worker.core.hot_set import HotSet
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import QUEUE, BrokerKeys, load_broker_keys, load_seed
from broker_worker.pipeline import Desk
from broker_worker.pipeline.opening import Intake, Opener
from broker_worker.pipeline.peers import PeerCache
from broker_worker.pipeline.session import start_session
from broker_worker.ports import Provider
from broker_worker.providers.schemes import Surroundings, make_providers
from broker_worker.queue.acl import broker_url
from broker_worker.settings import Settings
from broker_worker.worker import Worker
from broker_worker.worker.fetches import Fetches

SKEW_MS = 30_000
"""How far the clocks of agents, issuers and the broker may differ, ms."""


@dataclass(slots=True)
class Process:
    """The parts of one worker process that outlive a reload."""

    name: str
    settings: Settings
    clock: SystemClock
    cache: MemoryCache
    sink: JsonlSink
    publisher: AuditPublisher
    publisher_client: "Redis"
    desk: Desk
    fetches: Fetches
    worker: Worker
    providers: Mapping[str, Provider]

    def record(self, event: EventType, reason: str | None) -> None:
        """Record something about this process that is no request.

        Raises:
            AuditError: if it could not be recorded.
        """
        policy = self.desk.configuration.policy.digest
        timestamp = format_time(self.clock.now())
        self.desk.record(AuditRecord(v=1, event=event, timestamp=timestamp, policy=policy, reason=reason))


def compose(settings: Settings, name: str) -> Process:
    """Read the operator's files and keys and wire a worker; nothing is contacted yet.

    Args:
        settings: where everything lives.
        name: the worker's name, stable over restarts.

    Raises:
        BrokerError: if a file, a key, the audit or a provider's section cannot be used.
    """
    clock = SystemClock()
    configuration = load_configuration(settings.config_dir)
    keys = load_broker_keys(settings.keys_dir)
    sink = JsonlSink(settings.audit_dir, name, keys.identity_seed, clock)
    providers = providers_of(configuration, settings, clock)
    cache = MemoryCache(configuration.cache.max_entries)
    url = broker_url(settings.queue_address, load_seed(settings.keys_dir / QUEUE))
    desk = Desk(
        configuration=configuration,
        opener=Opener(intakes_of(keys), TokenVerifier(configuration.anchors, SKEW_MS), PeerCache(), SKEW_MS),
        cache=cache,
        sink=sink,
        clock=clock,
        session=start_session(keys.identity_seed, name, clock.now(), secrets.token_bytes(32)),
        provider_of=provider_names(providers),
    )
    fetches = Fetches(providers, desk.keep)
    worker = Worker(
        name=name,
        url=url,
        desk=desk,
        fetches=fetches,
        hot_set=HotSet(configuration.policy.agents),
        identity_seed=keys.identity_seed,
        clock=clock,
    )
    client = Redis.from_url(url, client_name=f"{name}-audit", socket_timeout=30.0)
    publisher = AuditPublisher(client, sink)
    return Process(name, settings, clock, cache, sink, publisher, client, desk, fetches, worker, providers)


def providers_of(configuration: Configuration, settings: Settings, clock: SystemClock) -> Mapping[str, Provider]:
    """The providers that the operator's files configure, by scheme.

    Raises:
        ConfigError: if a section cannot be used.
    """
    around = Surroundings(
        vault_file=settings.vault_file,
        vault_key_file=settings.keys_dir / "vault.key",
        load_vault_key=load_seed,
        environ=dict(os.environ),
        now=clock.now,
    )
    return make_providers(configuration.providers, around)


def provider_names(providers: Mapping[str, Provider]) -> Callable[[str], str]:
    """Tells the name of the provider that serves a reference."""
    names = {scheme: provider.name for scheme, provider in providers.items()}
    return lambda ref: names.get(ref.partition("://")[0], "none")


def intakes_of(keys: BrokerKeys) -> dict[bytes, Intake]:
    """The intake keys by their id, the newest and those in their overlap."""
    return {key.key_id: Intake(key.public, key.secret) for key in keys.intake}
