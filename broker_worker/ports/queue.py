"""What the broker needs of the queue: entries and answers, marks and limits, and jobs that may be late."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from broker_worker.core.limits import Rate


class Entry(Struct, gc=False):
    """One entry of an agent's request stream, as read.

    Args:
        agent_id: whose stream it is; the only writer that the queue's ACL admits.
        entry_id: the stream's id of it.
        raw: the envelope.
        received_us: when it was read, on the monotonic clock.
        fault: why it is not even looked at, if so: `not_one_field`, `delivered_too_often`.
    """

    agent_id: str
    entry_id: bytes
    raw: bytes
    received_us: int
    fault: str | None = None


class Answer(Struct, gc=False):
    """What is to be done about an entry: send a sealed reply where there is somebody to answer, and acknowledge.

    Args:
        entry: the entry.
        reply_stream: where the envelope goes.
        envelope: the sealed reply; None if nobody is answered.
    """

    entry: Entry
    reply_stream: str = ""
    envelope: bytes | None = None


@dataclass(slots=True)
class Limit:
    """A limit that something counts against: the queue key that keeps its state, and the rate."""

    key: str
    rate: Rate


class AdmissionAsk(Struct, gc=False):
    """What the admission must know of one request.

    Args:
        replay_key: the queue key of the hash that keeps its replay mark.
        request_id: what is marked, 16 bytes.
        entry_id: the stream entry that carries it; the same entry, claimed after a crash, is no replay.
        keep_ms: how long the mark must be kept.
        count: how many names count against `limits`.
        limits: the agent's and the run's.
        name_limits: per name that the policy allows, the limits that it counts against once.
    """

    replay_key: str
    request_id: bytes
    entry_id: bytes
    keep_ms: int
    count: int
    limits: tuple[Limit, ...]
    name_limits: tuple[tuple[Limit, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the admission says of one request.

    Args:
        replay: whether the request was seen before, in another entry.
        wait_us: microseconds until the agent's and the run's limits admit it; 0 for now.
        name_waits_us: the same for each of `name_limits`, in order; empty if the request is not admitted.
        dropped: whether it is over a limit and left no mark, because there are too many: it must not be answered, as
            another copy of it may be admitted later.
    """

    replay: bool
    wait_us: int = 0
    name_waits_us: tuple[int, ...] = ()
    dropped: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether everything is admitted now."""
        return not (self.replay or self.dropped or self.wait_us or any(self.name_waits_us))


@dataclass(frozen=True, slots=True)
class OpenAsk:
    """What one run would have people asked, beside what they are asked for it already.

    Args:
        key: the queue key of the set that counts them.
        limit: how many may wait at once.
        known: the approvals of the run that this worker knows to wait, and until when each does, ms since the epoch;
            they count, whether or not the queue still knows them.
        wanted: the ids of the new ones, in order.
        until: until when a new one counts, ms since the epoch, if nothing more is heard of it.
        now: the time, ms since the epoch: what counts until then or earlier counts no more.
    """

    key: str
    limit: int
    known: Mapping[str, int]
    wanted: Sequence[str]
    until: int
    now: int


class Admission(Protocol):
    """Replay marks and rate limits, shared by all workers, and how many approvals a run has waiting."""

    def admit(self, asks: Sequence[AdmissionAsk]) -> Awaitable[Sequence[Verdict]]:
        """Mark and count a batch of requests in one call; those that count alike, in order.

        Returns:
            The verdicts, to be awaited once and before anything else is asked. Whoever has something to do can do that
            first: the question may be on its way already.

        Raises:
            QueueError: if it is not certain that all were marked and counted; nothing may then be released.
        """
        ...

    async def open_approvals(self, asks: Sequence[OpenAsk]) -> Sequence[int]:
        """Count new approvals of runs, each run's in one step with those of all workers.

        Returns:
            For each ask how many of the wanted, from the first on, are within the limit and count from now on.

        Raises:
            QueueError: if that is not certain; nobody may then be asked.
        """
        ...


class JobQueue(Protocol):
    """Hands over work that may be late to another process."""

    def enqueue(self, job: str, payload: Mapping[str, object]) -> None:
        """Hand over a job; never waits, never raises. A job that could not be handed over is logged.

        Args:
            job: the name of a registered function.
            payload: text, numbers, and lists and mappings of them; never a value. It is sealed before it is queued.
        """
        ...
