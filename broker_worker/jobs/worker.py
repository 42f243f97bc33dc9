"""rq's worker, which here runs registered functions of sealed jobs, in its own process, and nothing else.

No commands are taken from the queue (rq's workers listen on a channel), no maintenance of rq's runs (it calls what
unauthenticated fields name), and nothing that a job raises is stored.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.timeouts import JobTimeoutException
from rq.worker import WorkerStatus
from rq.worker_registration import clean_worker_registry

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import WireError
from broker_worker.jobs.functions import Doing, JobFailedError, JobFunction
from broker_worker.jobs.reports import Report, encode_report, make_report, report_key
from broker_worker.jobs.sealed_job import MAX_ATTEMPTS, SealedJob, SealedQueue
from broker_worker.jobs.sealing import JobSealer, RefusingSerializer

_DONE_KEPT = 16_384
_MAX_REPORTS = 10_000
_LEEWAY_SECONDS = 30
_REPORT_MS = 1_000
"""Refused jobs are reported that often, as a number: a flood of them makes no flood of records."""
_log = structlog.get_logger(__name__)


class Reporter:
    """Writes reports for the audit.

    Args:
        connection: the queue.
        jobs_key: the 32 bytes of keys/jobs.key.
        now: the time, ms since the epoch.
    """

    def __init__(self, connection: "Redis", jobs_key: bytes, now: Callable[[], int]) -> None:
        self._connection = connection
        self._key = report_key(jobs_key)
        self._now = now

    def notified(self, approval_id: str, target: str, failure: str | None = None) -> None:
        """A notification was delivered, or given up for a reason."""
        outcome = "granted" if failure is None else "refused"
        reason = target if failure is None else f"{target}: {failure}"
        self._write(make_report("notified", self._now(), approval_id=approval_id, outcome=outcome, reason=reason))

    def refused(self, reason: str, count: int) -> None:
        """So many jobs were refused for a reason."""
        self._write(make_report("job_refused", self._now(), reason=reason, count=count))

    def _write(self, report: Report) -> None:
        entry: dict[Any, Any] = {keynames.MESSAGE_FIELD: encode_report(report, self._key)}
        self._connection.xadd(keynames.REPORTS, entry, maxlen=_MAX_REPORTS, approximate=True)


class SealedWorker(SimpleWorker):
    """Does the jobs of one queue until it is told to stop.

    Args:
        queue: the queue.
        functions: what may be run, by name.
        sealer: opens jobs.
        reporter: told of jobs that are refused.
        now: the time, ms since the epoch.
        each_turn: called about once a second, between jobs.
    """

    def __init__(
        self,
        queue: SealedQueue,
        functions: Mapping[str, JobFunction],
        sealer: JobSealer,
        reporter: Reporter,
        now: Callable[[], int],
        each_turn: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            [queue],
            connection=queue.connection,
            job_class=SealedJob,
            queue_class=SealedQueue,
            serializer=RefusingSerializer,
            disable_default_exception_handler=True,
            log_job_description=False,
            maintenance_interval=0,
        )
        self._queue = queue
        self._functions = functions
        self._sealer = sealer
        self._reporter = reporter
        self._now = now
        self._done: OrderedDict[str, None] = OrderedDict()
        self._refused: Counter[str] = Counter()
        self._report_at = 0
        self._each_turn = each_turn

    @property
    def dequeue_timeout(self) -> int:
        """For how long to wait for a job, seconds; between two waits it is looked for jobs that are due."""
        return 1

    def bootstrap(self, *_logging: object) -> None:
        """Register and begin; rq would also subscribe to a channel of commands and set up its own logs."""
        self.register_birth()  # type: ignore[no-untyped-call]  # rq left it untyped
        self.set_state(WorkerStatus.STARTED)

    def run_maintenance_tasks(self) -> None:
        """Bring back what is due, and report what was refused since the last time."""
        self._queue.bring_back(self._now() / 1000)
        clean_worker_registry(self._queue)
        if self._each_turn is not None:
            self._each_turn()
        if self._now() >= self._report_at:
            self._report_refused()
            self._report_at = self._now() + _REPORT_MS

    def teardown(self) -> None:
        """Report what is left and sign off; a queue that is away cannot be told."""
        try:
            self._report_refused()
            super().teardown()  # type: ignore[no-untyped-call]  # rq left it untyped
        except RedisError as error:
            _log.warning("jobs_not_signed_off", error=type(error).__name__)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Do a job, or refuse it."""
        self.set_state(WorkerStatus.BUSY)
        try:
            reason = self._serve(job)
            if reason is not None:
                self._refuse(job, reason)
        finally:
            self.set_state(WorkerStatus.IDLE)

    def _serve(self, job: Job) -> str | None:
        """Do a job; why not, if it is none that the broker wrote for this worker."""
        try:
            call = self._sealer.open(job.data, queue=self._queue.name, job_id=job.id)
            function = self._functions.get(call.name)
            if function is None:
                return "unknown_function"
            payload = function.kind.decode(call.payload)
        except WireError as error:
            return error.reason
        if job.id in self._done:
            return "replayed"
        self._queue.hold(job, function.deadline_seconds + _LEEWAY_SECONDS, self._now() / 1000)
        failure = self._attempt(function, payload, Doing(job.id, self._now()))
        if failure is None or not self._tries_again(function, job, failure):
            if failure is not None:
                function.give_up(payload, failure.reason)
            self._finish(job)
        return None

    def _attempt(self, function: JobFunction, payload: object, doing: Doing) -> JobFailedError | None:
        try:
            with self.death_penalty_class(function.deadline_seconds, JobTimeoutException):
                function.run(payload, doing)
        except JobFailedError as error:
            return error
        except JobTimeoutException:
            return JobFailedError("deadline")
        except RedisError:
            raise  # the queue is away: the process ends, and the job comes back
        except Exception as error:  # noqa: BLE001  # a defect in one kind of job must not stop the others
            _log.error("job_defect", job=function.kind.name, error=type(error).__name__)
            return JobFailedError("defect")
        return None

    def _tries_again(self, function: JobFunction, job: Job, failure: JobFailedError) -> bool:
        failures = min((job.number_of_retries or 0) + 1, MAX_ATTEMPTS)
        pause = function.plan.pause(failures) if failure.again else None
        if pause is None:
            _log.error("job_given_up", job=function.kind.name, job_id=job.id, reason=failure.reason, tries=failures)
            return False
        pause = pause if failure.after is None else min(max(pause, failure.after), function.plan.most_seconds)
        self._queue.again(job, failures, pause, self._now() / 1000)
        _log.warning("job_failed", job=function.kind.name, job_id=job.id, reason=failure.reason, again_in=pause)
        return True

    def _finish(self, job: Job) -> None:
        self._done[job.id] = None
        if len(self._done) > _DONE_KEPT:
            self._done.popitem(last=False)
        self._queue.remove_all(job.id)

    def _refuse(self, job: Job, reason: str) -> None:
        _log.error("job_refused", queue=self._queue.name, reason=reason)
        self._refused[reason] += 1
        self._queue.remove_all(job.id)

    def _report_refused(self) -> None:
        self._refused["malformed"] += self._queue.malformed
        self._queue.malformed = 0
        for reason, count in list(self._refused.items()):
            if count:
                self._reporter.refused(reason, count)
            del self._refused[reason]


class StructuredHandler(logging.Handler):
    """Passes rq's own log lines on to ours, without the text of any exception."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one line."""
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        fields = {"error": error} if error else {}
        _log.log(record.levelno, "rq", message=record.getMessage(), **fields)


def follow_rq_logs() -> None:
    """Route rq's logs through ours; what it says of every job is left out."""
    logger = logging.getLogger("rq")
    logger.handlers[:] = [StructuredHandler()]
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    for name in ("rq.worker", "rq.job", "rq.queue"):
        logging.getLogger(name).setLevel(logging.NOTSET)
