"""Every call becomes an audit event of the broker. Where that fails for some seconds, no more calls are made."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import structlog

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import NotGranted, RateLimited, Unavailable
from agent_sdk.wire.errors import SecretBrokerError
from agent_sdk.wire.messages import MAX_CALLS, Call, Subject
from broker_worker.core.limits import Rate
from broker_worker.egress.limits import Buckets

GATHER_SECONDS = 0.2
"""How long calls of a run are gathered for one report."""
PATIENCE_SECONDS = 3.0
"""For how long calls go on while reports fail."""
REPORTS = Rate(480, 60_000, 40)
"""How often it is reported, all runs together: less than a run may ask by default, so that questions fit in as well."""
_AGAIN_SECONDS = 0.5
_REPORT_SECONDS = 3.0
_MAX_WAITING = 8192
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Batch:
    """Calls of one run that are not recorded yet. `full` is set when they need not be gathered any longer."""

    subject: Subject
    calls: deque[Call] = field(default_factory=deque)
    full: asyncio.Event = field(default_factory=asyncio.Event)


class Recorder:
    """Reports calls to the broker, a run's together.

    Args:
        client: who is to be told now.
    """

    def __init__(self, client: Callable[[], AsyncSecretBroker]) -> None:
        self._client = client
        self._batches: dict[str, _Batch] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waiting = 0
        self._failing_since: float | None = None
        self._ending = False
        self._reports = Buckets(lambda: time.monotonic_ns() // 1000)

    @property
    def keeps_up(self) -> bool:
        """Whether calls are being recorded: without a record there is no use."""
        if self._waiting >= _MAX_WAITING:
            return False
        since = self._failing_since
        return since is None or asyncio.get_running_loop().time() - since < PATIENCE_SECONDS

    def note(self, subject: Subject, call: Call) -> None:
        """Have a call recorded.

        Args:
            subject: whose it was.
            call: what happened.
        """
        batch = self._batches.get(subject.token)
        if batch is None:
            batch = self._batches[subject.token] = _Batch(Subject(subject.token))  # a proof was for the call alone
            self._tasks[subject.token] = asyncio.create_task(self._send(subject.token, batch))
        batch.calls.append(call)
        self._waiting += 1
        if len(batch.calls) >= MAX_CALLS or self._ending:
            batch.full.set()

    async def close(self, seconds: float) -> None:
        """Record what waits, for so long at most."""
        self._ending = True
        for batch in self._batches.values():
            batch.full.set()
        tasks = list(self._tasks.values())
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=seconds)
            for task in left:
                task.cancel()
        if self._waiting:
            _log.error("egress_calls_not_recorded", calls=self._waiting, reason="the proxy ended before")

    async def _send(self, key: str, batch: _Batch) -> None:
        """Report until nothing waits, then be gone."""
        try:
            async with asyncio.timeout(GATHER_SECONDS):
                await batch.full.wait()
        except TimeoutError:
            pass  # gathered for long enough
        while batch.calls:
            if not self._ending and (wait := self._reports.take("all", REPORTS)):
                await asyncio.sleep(wait / 1e6)  # meanwhile more calls come into this report
                continue
            calls = tuple(islice(batch.calls, MAX_CALLS))
            if await self._report(batch.subject, calls):
                for _ in calls:
                    batch.calls.popleft()
                self._waiting -= len(calls)
            else:
                await asyncio.sleep(_AGAIN_SECONDS)
        del self._batches[key], self._tasks[key]

    async def _report(self, subject: Subject, calls: tuple[Call, ...]) -> bool:
        """Report once; False if that has to be done again."""
        begun = asyncio.get_running_loop().time()
        try:
            await self._client().report(subject, calls, timeout=_REPORT_SECONDS)
        except (Unavailable, RateLimited) as error:
            self._failed(begun, str(error.code))
            return False
        except NotGranted as error:  # such as a run whose token ended long ago; it would be refused again
            # A call that never left may have been anybody's, with a made-up token.
            log = _log.error if any(call.status is not None for call in calls) else _log.info
            log("egress_calls_not_recorded", calls=len(calls), reason=str(error.code))
            return True
        except SecretBrokerError as error:  # the client was closed; there is another one, or we are ending
            self._failed(begun, type(error).__name__)
            return False
        if self._failing_since is not None:
            _log.info("egress_recording_again")
            self._failing_since = None
        return True

    def _failed(self, begun: float, reason: str) -> None:
        if self._failing_since is None:
            self._failing_since = begun
            _log.error(
                "egress_not_recording", reason=reason, hint=f"calls are refused if it lasts {PATIENCE_SECONDS:g} s"
            )
