"""Making one worker process out of its parts."""

import functools
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis.asyncio import Redis

from agent_sdk.wire.audit import AuditRecord, EventType, format_time
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.tokens import TokenVerifier
from broker_worker.app.clock import SystemClock
from broker_worker.app.vaults import CriticalReferences, provider_names, providers_of
from broker_worker.audit.publisher import AuditPublisher
from broker_worker.audit.sink import JsonlSink
from broker_worker.cache.memory import MemoryCache
from broker_worker.core.approval_book import ApprovalBook
from broker_worker.core.configuration import Configuration
from broker_worker.core.hot_set import HotSet
from broker_worker.core.leases import LeaseMint, lease_key
from broker_worker.core.revocations import Revocations
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import (
    JOBS,
    QUEUE,
    BrokerKeys,
    control_public,
    ensure_seed,
    load_broker_keys,
    load_seed,
)
from broker_worker.jobs.reports import decode_report, report_key
from broker_worker.people.assertion import check_assertion
from broker_worker.pipeline import Desk
from broker_worker.pipeline.affairs import Affairs, AffairsKeys
from broker_worker.pipeline.approving import Approvals
from broker_worker.pipeline.leasing import Leases
from broker_worker.pipeline.opening import Intake, Opener
from broker_worker.pipeline.peers import PeerCache
from broker_worker.pipeline.session import start_session
from broker_worker.pipeline.superseding import Superseding
from broker_worker.pipeline.writing import Writer
from broker_worker.ports import Provider
from broker_worker.private_files import make_private_folder
from broker_worker.queue.acl import broker_url
from broker_worker.settings import Settings
from broker_worker.state.lease_files import LeaseFiles
from broker_worker.state.revocation_file import RevocationFile
from broker_worker.state.used_approvals import UsedApprovals
from broker_worker.state.write_file import WriteFile
from broker_worker.worker import Worker
from broker_worker.worker.fetches import Fetches
from broker_worker.worker.writes import Writes

if TYPE_CHECKING:
    from broker_worker.cache.sealed.write_behind import WriteBehind
    from broker_worker.jobs.queue import RqJobQueue

_REPORTS_SEEN, _REPORTS_FOR_MS = 10_000, 24 * 3600 * 1000
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
    jobs: "LateJobs"
    desk: Desk
    fetches: Fetches
    writes: Writes
    worker: Worker
    providers: Mapping[str, Provider]
    critical: "CriticalReferences"
    write_behind: "WriteBehind | None" = None

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
    critical = CriticalReferences(configuration)
    providers = providers_of(configuration, settings, clock, critical)
    write_behind = _write_behind(configuration, settings, clock)
    cache = MemoryCache(configuration.cache.max_entries, write_behind)
    url = broker_url(settings.queue_address, load_seed(settings.keys_dir / QUEUE))
    peers, jobs_key = PeerCache(), ensure_seed(settings.keys_dir / JOBS)
    jobs, write_log = LateJobs(url, jobs_key, clock), WriteFile(settings.writes_file, clock.now)
    desk = Desk(
        configuration=configuration,
        opener=Opener(intakes_of(keys), TokenVerifier(configuration.anchors, SKEW_MS), peers, SKEW_MS),
        cache=cache,
        sink=sink,
        affairs=_affairs(settings, name, keys, clock, sink, cache, peers, jobs, write_log),
        clock=clock,
        session=start_session(keys.identity_seed, name, clock.now(), secrets.token_bytes(32)),
        provider_of=provider_names(providers),
    )
    fetches = Fetches(providers, desk.keep)
    desk.affairs.superseding.on_dropped = fetches.ask_again
    writer = Writer(desk, sink, write_log, clock)
    writes = Writes(providers, fetches.done)
    worker = Worker(
        name=name,
        url=url,
        desk=desk,
        fetches=fetches,
        writer=writer,
        writes=writes,
        lease_log=LeaseFiles(settings.leases_dir, name, LeaseMint(lease_key(keys.identity_seed)), clock.now),
        hot_set=HotSet(configuration.policy.agents),
        identity_seed=keys.identity_seed,
        read_report=ReportReader(report_key(jobs_key), clock),
        clock=clock,
    )
    client = Redis.from_url(url, client_name=f"{name}-audit", socket_timeout=30.0)
    publisher = AuditPublisher(client, sink)
    if write_behind is not None:
        _restore(cache, write_behind, desk)
    parts = (sink, publisher, client, jobs, desk, fetches, writes, worker, providers, critical, write_behind)
    return Process(name, settings, clock, cache, *parts)


