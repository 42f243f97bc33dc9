"""What a desk reaches outside itself, kept in memory: an audit, replay marks and limits, logs and jobs."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agent_sdk.wire.audit import AuditRecord
from broker_worker.core.errors import AuditError, QueueError
from broker_worker.core.revocations import Revocation
from broker_worker.ports import AdmissionAsk, Limit, OpenAsk, Verdict


@dataclass
class Notebook:
    """An audit sink that remembers, or fails."""

    records: list[AuditRecord] = field(default_factory=list)
    is_full: bool = False
    begun: Sequence[AuditRecord] = ()

    def prepare(self, records: Sequence[AuditRecord], *, begin: bool = False) -> None:
        self.begun = records if begin else ()

    def append(self, records: Sequence[AuditRecord]) -> None:
        if self.is_full:
            raise AuditError("cannot write the audit: No space left on device")
        self.records += records

    def of(self, event: str) -> list[AuditRecord]:
        """The records of one kind."""
        return [record for record in self.records if record.event == event]


class LocalAdmission:
    """Replay marks and limits kept in this object; it can be made to forget, or to fail."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self.is_away = False
        self.before: Callable[[], object] = lambda: None
        self.asked: list[AdmissionAsk] = []
        self.forget()

    def forget(self) -> None:
        """Lose everything, as a queue can."""
        self._seen: dict[tuple[str, bytes], bytes] = {}
        self._tats: dict[str, int] = {}
        self.open: dict[str, dict[str, int]] = {}

    async def admit(self, asks: Sequence[AdmissionAsk]) -> list[Verdict]:
        await asyncio.sleep(0)  # what a desk does meanwhile, it does before `before`
        self.before()
        if self.is_away:
            raise QueueError("the connection to the queue broke")
        self.asked += asks
        return [self._verdict(ask) for ask in asks]

    def _verdict(self, ask: AdmissionAsk) -> Verdict:
        prior = self._seen.setdefault((ask.replay_key, ask.request_id), ask.entry_id)
        if prior != ask.entry_id:
            return Verdict(replay=True)
        wait = self._count(ask.limits, ask.count)
        if wait:
            return Verdict(replay=False, wait_us=wait)
        return Verdict(False, 0, tuple(self._count(limits, 1) for limits in ask.name_limits))

    async def open_approvals(self, asks: Sequence[OpenAsk]) -> list[int]:
        if self.is_away:
            raise QueueError("the connection to the queue broke")
        return [self.open_of(ask) for ask in asks]

    def open_of(self, ask: OpenAsk) -> int:
        """As the script on the queue does it."""
        open_ = {key: until for key, until in self.open.get(ask.key, {}).items() if until > ask.now} | dict(ask.known)
        self.open[ask.key], opened = open_, 0
        for each in ask.wanted:
            if each not in open_ and len(open_) >= ask.limit:
                break
            open_[each] = max(open_.get(each, 0), ask.until)
            opened += 1
        return opened

    def _count(self, limits: Iterable[Limit], names: int) -> int:
        """All or nothing over the limits, as the script on the queue does."""
        now, wait, after = self._now_us(), 0, dict(self._tats)
        for limit in limits:
            after[limit.key] = max(self._tats.get(limit.key, 0), now) + limit.rate.interval * names
            wait = max(wait, after[limit.key] - now - limit.rate.tolerance)
        if not wait:
            self._tats = after
        return wait


class OnceNotebook:
    """Implements `ports.OnceLog` in memory; it can fail like a disk."""

    def __init__(self) -> None:
        self.uses: dict[str, str] = {}
        self.is_full = False

    def use(self, approval_id: str, request_id: str, ends_at: int) -> bool:
        if self.is_full:
            raise AuditError("cannot write: No space left on device")
        return self.uses.setdefault(approval_id, request_id) == request_id

    def used(self, but_by: str | None = None) -> frozenset[str]:
        return frozenset(key for key, request in self.uses.items() if request != but_by)


class OrderNotebook:
    """Implements `ports.RevocationLog` in memory; a test puts orders into `new`."""

    def __init__(self) -> None:
        self.new: list[Revocation] = []
        self.kept: list[bytes] = []

    def append(self, signed: bytes) -> bool:
        self.kept.append(signed)
        return True

    def poll(self) -> list[Revocation]:
        new, self.new = self.new, []
        return new


class JobNotebook:
    """Implements `ports.JobQueue` in memory."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, Mapping[str, object]]] = []

    def enqueue(self, job: str, payload: Mapping[str, object]) -> None:
        self.jobs.append((job, payload))
