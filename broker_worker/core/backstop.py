"""What one worker remembers by itself, so that a queue that forgets or lies cannot lift a limit or a replay mark.

The queue keeps replay marks and limits for all workers, but whoever owns the queue can delete them. Each worker
therefore counts what it answered itself. It can only be stricter than the truth by what other workers answered, so
whatever it refuses is rightly refused, and a disagreement is evidence (audit event `queue_distrusted`).
"""

from collections.abc import Iterable, Sequence

from broker_worker.core.limits import Rate

SLACK_US = 1_000_000
"""How far this worker's clock and the queue's may drift apart within a limit, microseconds."""


class Backstop:
    """A bounded memory of requests and rates of this process.

    Args:
        generation: how many requests, and how many limits, are remembered at least.
    """

    def __init__(self, generation: int = 32_768) -> None:
        self._generation = generation
        self._seen: dict[tuple[str, bytes], bytes] = {}
        self._seen_before: dict[tuple[str, bytes], bytes] = {}
        self._tats: dict[str, int] = {}
        self._latest_us = 0
        self._set_back_us = 0

    def is_replay(self, mark: tuple[str, bytes], entry_id: bytes) -> bool:
        """Remember that a request came in a stream entry; True if it came in another one before.

        Args:
            mark: where the queue keeps its replay mark, and the request's id.
            entry_id: the stream entry.
        """
        known = self._seen.get(mark) or self._seen_before.get(mark)
        if known is not None:
            return known != entry_id
        if len(self._seen) >= self._generation:
            self._seen_before, self._seen = self._seen, {}
        self._seen[mark] = entry_id
        return False

    def count(self, limits: Iterable[tuple[str, Rate, int]], now_us: int) -> int:
        """Count a request against limits that the queue says it is within.

        Args:
            limits: key name, rate and how many names count against it.
            now_us: what the clock says at this moment, microseconds.

        Returns:
            0, or the microseconds to wait if a limit is exceeded by more than clocks can explain.
        """
        now_us = self.going_on(now_us)
        wait, tats = 0, self._tats
        for key, rate, names in limits:
            before = tats.get(key, 0)
            new = (max(now_us, before)) + rate.interval * names
            excess = new - now_us - rate.tolerance - SLACK_US
            if excess > 0:
                wait = max(wait, excess)
            else:
                tats[key] = new
        self._forget_over(now_us)
        return wait

    def count_all(self, limits: Sequence[tuple[str, Rate, int]], now_us: int) -> bool:
        """Count several requests at once, if all of them are within every limit; else nothing is counted.

        Args:
            limits: as for `count`, of all of them together: how many names count against each. One key may come with
                several rates; all are then held against what all of them count.
            now_us: what the clock says at this moment, microseconds.

        Returns:
            Whether they were counted. If not, `count` says of each whether it is within its limits.
        """
        now_us = self.going_on(now_us)
        tats = dict[str, int]()
        for key, rate, names in limits:
            tats[key] = max(now_us, tats.get(key) or self._tats.get(key, 0)) + rate.interval * names
        latest = now_us + SLACK_US
        if any(tats[key] > latest + rate.tolerance for key, rate, _ in limits):
            return False
        self._tats.update(tats)
        self._forget_over(now_us)
        return True

    def going_on(self, now_us: int) -> int:
        """The time to count by: it goes on when the clock is set back, as on the queue.

        Args:
            now_us: what the clock says at this moment, microseconds. It is to be told often; a time of some moments ago
                would count as a clock that was set back.
        """
        now_us += self._set_back_us
        if now_us < self._latest_us - SLACK_US:
            self._set_back_us += self._latest_us - now_us
            now_us = self._latest_us
        self._latest_us = max(self._latest_us, now_us)
        return now_us

    def _forget_over(self, now_us: int) -> None:
        if len(self._tats) > self._generation:
            self._tats = {key: tat for key, tat in self._tats.items() if tat > now_us}
