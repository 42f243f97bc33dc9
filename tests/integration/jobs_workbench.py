"""A queue of jobs on a real server, with an rq worker that works until there is nothing left to do."""

import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from redis import Redis

from agent_sdk.wire import keynames
from broker_worker.jobs.functions import Doing, JobFailedError, JobFunction, RetryPlan
from broker_worker.jobs.payloads import NOTIFICATIONS, NOTIFY_APPROVAL, JobKind
from broker_worker.jobs.reports import Report, decode_report, report_key
from broker_worker.jobs.sealed_job import SealedQueue
from broker_worker.jobs.sealing import JobSealer
from broker_worker.jobs.worker import Reporter, SealedWorker, follow_rq_logs

JOBS_KEY = bytes(range(32))
NOTICE: Mapping[str, object] = {
    "approval_id": "00112233aabbccdd",
    "agent_id": "claude",
    "run_id": "run-7",
    "names": ["stripe.live_key"],
    "purpose": "refund order 12",
    "approvers": ["ops"],
    "expires_at": 4_000_000_000_000,
    "asked_today": 3,
    "link": "http://localhost:7710/approvals/00112233aabbccdd",
}


class Bench:
    """A queue, and what was done with its jobs.

    Args:
        url: an empty server.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis = Redis.from_url(url)
        self.sealer = JobSealer(JOBS_KEY)
        self.queue = SealedQueue(NOTIFICATIONS, self.redis)
        self.shift = 0
        self.reporter = Reporter(self.redis, JOBS_KEY, self.now)
        self.ran: list[Any] = []
        self.gave_up: list[str] = []
        self.failures: list[Exception] = []

    def now(self) -> int:
        """The time that everything here goes by, ms since the epoch."""
        return time.time_ns() // 1_000_000 + self.shift

    def run(self, payload: Any, _doing: Doing) -> None:
        """A function that notes that it ran, and fails as `failures` says."""
        self.ran.append(payload)
        if self.failures:
            raise self.failures.pop(0)

    def function(self, kind: JobKind = NOTIFY_APPROVAL, plan: RetryPlan | None = None, **fields: Any) -> JobFunction:
        """A registered function that notes that it ran."""
        fields.setdefault("run", self.run)
        fields.setdefault("deadline_seconds", 10)
        give_up = lambda _payload, reason: self.gave_up.append(reason)  # noqa: E731  # a line is enough
        return JobFunction(kind=kind, give_up=give_up, plan=plan or RetryPlan(1, 60, 3), **fields)

    def add(self, job_id: str = "job-1", payload: Mapping[str, object] = NOTICE, **seal: Any) -> bytes:
        """Hand over a job as the broker does; `seal` says in what its seal differs."""
        sealed = self.seal(job_id, payload, **seal)
        self.queue.add(sealed, job_id, 3600)
        return sealed

    def seal(self, job_id: str = "job-1", payload: Mapping[str, object] = NOTICE, **seal: Any) -> bytes:
        """A job's sealed bytes."""
        options = {"queue": NOTIFICATIONS, "job_id": job_id, "now": self.now(), **seal}
        return self.sealer.seal(options.pop("name", "notify_approval"), NOTIFY_APPROVAL.encode(payload), **options)

    def push(self, job_id: str | bytes, fields: Mapping[str, Any]) -> None:
        """Put a job on the queue as whoever owns the server can."""
        key = job_id if isinstance(job_id, bytes) else job_id.encode()
        if fields:
            mapping: dict[Any, Any] = dict(fields)
            self.redis.hset((b"rq:job:" + key).decode("latin-1"), mapping=mapping)
        self.redis.rpush(self.queue.key, key)

    def worker(self, *functions: JobFunction) -> SealedWorker:
        """A worker that runs these functions; one that notes everything if there are none."""
        registered = {each.kind.name: each for each in functions or (self.function(),)}
        return SealedWorker(self.queue, registered, self.sealer, self.reporter, self.now)

    def work(self, *functions: JobFunction, worker: SealedWorker | None = None) -> None:
        """Work until nothing is left that is due."""
        follow_rq_logs()
        with signals_kept():
            (worker or self.worker(*functions)).work(burst=True)

    def reports(self) -> list[Report]:
        """What was told to the audit, in order."""
        entries: Any = self.redis.xrange(keynames.REPORTS)
        return [decode_report(fields[keynames.MESSAGE_FIELD], report_key(JOBS_KEY)) for _, fields in entries]

    def refused(self) -> dict[str, int]:
        """How many jobs were refused, by reason."""
        found: Counter[str] = Counter()
        for each in self.reports():
            if each.event == "job_refused":
                found[each.reason or ""] += each.count or 0
        return dict(found)

    def left(self) -> list[str]:
        """What of jobs is still on the server."""
        keys: Any = self.redis.keys("rq:*")
        ours = ("rq:job:", "rq:queue:", "rq:scheduled:", "rq:results:", "rq:failed:", "rq:finished:", "rq:wip:")
        return sorted(key.decode() for key in keys if key.decode().startswith(ours))


@contextmanager
def signals_kept() -> Iterator[None]:
    """Undo what rq does to the signals of the process that it works in."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


__all__ = ["JOBS_KEY", "NOTICE", "Bench", "JobFailedError", "signals_kept"]
