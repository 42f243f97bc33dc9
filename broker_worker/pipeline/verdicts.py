"""What the queue says of a request, and what this worker knows better: a queue that forgets is noticed."""

from collections.abc import Sequence

from agent_sdk.wire.audit import AuditRecord
from agent_sdk.wire.errors import Code
from broker_worker.core.backstop import Backstop
from broker_worker.pipeline.batch import Ask, Case
from broker_worker.pipeline.releasing import REPLAY, Releaser
from broker_worker.ports import AdmissionAsk, Verdict


class Verdicts:
    """Acts on admissions.

    Args:
        releaser: notes what the audit must be told.
    """

    def __init__(self, releaser: Releaser) -> None:
        self._releaser = releaser
        self._backstop = Backstop()

    def apply(
        self, ask: Ask, cases: Sequence[Case], mark: AdmissionAsk, verdict: Verdict, noted: list[AuditRecord], now: int
    ) -> bool:
        """Act on what the queue says of an ask and of its cases, and on what this worker knows better.

        Returns:
            Whether everything was admitted.
        """
        if verdict.replay:
            ask.refuse(Code.INVALID, REPLAY)
            return False
        if self._backstop.is_replay((mark.replay_key, mark.request_id), mark.entry_id):
            ask.refuse(Code.INVALID, REPLAY)
            noted += self._releaser.note_distrust(ask, "replay_mark_lost", now)
            return False
        if verdict.wait_us:
            ask.refuse(Code.RATE_LIMITED, "over_limit", -(-verdict.wait_us // 1000))
            return False
        admitted = True
        counted = [(limit.key, limit.rate, mark.count) for limit in mark.limits]
        for case, wait_us, limits in zip(cases, verdict.name_waits_us, mark.name_limits, strict=True):
            if wait_us:
                ask.draft, admitted = None, False
                case.refuse(Code.RATE_LIMITED, "over_limit", -(-wait_us // 1000))
            else:
                counted += [(limit.key, limit.rate, 1) for limit in limits]
        wait_us = self._backstop.count(counted, now * 1000)
        if wait_us:
            ask.refuse(Code.RATE_LIMITED, "over_limit", -(-wait_us // 1000))
            noted += self._releaser.note_distrust(ask, "limit_state_lost", now)
            return False
        return admitted
