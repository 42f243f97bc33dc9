"""Telling people that an approval waits: once for every target that reaches somebody who may decide."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Protocol

from broker_worker.core.errors import ConfigError
from broker_worker.core.notifications import NotificationTarget
from broker_worker.jobs.delivering import deliver
from broker_worker.jobs.functions import Doing, JobFailedError, JobFunction, RetryPlan, by_name
from broker_worker.jobs.payloads import DELIVER, NOTIFY_APPROVAL, ApprovalNotice, Delivery

PLAN = RetryPlan(first_seconds=1, most_seconds=60, tries=10)
DEADLINE_SECONDS = 25
NOBODY = "nobody"
"""What the audit calls the target where no target reaches anybody who may decide."""


class Delivered(Protocol):
    """Told what became of a notification (`worker.Reporter.notified`)."""

    def __call__(self, approval_id: str, target: str, failure: str | None = None) -> None:
        """Note it for the audit."""


class Notifying:
    """The functions of the process that reaches people.

    Args:
        targets: reads whom there is to tell; asked for every job, so that a changed file needs no restart.
        hand_over: queues one delivery under an id.
        delivered: told what became of each.
        environ: where addresses and keys may stand.
    """

    def __init__(
        self,
        targets: Callable[[], tuple[NotificationTarget, ...]],
        hand_over: Callable[[Delivery, str], None],
        delivered: Delivered,
        environ: Mapping[str, str],
    ) -> None:
        self._targets = targets
        self._hand_over = hand_over
        self._delivered = delivered
        self._environ = environ

    def functions(self) -> Mapping[str, JobFunction]:
        """What jobs of this process may name."""
        return by_name(
            JobFunction(NOTIFY_APPROVAL, self._notify, self._gave_up_notice, PLAN, DEADLINE_SECONDS),
            JobFunction(DELIVER, self._deliver, self._gave_up_delivery, PLAN, DEADLINE_SECONDS),
        )

    def _notify(self, notice: ApprovalNotice, doing: Doing) -> None:
        """Queue a delivery for each target; one that fails then holds up no other."""
        _refuse_late(notice, doing)
        reached = [target for target in self._read() if target.reaches(notice.approvers)]
        if not reached:
            raise JobFailedError("no_target", again=False)
        for target in reached:
            job_id = hashlib.blake2b(f"{doing.job_id}\x00{target.name}".encode(), digest_size=16).hexdigest()
            self._hand_over(Delivery(target=target.name, notice=notice), job_id)

    def _deliver(self, delivery: Delivery, doing: Doing) -> None:
        _refuse_late(delivery.notice, doing)
        target = next((target for target in self._read() if target.name == delivery.target), None)
        if target is None:
            raise JobFailedError("target_removed", again=False)
        deliver(target, delivery.notice, self._environ, doing.now)
        self._delivered(delivery.notice.approval_id, target.name)

    def _read(self) -> tuple[NotificationTarget, ...]:
        try:
            return self._targets()
        except (ConfigError, OSError):
            raise JobFailedError("config_rejected") from None

    def _gave_up_notice(self, notice: ApprovalNotice, reason: str) -> None:
        self._delivered(notice.approval_id, NOBODY, reason)

    def _gave_up_delivery(self, delivery: Delivery, reason: str) -> None:
        self._delivered(delivery.notice.approval_id, delivery.target, reason)


def _refuse_late(notice: ApprovalNotice, doing: Doing) -> None:
    """Nobody is told of what can no longer be decided; this also ends jobs that somebody kept and put back."""
    if doing.now >= notice.expires_at:
        raise JobFailedError("expired", again=False)
