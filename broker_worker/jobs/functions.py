"""The functions that jobs may name: what each does, how long it may take, and how often it is tried."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from broker_worker.core.errors import BrokerError
from broker_worker.jobs.payloads import JobKind


class JobFailedError(BrokerError):
    """A job that could not be done.

    Args:
        reason: why, as a slug for the log and the audit.
        again: whether trying again can help.
        after: when, in seconds from now; None for the plan's own pause.
    """

    code = "job_failed"

    def __init__(self, reason: str, *, again: bool = True, after: float | None = None) -> None:
        super().__init__(f"the job failed: {reason}")
        self.reason = reason
        self.again = again
        self.after = after


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """How often a job is tried, with pauses that double.

    Args:
        first_seconds: the first pause.
        most_seconds: the longest pause.
        tries: how often at most; None for until it succeeded.
    """

    first_seconds: float
    most_seconds: float
    tries: int | None

    def pause(self, failures: int) -> float | None:
        """The pause after so many failures, at least one, in seconds; None if that was the last try."""
        if self.tries is not None and failures >= self.tries:
            return None
        doublings = min(failures - 1, 32)  # more would overflow nothing and change nothing
        return min(self.first_seconds * 2.0**doublings, self.most_seconds)


@dataclass(frozen=True, slots=True)
class Doing:
    """What a function may know of the job beside its payload.

    Args:
        job_id: its id on the queue.
        now: the time, ms since the epoch.
    """

    job_id: str
    now: int


@dataclass(frozen=True, slots=True)
class JobFunction:
    """A function that jobs of one kind are done with.

    Args:
        kind: which.
        run: does it once, with the payload; raises `JobFailedError` if that failed.
        give_up: told the payload and the reason when it is not tried again.
        plan: how often it is tried.
        deadline_seconds: how long one try may take, whole seconds.
    """

    kind: JobKind
    run: Callable[[Any, Doing], None]
    give_up: Callable[[Any, str], None]
    plan: RetryPlan
    deadline_seconds: int


def by_name(*functions: JobFunction) -> Mapping[str, JobFunction]:
    """The functions under the names that jobs call them by."""
    return {function.kind.name: function for function in functions}
