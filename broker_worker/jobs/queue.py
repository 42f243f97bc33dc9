"""Handing over jobs: sealed at once, queued by a thread of its own, so that no request ever waits for it."""

import contextlib
import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from agent_sdk.wire.errors import WireError
from broker_worker.jobs.payloads import KINDS
from broker_worker.jobs.sealed_job import SealedQueue
from broker_worker.jobs.sealing import JobSealer

MAX_WAITING = 1_000
"""How many jobs wait in memory while the queue is away; more are dropped, and logged."""
_PAUSES = (0.1, 0.5, 2.0, 5.0)
_SOCKET_SECONDS = 30.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Sealed:
    queue: str
    job_id: str
    sealed: bytes
    keep_seconds: int | None


def connect_jobs(url: str) -> "Redis":
    """A connection that repeats no write whose reply was lost; a URL may hold a password and is not logged."""
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=_SOCKET_SECONDS)


class RqJobQueue:
    """Implements `ports.JobQueue` with rq.

    Args:
        url: the queue, with a user that may write jobs.
        jobs_key: the 32 bytes of keys/jobs.key.
        now: the time, ms since the epoch.
    """

    def __init__(self, url: str, jobs_key: bytes, now: Callable[[], int]) -> None:
        self._connection = connect_jobs(url)
        self._sealer = JobSealer(jobs_key)
        self._now = now
        self._waiting: queue.Queue[_Sealed | None] = queue.Queue(MAX_WAITING)
        self._queues: dict[str, SealedQueue] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._hand_over_all, name="job-queue", daemon=True)
        self._thread.start()

    def enqueue(self, job: str, payload: Mapping[str, object]) -> None:
        """Hand over a job; never waits, never raises (`ports.JobQueue`)."""
        kind = KINDS.get(job)
        if kind is None:
            _log.error("job_dropped", job=job, reason="unknown_job")
            return
        try:
            job_id, body = secrets.token_hex(16), kind.encode(payload)
            sealed = self._sealer.seal(job, body, queue=kind.queue, job_id=job_id, now=self._now())
            self._waiting.put_nowait(_Sealed(kind.queue, job_id, sealed, kind.keep_seconds))
        except WireError as error:
            _log.error("job_dropped", job=job, reason=error.reason, error=str(error))
        except queue.Full:
            _log.error("job_dropped", job=job, reason="too_many_wait", waiting=MAX_WAITING)

    def close(self, seconds: float = 5.0) -> None:
        """Hand over what waits, for at most so many seconds, and end; what then still waits is dropped and logged."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(seconds)
        self._ending.set()
        self._thread.join(1.0)
        left = sum(item is not None for item in list(self._waiting.queue))
        if left or self._thread.is_alive():
            _log.error("job_dropped", reason="the queue was away until the end", count=max(left, 1))
        self._connection.close()

    def _hand_over_all(self) -> None:
        while not self._ending.is_set():
            try:
                item = self._waiting.get(timeout=0.5)
            except queue.Empty:
                continue
            if item is None:
                return
            self._hand_over(item)

    def _hand_over(self, item: _Sealed) -> None:
        """Queue one job, trying until it worked: under the same id, a repetition changes nothing."""
        failures = 0
        while not self._ending.is_set():
            try:
                found = self._queues.get(item.queue)
                if found is None:
                    found = self._queues[item.queue] = SealedQueue(item.queue, self._connection)
                found.add(item.sealed, item.job_id, item.keep_seconds)
            except RedisError as error:
                pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
                failures += 1
                _log.warning("job_waits", error=type(error).__name__, again_in=pause)
                self._ending.wait(pause)
            else:
                return
