"""Rotating what is due, until it is done or given up; a rotation that waits for old leases comes back for the rest."""

from collections.abc import Callable, Mapping

from broker_worker.core.errors import BrokerError
from broker_worker.jobs.functions import Doing, JobFailedError, JobFunction, RetryPlan, by_name
from broker_worker.jobs.payloads import ROTATE, DueRotation

PLAN = RetryPlan(first_seconds=10, most_seconds=3600, tries=None)
"""A vault that is away is asked again, for as long as it takes; what is given up is over, and no job comes back."""
DEADLINE_SECONDS = 180


class Rotating:
    """The function of the process that rotates.

    Args:
        rotate: goes on with the rotation of a name; returns for how many seconds to wait for the rest, None when it is
            over or was given up.
    """

    def __init__(self, rotate: Callable[[str], float | None]) -> None:
        self._run = rotate

    def functions(self) -> Mapping[str, JobFunction]:
        """What jobs of this process may name."""
        return by_name(JobFunction(ROTATE, self._rotate, _never_given_up, PLAN, DEADLINE_SECONDS))

    def _rotate(self, due: DueRotation, _doing: Doing) -> None:
        failed = None
        try:
            seconds = self._run(due.name)
            failed = None if seconds is None else JobFailedError("leases_open", after=seconds)
        except BrokerError as error:
            failed = JobFailedError(error.code)
        if failed is not None:
            raise failed


def _never_given_up(_payload: object, _reason: str) -> None:
    """Nothing to tell: this plan has no last try."""
