"""The last step: record, then reply. The only place where replies are made, and where they leave."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from agent_sdk.wire.audit import AuditRecord
from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.messages import Call, Generate, Put, Report, Resolve
from broker_worker.core.errors import AuditError
from broker_worker.core.redaction import NOTE
from broker_worker.pipeline import records
from broker_worker.pipeline.answering import encode_refusal, encode_reply
from broker_worker.pipeline.batch import Ask
from broker_worker.pipeline.deciding import VALUE_SHOWN
from broker_worker.pipeline.session import Nonces, Session
from broker_worker.pipeline.tally import Tally
from broker_worker.ports import Answer, AuditSink, Cache, Clock, Entry

_WITH_PURPOSE = (Resolve, Put, Generate)
REPLAY = "replay"
"""Why a copy of a request is refused. It gets no reply, which could overtake the one that the request is owed."""
FLOOD = "flood"
"""Why a request over a limit gets no reply: it left no mark, so another copy of it could be answered differently."""


@dataclass(slots=True)
class Release:
    """Settled asks, each with its sealed reply, and what the audit must take before one of them leaves.

    Args:
        asks: the asks; `draft` is the sealed reply.
        records: what is recorded of them, and of whatever else the batch held.
        plaintexts: what is still to be sealed: for each ask its reply, or None where that is sealed.
        is_recorded: whether the audit took them.
    """

    asks: Sequence[Ask]
    records: Sequence[AuditRecord]
    plaintexts: Sequence[bytes | None] = field(default=(), repr=False)
    is_recorded: bool = False


class Releaser:
    """Prepares releases and carries them out.

    Args:
        sink: where records become durable.
        cache: knows the live values that texts of agents must not repeat.
        clock: the time.
        tally: counts refusals that anybody can cause without end.
        nonces: for sealing.
    """

    def __init__(self, sink: AuditSink, cache: Cache, clock: Clock, tally: Tally, nonces: Nonces) -> None:
        self._sink = sink
        self._cache = cache
        self._clock = clock
        self._tally = tally
        self._nonces = nonces

    def note_junk(self, junk: Iterable[tuple[Entry, str]], now: int) -> list[AuditRecord]:
        """What the audit must be told of messages that nobody can be held to."""
        noted: list[AuditRecord] = []
        for entry, reason in junk:
            record = records.unauthenticated(entry.agent_id, reason, now)
            noted += self._once(("", entry.agent_id, reason), record, now)
        return noted

    def note_distrust(self, ask: Ask, reason: str, now: int) -> list[AuditRecord]:
        """What the audit must be told of a queue that contradicts what this worker knows."""
        kind = ("queue_distrusted", ask.identity.agent_id, ask.identity.run_id, reason)
        return self._once(kind, records.queue_distrusted(ask, reason, now), now)

    def note(self, asks: Iterable[Ask], policy: str) -> list[AuditRecord]:
        """What the audit must be told of settled asks; refusals of whole requests are counted by this.

        Args:
            asks: settled asks.
            policy: digest of the policy that decided.
        """
        now, now_us = self._clock.now(), self._clock.monotonic_us()
        noted: list[AuditRecord] = []
        for ask in asks:
            agent_id, reason = ask.entry.agent_id, ask.reason or ""
            if not (ask.actor or ask.identity).issuer:
                noted += self._once(("", agent_id, reason), records.unauthenticated(agent_id, reason, now), now)
                continue
            body = ask.request.body
            if isinstance(body, _WITH_PURPOSE) and body.purpose:
                ask.purpose = NOTE if reason == VALUE_SHOWN else self._cache.redact(body.purpose)
            if ask.code is not None:
                record = records.whole_request(ask, now, now_us, policy)
                kind = (agent_id, ask.identity.agent_id, ask.identity.run_id, reason)
                noted += self._once(kind, record, now)
            elif isinstance(body, Report):
                noted += [records.call(ask, self._shown(made, ask.known_names), now, policy) for made in body.calls]
            elif not ask.cases:
                noted.append(records.whole_request(ask, now, now_us, policy))
            for case in ask.cases if ask.code is None else ():
                entry = case.entry
                # of names that nobody wrote into the registry only those that were granted are known
                is_known = entry is not None and (case.code is None or not entry.is_created)
                name = case.name if is_known else self._cache.redact(case.name)
                noted.append(records.access(ask, case, name, now, now_us, policy))
        return noted

    def _shown(self, made: Call, known_names: Container[str]) -> Call:
        """A call as it may be recorded: its texts are an agent's, or the upstream's."""
        redact = self._cache.redact
        name = made.name if made.name in known_names else redact(made.name)
        texts = (name, redact(made.route), redact(made.host), redact(made.method), redact(made.path))
        if texts == (made.name, made.route, made.host, made.method, made.path) and made.fault is None:
            return made
        name, route, host, method, path = texts
        fault = None if made.fault is None else redact(made.fault)
        return structs.replace(made, name=name, route=route, host=host, method=method, path=path, fault=fault)

    def prepare(
        self, asks: Sequence[Ask], noted: Sequence[AuditRecord], policy: str, *, begin: bool = False
    ) -> Release:
        """Encode the replies to settled asks and have the sink make their records ready; nothing leaves by this.

        Args:
            asks: settled asks; a reply that was sealed before and still holds is kept.
            noted: what else the audit must be told.
            policy: digest of the policy that decided.
            begin: have the disk begin with the records.
        """
        plaintexts = [_encode(ask) if ask.draft is None else None for ask in asks]
        release = Release(asks, [*noted, *self.note(asks, policy)], plaintexts)
        self._sink.prepare(release.records, begin=begin)
        return release

    def seal(self, release: Release, session: Session) -> None:
        """Seal the replies of a release that was prepared.

        Args:
            release: what was prepared, before anything of it was refused.
            session: the worker's session key.
        """
        for ask, plaintext in zip(release.asks, release.plaintexts, strict=True):
            if plaintext is not None:
                ask.draft = ask.peer.seal(session, plaintext, self._nonces.draw())
        release.plaintexts = ()

    def forget(self) -> None:
        """Take back what was prepared and will not be released."""
        self._sink.prepare(())

    def carry_out(self, release: Release, also: Iterable[Ask], session: Session) -> list[Answer]:
        """Record, and answer only then; if the audit does not take it, nothing but that is answered.

        Args:
            release: what was prepared.
            also: asks whose refusals are among the records already.
            session: the worker's session key.
        """
        asks = [*release.asks, *also]
        if release.records:
            try:
                self._sink.append(release.records)
                release.is_recorded = True
            except AuditError:
                self._tally.not_recorded(release.records)
                for ask in asks:
                    ask.draft = self._seal_refusal(ask, Code.AUDIT_UNAVAILABLE, session)
        answers = []
        for ask in asks:
            if ask.reason in (REPLAY, FLOOD):
                answers.append(Answer(ask.entry))
            else:
                envelope = ask.draft or self._seal_refusal(ask, ask.code or Code.UNAVAILABLE, session)
                answers.append(Answer(ask.entry, ask.peer.reply_stream, envelope))
        return answers

    def _seal_refusal(self, ask: Ask, code: Code, session: Session) -> bytes:
        retry_after = ask.retry_after if code is ask.code else None
        return ask.peer.seal(session, encode_refusal(ask, code, retry_after), self._nonces.draw())

    def _once(self, kind: tuple[str, ...], record: AuditRecord, now: int) -> list[AuditRecord]:
        return [record] if self._tally.is_first(kind, record, now) else []


def _encode(ask: Ask) -> bytes:
    try:
        return encode_reply(ask)
    except WireError as error:
        ask.refuse(error.code, error.reason)
        return encode_refusal(ask, error.code)
