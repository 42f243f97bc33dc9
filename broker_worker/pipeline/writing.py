"""Writes: recorded before the vault is asked and after, and told from each other when a worker died in between."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hmac import compare_digest
from typing import Literal

from agent_sdk.wire.audit import AuditRecord
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Generate, Put
from broker_worker.core.configuration import SecretEntry
from broker_worker.core.errors import AuditError, FailureKind, ProviderError
from broker_worker.pipeline import records
from broker_worker.pipeline.approving import content_mark
from broker_worker.pipeline.batch import Ask, Case
from broker_worker.pipeline.deciding import may_read, reading_of
from broker_worker.pipeline.desk import Desk
from broker_worker.pipeline.letters import Letter
from broker_worker.ports import Admission, Answer, AuditSink, Clock, Fetched, WriteLog, WriteNote

OVERDUE_MS = 120_000
"""After this long nobody works on a write any more: no call of a vault, and no claimed request, takes longer."""
NOTHING_WRITTEN = frozenset(FailureKind) - {FailureKind.TIMEOUT, FailureKind.UNREACHABLE, FailureKind.UNKNOWN}
"""Failures of which a vault is sure that it wrote nothing."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a vault stored; `version` is None if it has none."""

    version: str | None


@dataclass(frozen=True, slots=True)
class Clash:
    """A place held something else than was expected; `version` is what it holds, if that could be read."""

    version: str | None


@dataclass(slots=True, eq=False)
class Writing:
    """A write that was admitted, on its way to the vault and back.

    Args:
        ask: the request.
        value: what is to be stored.
        entry: its place, once it began.
        earlier: marks of writes to the same place of which nobody knows what came.
        outcome: what came of it.
    """

    ask: Ask
    value: bytes = field(default=b"", repr=False)
    entry: SecretEntry | None = None
    earlier: frozenset[str] = frozenset()
    outcome: Stored | Clash | ProviderError | None = None

    @property
    def case(self) -> Case:
        """Its only name."""
        return self.ask.cases[0]

    @property
    def expected(self) -> str:
        """What the place must hold; see `ports.Provider.put`."""
        body = self.ask.request.body
        assert isinstance(body, Put | Generate)
        return body.replaces or ""

    def mark(self, value: bytes) -> str:
        """What stands for a value at this place, written by this run."""
        assert self.entry is not None
        body = self.ask.request.body
        how = body.recipe if isinstance(body, Generate) else ""
        return content_mark(self.ask, "stored", self.entry.ref, how, value).hex()

    def request_mark(self, ref: str) -> str:
        """What stands for the request itself: its run, what it stores or has made, and where."""
        body = self.ask.request.body
        assert isinstance(body, Put | Generate)
        what = body.value if isinstance(body, Put) else body.recipe
        return content_mark(self.ask, "asked", ref, body.name, body.replaces or "", what).hex()

    def is_own(self, value: bytes) -> bool:
        """Whether a value that the place holds is one that this run tried to write there before a worker died.

        Of the values that a run put, only this request's counts, and only while it is the only one there whose write
        had no end: who tried several there has none of them confirmed. Of generated ones any of the same recipe counts.
        """
        mark = self.mark(value)
        if isinstance(self.ask.request.body, Generate):
            return mark in self.earlier
        return compare_digest(value, self.value) and self.earlier == {mark}

    def is_live(self) -> bool:
        """Whether nothing has refused it so far."""
        return self.ask.code is None and self.case.code is None


