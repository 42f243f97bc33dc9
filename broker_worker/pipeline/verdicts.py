"""What the queue says of a request, and what this worker knows better: a queue that forgets is noticed."""

from collections.abc import Iterator, Sequence

from agent_sdk.wire.audit import AuditRecord
from agent_sdk.wire.errors import Code
from broker_worker.core.backstop import Backstop
from broker_worker.core.limits import Rate
from broker_worker.pipeline.batch import Ask, Case
from broker_worker.pipeline.releasing import FLOOD, REPLAY, Releaser
from broker_worker.ports import AdmissionAsk, Limit, Verdict


class Verdicts:
    """Acts on admissions.

    Args:
        releaser: notes what the audit must be told.
    """

    def __init__(self, releaser: Releaser) -> None:
        self._releaser = releaser
        self._backstop = Backstop()

    def tick(self, now: int) -> None:
        """Learn the time, ms since the epoch, also when nothing is asked."""
        self._backstop.going_on(now * 1000)

    def all_hold(self, marks: Sequence[AdmissionAsk], verdicts: Sequence[Verdict], now: int) -> bool:
        """Whether the queue admitted everything and this worker knows nothing better; all is counted then.

        What nearly always comes, and cheaper to find out for many at once. Otherwise `apply` says of each what to do.
        """
        if len(verdicts) != len(marks):
            return False
        distinct = {id(each): each for each in verdicts}
        if not all(verdict.is_clean for verdict in distinct.values()):
            return False
        is_replay = self._backstop.is_replay
        if any(is_replay((mark.replay_key, mark.request_id), mark.entry_id) for mark in marks):
            return False
        return self._backstop.count_all(list(_counted(marks)), now * 1000)

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
        if verdict.dropped:
            ask.refuse(Code.RATE_LIMITED, FLOOD)
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


def _counted(marks: Sequence[AdmissionAsk]) -> Iterator[tuple[str, Rate, int]]:
    """How many names of a batch count against each limit, the lists of limits that are shared taken together."""
    shared: dict[int, tuple[Limit, ...]] = {}
    counts: dict[int, int] = {}
    for mark in marks:
        place = id(mark.limits)
        shared[place] = mark.limits
        counts[place] = counts.get(place, 0) + mark.count
        for limits in mark.name_limits:
            place = id(limits)
            shared[place] = limits
            counts[place] = counts.get(place, 0) + 1
    for place, limits in shared.items():
        for limit in limits:
            yield limit.key, limit.rate, counts[place]
