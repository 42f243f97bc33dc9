"""rq's job and queue, without anything that would trust what stands on the queue.

rq keeps a job as a hash. Its own reader inflates and unpickles fields of it, imports callbacks that they name and
calls URLs that they list. Here a job is its sealed bytes and a few figures of book-keeping; every other field is left
unread and is never written.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

from redis import Redis
from redis.exceptions import ResponseError
from rq import Queue
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import JOB_ID_PATTERN, Job, JobStatus

from broker_worker.jobs.sealing import MAX_SEALED, RefusingSerializer

MAX_ATTEMPTS: Final = 1_000_000
MAX_QUEUED: Final = 10_000
"""How many jobs that may be lost wait at most; the oldest go first."""
_DATA, _ATTEMPTS = b"data", b"number_of_retries"
_MAX_ID = 64
_TAKEN_SECONDS = 60
"""A job that was taken is begun at once; one that is not for so long was taken by a process that died."""
_KEPT = ("created_at", "enqueued_at", "origin", "status", "number_of_retries")
_MOVE = """
if redis.call('zrem', KEYS[1], ARGV[1]) == 1 then redis.call('rpush', KEYS[2], ARGV[1]) end
"""
_PUT_BACK = """
if redis.call('lrem', KEYS[1], 1, ARGV[1]) > 0 then redis.call('rpush', KEYS[2], ARGV[1]) end
"""


class NotAJobError(NoSuchJobError):
    """A hash that holds no sealed bytes."""


class SealedJob(Job):
    """A job whose content only `JobSealer` reads."""

    def __init__(self, id: str | None = None, connection: "Redis | None" = None, serializer: object = None) -> None:  # noqa: A002  # rq's signature
        super().__init__(id=id, connection=connection, serializer=RefusingSerializer)
        self.description = ""

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Take the sealed bytes and how often the job was tried; nothing else that the hash says.

        Raises:
            NotAJobError: if there are no such bytes.
        """
        if _DATA not in raw_data:
            raise NotAJobError("the hash holds no job")
        self.data = raw_data[_DATA][: MAX_SEALED + 1]
        attempts = raw_data.get(_ATTEMPTS, b"0")[:8]
        self.number_of_retries = min(int(attempts), MAX_ATTEMPTS) if attempts.isdigit() else 0

    def to_dict(self, include_meta: bool = True, include_result: bool = True) -> dict[str, Any]:
        """What is written: the sealed bytes and book-keeping; no result, no exception, no description."""
        self._func_name, self._instance, self._args, self._kwargs = "", None, (), {}
        fields = {name: value for name, value in super().to_dict(False, False).items() if name in _KEPT}
        return {**fields, "data": self.data}

    def _deserialize_data(self) -> NoReturn:
        raise DeserializationError("a sealed job is opened by its worker, not by rq")

    def perform(self) -> NoReturn:
        """Refuse: what runs is decided by `SealedWorker`."""
        self._deserialize_data()