class Writer:
    """Begins and ends writes. What a vault is asked to store was recorded before, with what allowed it.

    Args:
        desk: decides again what waited, and releases answers.
        sink: where records become durable.
        log: where workers note what they write.
        clock: the time.
    """

    def __init__(self, desk: Desk, sink: AuditSink, log: WriteLog, clock: Clock) -> None:
        self.superseding = desk.affairs.superseding
        self._desk = desk
        self._sink = sink
        self._log = log
        self._clock = clock
        self._letters: list[Letter] = []
        self._unsettled: list[AuditRecord] = []

    async def begin(self, writings: Sequence[Writing], admission: Admission) -> tuple[list[Writing], list[Answer]]:
        """Decide again, use what people allowed, and record what is going to be written.

        Args:
            writings: writes whose values are there.
            admission: marks single-use approvals on the queue.

        Returns:
            What the vault may be asked to store now, and the answers to the others.

        Raises:
            QueueError: if an approval could not be marked; nothing was written, the entries stay pending.
        """
        await self._desk.ask_again([each.ask for each in writings], admission)
        live = [each for each in writings if each.is_live() and not self._is_repeated(each)]
        if live:
            self._record_begin(live)
        begun = [each for each in live if each.is_live()]
        return begun, self._desk.release([each.ask for each in writings if each not in begun])

    def _is_repeated(self, each: Writing) -> bool:
        """Whether this very request was carried out before, and only its answer was lost."""
        done = self._log.written(each.ask.request.request_id.hex())
        place = None if each.case.entry is None else each.case.entry.ref
        if done is None or done.ref != place or done.mark != each.request_mark(done.ref):
            return False  # an agent chooses its ids: one may stand for two requests
        each.case.version = done.version
        return True

    def _record_begin(self, live: Sequence[Writing]) -> None:
        now, policy = self._clock.now(), self._desk.configuration.policy.digest
        notes: list[WriteNote] = []
        for each in live:
            each.entry = each.case.entry
            assert each.entry is not None
            each.case.provider = self._desk.settler.provider_of(each.entry.ref)
            each.earlier = self._log.marks(each.entry.ref)
            notes.append(self._note(each, now))
        try:
            self._sink.append([records.write_started(each.ask, each.case, now, policy) for each in live])
            self._log.note(notes)
        except AuditError:
            for each in live:
                each.case.refuse(Code.AUDIT_UNAVAILABLE, "write_not_recorded")

    @staticmethod
    def _note(each: Writing, now: int) -> WriteNote:
        assert each.entry is not None
        write_id = each.ask.request.request_id.hex()
        return WriteNote(write_id, "begun", each.case.name, each.entry.ref, now, each.mark(each.value))

    def finish(self, writings: Sequence[Writing]) -> list[Answer]:
        """Record what came of writes and answer; whoever holds an older version is told.

        Args:
            writings: writes that began, each with its outcome.
        """
        now, desk = self._clock.now(), self._desk
        ended: list[WriteNote] = []
        for each in writings:
            state = self._settle(each)
            version = each.outcome.version if isinstance(each.outcome, Stored) else None
            mark = each.request_mark(each.entry.ref) if each.entry is not None and state == "written" else ""
            ended.append(replace(self._note(each, now), state=state, mark=mark, version=version))
        with suppress(AuditError):  # it stays begun: what follows is done here now, and elsewhere once it is overdue
            self._log.note(ended)
        for note in ended:
            if note.state != "failed":
                self._letters += self.superseding.note(note, desk.configuration, now)
                self.superseding.announce(note)
        for each in writings:
            self._reveal(each, now)
        answers = desk.release([each.ask for each in writings])
        for each in writings:
            each.value = b""
        return answers

    @staticmethod
    def _settle(each: Writing) -> Literal["written", "failed", "unknown"]:
        case, outcome = each.case, each.outcome
        if isinstance(outcome, Stored):
            case.version, case.reason = outcome.version, None
            return "written"
        if isinstance(outcome, Clash):
            case.refuse(Code.CONFLICT, "place_differs")
            grant = case.decision.grant
            case.version = outcome.version if grant is not None and grant.overwrite else None
            return "failed"
        failure = outcome or ProviderError(FailureKind.UNKNOWN, "the vault gave no answer")
        case.refuse(Code.UNAVAILABLE, f"provider_{failure.kind}", failure.retry_after)
        return "failed" if failure.kind in NOTHING_WRITTEN else "unknown"

    def _reveal(self, each: Writing, now: int) -> None:
        """Give a run the value that was made for it, if it asked for that and may still read the name."""
        body, configuration = each.ask.request.body, self._desk.configuration
        if not (isinstance(body, Generate) and body.reveal and isinstance(each.outcome, Stored)):
            return
        reading = reading_of(each.ask, body.name, body.purpose, configuration, now)
        if may_read(reading) and each.entry is not None and not self._is_revoked(each, each.outcome.version):
            made = Fetched(each.value, each.outcome.version)
            self._desk.settler.reveal(
                each.ask, each.case, made, reading, configuration, configuration.ttl_of(each.entry) * 1000, now
            )
            if each.case.code is not None:  # its run ended meanwhile: it is stored all the same
                each.case.code = each.case.reason = each.case.retry_after = None

    def _is_revoked(self, each: Writing, version: str | None) -> bool:
        """Whether an order came while the vault was asked."""
        identity, revocations = each.ask.identity, self._desk.affairs.revocations
        return not revocations.is_empty and (
            revocations.of_run(identity.agent_id, identity.run_id, identity.token_id) is not None
            or revocations.of_secret(each.case.name, version) is not None
        )

    def poll(self) -> list[Letter]:
        """Hear what others wrote, and settle what a dead worker left; call it a few times a second.

        Returns:
            Notices to send.
        """
        desk, now = self._desk, self._clock.now()
        letters, self._letters = self._letters, []
        letters += self.superseding.poll(desk.configuration, now)
        for note in self._log.overdue(now - OVERDUE_MS):
            try:
                self._log.note([replace(note, state="unknown", at=now, mark="")])
            except AuditError:
                break
            self._unsettled.append(records.write_unsettled(note, now))
        if self._unsettled:
            with suppress(AuditError):  # no file says of them any more that they are to be recorded
                self._sink.append(self._unsettled)
                self._unsettled = []
        return letters