def _write_behind(configuration: Configuration, settings: Settings, clock: SystemClock) -> "WriteBehind | None":
    """What keeps values over restarts, if the operator wants that; nothing of it is loaded otherwise."""
    if configuration.cache.sealed is None:
        return None
    from broker_worker.app.sealing import make_write_behind  # noqa: PLC0415  # most workers never need it

    return make_write_behind(configuration.cache.sealed, configuration, settings, clock)


def _restore(cache: MemoryCache, write_behind: "WriteBehind", desk: Desk) -> None:
    """Put what was kept, and may still be served, into the memory cache."""
    from broker_worker.app.sealing import restored  # noqa: PLC0415  # most workers never need it

    registry = desk.configuration.registry
    records = write_behind.start({entry.ref for entry in registry.values()})
    for ref, value, until in restored(records, registry, desk.affairs.revocations):
        affairs = desk.affairs
        if ref in affairs.superseding.uncertain:  # a write of it began, and a worker died
            continue
        if value.fetched_at > affairs.leases.written_at(ref):  # else it was replaced since
            cache.restore(ref, value, until)


def _affairs(
    settings: Settings,
    name: str,
    keys: BrokerKeys,
    clock: SystemClock,
    sink: JsonlSink,
    cache: MemoryCache,
    peers: PeerCache,
    jobs: "LateJobs",
    write_log: WriteFile,
) -> Affairs:
    """What people allow and revoke, on the broker's own files.

    Raises:
        BrokerError: if such a file, or the key that signs revocations, cannot be used.
    """
    make_private_folder(settings.state_dir)
    orders = settings.revocations_file
    public = control_public(settings.keys_dir, orders)
    once = UsedApprovals(settings.used_approvals_file, clock.now)
    revocations = Revocations()
    leases = Leases(LeaseMint(lease_key(keys.identity_seed), secrets.randbits(48)), revocations)
    identity_secret = keys.identity_seed + keys.identity_public
    return Affairs(
        worker=name,
        keys=AffairsKeys(identity_secret, public),
        approvals=Approvals(ApprovalBook(check_assertion), once, cache, name),
        leases=leases,
        revocations=revocations,
        revocation_log=RevocationFile(orders, public),
        settled=UsedApprovals(settings.settled_approvals_file, clock.now),
        sink=sink,
        cache=cache,
        peers=peers,
        jobs=jobs,
        superseding=Superseding(write_log, identity_secret, cache, leases),
    )


class LateJobs:
    """Implements `ports.JobQueue`; what it needs for that is loaded with the first job, which most workers never have.

    Args:
        url: the queue, with the broker's user.
        jobs_key: the 32 bytes of keys/jobs.key.
        clock: the time.
    """

    def __init__(self, url: str, jobs_key: bytes, clock: SystemClock) -> None:
        self._make: Callable[[], RqJobQueue] = functools.partial(_rq_queue, url, jobs_key, clock)
        self._queue: RqJobQueue | None = None

    def enqueue(self, job: str, payload: Mapping[str, object]) -> None:
        """Hand over a job."""
        if self._queue is None:
            self._queue = self._make()
        self._queue.enqueue(job, payload)

    def close(self) -> None:
        """Hand over what waits, and end."""
        if self._queue is not None:
            self._queue.close()


def _rq_queue(url: str, jobs_key: bytes, clock: SystemClock) -> "RqJobQueue":
    from broker_worker.jobs.queue import RqJobQueue  # noqa: PLC0415  # rq is large

    return RqJobQueue(url, jobs_key, clock.now)


class ReportReader:
    """Has what the job process reports recorded, each report once.

    Args:
        key: from `jobs.reports.report_key`.
        clock: the time.
    """

    def __init__(self, key: bytes, clock: SystemClock) -> None:
        self._key = key
        self._clock = clock
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def __call__(self, raw: bytes, record: Callable[[AuditRecord], object]) -> None:
        """Record a report, unless our job process did not write it, it is a repetition, or its time is a day off.

        Whoever owns the queue could repeat an old one for ever.

        Args:
            raw: an entry of the reports stream.
            record: takes the record; if it raises, the report counts as not seen.
        """
        try:
            report = decode_report(raw, self._key)
        except WireError:
            return
        if report.report_id in self._seen or abs(report.at - self._clock.now()) > _REPORTS_FOR_MS:
            return
        record(report.record())
        self._seen[report.report_id] = None
        if len(self._seen) > _REPORTS_SEEN:
            self._seen.popitem(last=False)


def intakes_of(keys: BrokerKeys) -> dict[bytes, Intake]:
    """The intake keys by their id, the newest and those in their overlap."""
    return {key.key_id: Intake(key.public, key.secret) for key in keys.intake}
