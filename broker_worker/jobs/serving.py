"""One job process, from start to end."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from redis.exceptions import AuthenticationError, RedisError

from broker_worker.core.errors import QueueError
from broker_worker.files.notifications import load_notifications
from broker_worker.jobs.functions import JobFunction
from broker_worker.jobs.notifying import Notifying
from broker_worker.jobs.payloads import DELIVER, Delivery, JobKind
from broker_worker.jobs.queue import connect_jobs
from broker_worker.jobs.sealed_job import SealedQueue
from broker_worker.jobs.sealing import JobSealer
from broker_worker.jobs.worker import Reporter, SealedWorker, follow_rq_logs

_log = structlog.get_logger(__name__)


class JobProcess:
    """The parts of one job process.

    Args:
        url: the queue, with a user that may take jobs and report.
        jobs_key: the 32 bytes of keys/jobs.key.
        queue: `notifications` or `upstream`.
        now: the time, ms since the epoch.

    Raises:
        QueueError: if the queue cannot be reached or refuses the login.
    """

    def __init__(self, url: str, jobs_key: bytes, queue: str, now: Callable[[], int]) -> None:
        self._now = now
        self._connection = connect_jobs(url)
        try:
            self._connection.ping()
        except RedisError as error:
            raise _no_queue(error) from None
        self._sealer = JobSealer(jobs_key)
        self._queue = SealedQueue(queue, self._connection)
        self.reporter = Reporter(self._connection, jobs_key, now)

    def notifying(self, config: Path, environ: Mapping[str, str]) -> Mapping[str, JobFunction]:
        """The functions that tell people.

        Args:
            config: the folder of the operator's files; only `broker.yaml` is read.
            environ: where addresses and keys may stand.
        """
        targets = lambda: load_notifications(config)  # noqa: E731  # a line is enough
        return Notifying(targets, self._deliver, self.reporter.notified, environ).functions()

    def work(
        self,
        functions: Mapping[str, JobFunction],
        *,
        burst: bool = False,
        until_stdin_ends: bool = False,
        each_turn: Callable[[], None] | None = None,
    ) -> None:
        """Do jobs until SIGTERM or SIGINT, finishing the one at hand.

        Args:
            functions: what jobs may name.
            burst: end when nothing is due.
            until_stdin_ends: end as well when standard input does: when a supervisor that holds it dies.
            each_turn: called about once a second, between jobs.

        Raises:
            QueueError: if the queue went away.
        """
        follow_rq_logs()
        if until_stdin_ends:
            threading.Thread(target=_end_with_stdin, name="supervisor-watch", daemon=True).start()
        try:
            worker = SealedWorker(self._queue, functions, self._sealer, self.reporter, self._now, each_turn)
            _log.info("jobs_ready", queue=self._queue.name, functions=sorted(functions))
            worker.work(burst=burst)
        except RedisError as error:
            raise _no_queue(error) from None
        finally:
            self._connection.close()
        _log.info("jobs_stopped", queue=self._queue.name)

    def hand_over(self, kind: JobKind, payload: Mapping[str, object], job_id: str) -> None:
        """Hand a job over to this very queue; one that stands there already under its id stays as it is."""
        sealed = self._sealer.seal(
            kind.name, kind.encode(payload), queue=self._queue.name, job_id=job_id, now=self._now()
        )
        self._queue.add(sealed, job_id, kind.keep_seconds)

    def _deliver(self, delivery: Delivery, job_id: str) -> None:
        self.hand_over(DELIVER, {"target": delivery.target, "notice": delivery.notice}, job_id)


def _no_queue(error: RedisError) -> QueueError:
    if isinstance(error, AuthenticationError) or isinstance(error.__cause__, AuthenticationError):
        return QueueError("the queue refuses the login of jobs", hint="compare its users with `secret-broker acl`")
    return QueueError("the queue cannot be reached", hint="is it running? `secret-broker doctor` tells more")


def _end_with_stdin() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):  # unbuffered: a reader that waits must not hold a lock when the process ends
            pass
    os.kill(os.getpid(), signal.SIGTERM)