class SealedQueue(Queue):
    """A queue of sealed jobs, each done at least once.

    A job that is being done stands among the scheduled ones, due when it should long be over: if its process dies, it
    comes back by itself.
    """

    job_class = SealedJob

    def __init__(self, name: str, connection: "Redis", **_options: object) -> None:
        super().__init__(name, connection=connection, job_class=SealedJob, serializer=RefusingSerializer)
        self._move = connection.register_script(_MOVE)
        self._put_back = connection.register_script(_PUT_BACK)
        self._scheduled: str = self.scheduled_job_registry.key
        self._taken: dict[bytes, float] = {}
        self.malformed = 0
        """How many entries were refused because they could not be a job; for the worker to report and reset."""

    def add(self, sealed: bytes, job_id: str, keep_seconds: int | None) -> None:
        """Hand over a job; one that stands there already under this id stays as it is.

        Args:
            sealed: from `JobSealer.seal`, for this queue and id.
            job_id: letters, digits, `-` and `_`.
            keep_seconds: for how long it stays if nobody does it; None for ever.
        """
        job = SealedJob(job_id, self.connection)
        job.data, job.ttl = sealed, keep_seconds
        if not self.connection.exists(job.key):
            self.enqueue_job(job)
            if keep_seconds is not None:  # where nobody serves the queue, hashes end by themselves and ids do not
                self.connection.ltrim(self.key, -MAX_QUEUED, -1)

    @classmethod
    def dequeue_any(
        cls, queues: Iterable[Queue], timeout: int | None, connection: "Redis", *_options: Any, **_named: Any
    ) -> "tuple[Job, Queue] | None":
        """The next job of the one queue that there is; None if there is none and `timeout` is None.

        Raises:
            DequeueTimeout: if none came within `timeout` seconds.
        """
        (queue,) = queues
        assert isinstance(queue, cls)
        while True:
            found = cls.lmove(connection, queue.key, timeout)
            if found is None:
                return None
            job = queue.take(found[1])
            if job is not None:
                return job, queue

    def take(self, raw_id: bytes) -> SealedJob | None:
        """The job with an id that stood on the queue; None if it is gone, or nothing that could be a job."""
        job_id = raw_id.decode("ascii", "replace")
        try:
            if len(job_id) > _MAX_ID or JOB_ID_PATTERN.fullmatch(job_id) is None:
                raise ValueError("not an id of ours")  # noqa: TRY301  # it ends like every other thing that is no job
            return SealedJob.fetch(job_id, connection=self.connection)  # type: ignore[return-value]  # rq says `Job`
        except (NotAJobError, ValueError, ResponseError):
            self.malformed += 1
        except NoSuchJobError:
            pass  # done or given up meanwhile
        self.remove_all(raw_id)
        return None

    def hold(self, job: Job, seconds: float, now: float) -> None:
        """Keep a job out of sight while it is done; it comes back after `seconds` unless it ends before."""
        with self.connection.pipeline() as pipeline:
            pipeline.zadd(self._scheduled, {job.id: now + seconds})
            pipeline.lrem(self.intermediate_queue_key, 0, job.id)
            pipeline.execute()

    def again(self, job: Job, attempts: int, seconds: float, now: float) -> None:
        """Try a job again after `seconds`."""
        with self.connection.pipeline() as pipeline:
            fields: dict[Any, Any] = {_ATTEMPTS: attempts, "status": JobStatus.SCHEDULED.value}
            pipeline.hset(job.key, mapping=fields)
            pipeline.zadd(self._scheduled, {job.id: now + seconds})
            pipeline.execute()

    def remove_all(self, job_id: str | bytes) -> None:
        """Remove everything of a job: it is done, given up or refused."""
        with self.connection.pipeline() as pipeline:
            pipeline.delete(SealedJob.redis_job_namespace_prefix.encode() + _bytes(job_id))
            pipeline.zrem(self._scheduled, job_id)
            pipeline.lrem(self.intermediate_queue_key, 0, _bytes(job_id))  # type: ignore[arg-type]  # bytes will do
            pipeline.execute()

    def bring_back(self, now: float) -> None:
        """Queue what is due, and what a process took that died before it began."""
        due: Any = self.connection.zrangebyscore(self._scheduled, "-inf", now, start=0, num=100)
        for raw_id in due:
            self._move(keys=[self._scheduled, self.key], args=[raw_id])
        taken: Any = self.connection.lrange(self.intermediate_queue_key, 0, 99)
        self._taken = {raw_id: self._taken.get(raw_id, now) for raw_id in taken}
        for raw_id, since in self._taken.items():
            if now - since > _TAKEN_SECONDS:
                self._put_back(keys=[self.intermediate_queue_key, self.key], args=[raw_id])


def _bytes(job_id: str | bytes) -> bytes:
    return job_id.encode() if isinstance(job_id, str) else job_id
