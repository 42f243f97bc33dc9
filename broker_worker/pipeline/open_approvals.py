"""How many approvals a run may have waiting: on the queue all workers count together, and each by its own book."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from agent_sdk.wire import keynames
from broker_worker.core.approval_book import ApprovalBook
from broker_worker.core.approvals import ApprovalRequest
from broker_worker.core.configuration import Configuration
from broker_worker.ports import Admission, OpenAsk

UNPUBLISHED_MS = 10_000
"""How long an approval counts on the queue before people can see it, ms: a worker that dies in between, and will ask
nobody, holds up its run no longer than that."""


class OpenApprovals:
    """Counts what waits, on the queue and in this worker's book.

    The queue is told what the book knows whenever it is asked, so a queue that forgets counts again from there.

    Args:
        book: what people were asked and answered.
    """

    def __init__(self, book: ApprovalBook) -> None:
        self.closed: dict[str, str] = {}
        """Approvals that wait no longer and that the queue may still count: their ids, and under which key."""
        self._book = book

    async def open(
        self, requests: Iterable[ApprovalRequest], configuration: Configuration, admission: Admission, now: int
    ) -> list[ApprovalRequest]:
        """Have new requests counted by all workers.

        Args:
            requests: what people would be asked; this worker's book has it.
            configuration: the files in force.
            admission: counts on the queue.
            now: the time, ms since the epoch.

        Returns:
            Those that are too many: nobody is asked them.

        Raises:
            QueueError: if the queue did not count them; nobody may then be asked.
        """
        of_runs = [list(group) for _, group in groupby(sorted(requests, key=_run_of), _run_of)]
        asks = [self._ask(group, configuration, now) for group in of_runs]
        opened = await admission.open_approvals(asks)
        return [request for group, count in zip(of_runs, opened, strict=True) for request in group[count:]]

    def again(self, request: ApprovalRequest, configuration: Configuration, now: int) -> OpenAsk:
        """Have a request counted before it is shown to people, if it is not any more: that took too long."""
        return self._ask([request], configuration, now)

    def shown(self, request: ApprovalRequest, configuration: Configuration, now: int) -> OpenAsk:
        """Have a request counted until its end: people can see it."""
        known = {request.approval_id: request.expires_at}
        return OpenAsk(_key(request), configuration.approvers.max_open_per_run, known, (), now, now)

    def close(self, request: ApprovalRequest) -> None:
        """Have a request counted no more: it was decided, or is over, or nobody is asked."""
        self.closed[request.approval_id] = _key(request)

    def _ask(self, requests: Sequence[ApprovalRequest], configuration: Configuration, now: int) -> OpenAsk:
        """All requests are of one run."""
        first, approvers = requests[0], configuration.approvers
        waiting = self._book.waiting_of_run(first.agent_id, first.run_id, approvers, configuration.policy.digest, now)
        known = {matter.request.approval_id: matter.request.expires_at for matter in waiting if matter.is_shown}
        wanted = [request.approval_id for request in requests]
        return OpenAsk(_key(first), approvers.max_open_per_run, known, wanted, now + UNPUBLISHED_MS, now)


def _run_of(request: ApprovalRequest) -> tuple[str, str]:
    return request.agent_id, request.run_id


def _key(request: ApprovalRequest) -> str:
    return keynames.open_approvals(request.agent_id, request.run_id)
