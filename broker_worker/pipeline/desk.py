"""The desk: the one gate through which every value passes, and nothing passes unrecorded."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent_sdk.wire.audit import AuditRecord
from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.messages import Resolve
from agent_sdk.wire.tokens import TokenVerifier
from broker_worker.core.backstop import Backstop
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.pipeline.batch import Ask, Case
from broker_worker.pipeline.deciding import Limits, open_cases
from broker_worker.pipeline.opening import Opener
from broker_worker.pipeline.releasing import REPLAY, Release, Releaser
from broker_worker.pipeline.session import Nonces, Session
from broker_worker.pipeline.tally import Tally
from broker_worker.ports import (
    Admission,
    AdmissionAsk,
    Answer,
    AuditSink,
    Cache,
    CachedValue,
    Clock,
    Entry,
    Fetched,
    Verdict,
)

COLD_PER_TURN = 1
"""How many runs are proved a turn: each costs a quarter of a millisecond or more, and everybody else waits for it."""
NOT_FOUND_MS = 10_000
"""How long a failure that is about the name is remembered, ms."""
UNAVAILABLE_MS = 1_000
"""How long a failure that may pass is remembered, ms, unless the vault says for how long."""


@dataclass(slots=True)
class Waiting:
    """An ask that waits for values which are not in the cache.

    Args:
        ask: the request.
        refs: the missing references, and for how many ms each value may be kept.
        known: what was in the cache of the others; meanwhile it may have to make room there.
        found: what has come of the missing ones so far.
    """

    ask: Ask
    refs: Mapping[str, int]
    known: dict[str, CachedValue | ProviderError] = field(default_factory=dict)
    found: dict[str, Fetched | ProviderError] = field(default_factory=dict)


@dataclass(slots=True)
class Served:
    """What became of a batch: sealed replies to send, and asks that wait for the vault."""

    answers: list[Answer] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)


class Desk:
    """Runs batches through the pipeline.

    Args:
        configuration: the operator's files; replaced whole by `reconfigure`.
        opener: opens entries and proves who sent them.
        cache: values between two uses.
        sink: where records become durable before anything is released.
        clock: the time.
        session: the worker's session key; replaced by `start_session`.
        provider_of: the name of the provider that serves a reference, for the audit.
        entropy: makes n random bytes.
    """

    def __init__(
        self,
        *,
        configuration: Configuration,
        opener: Opener,
        cache: Cache,
        sink: AuditSink,
        clock: Clock,
        session: Session,
        provider_of: Callable[[str], str],
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.configuration = configuration
        self.opener = opener
        self.session = session
        self._limits = Limits(configuration.policy)
        self._cache = cache
        self._sink = sink
        self._clock = clock
        self._tally = Tally()
        self._releaser = Releaser(sink, cache, clock, self._tally, Nonces(entropy))
        self.provider_of = provider_of
        self._backstop = Backstop()

    async def serve(
        self,
        entries: Sequence[Entry],
        admission: Admission,
        before_release: Callable[[], Awaitable[None]] | None = None,
    ) -> Served:
        """Take a batch as far as it goes without waiting for a vault.

        Args:
            entries: what was read from the request streams; it may be empty when unproven messages wait.
            admission: marks and counts the batch on the queue.
            before_release: called when everything is settled and only has to be recorded and sent.

        Returns:
            What to send, and what waits.

        Raises:
            QueueError: if the admission failed; nothing was released, the entries stay pending.
        """
        now, configuration = self._clock.now(), self.configuration
        opened = self.opener.open(entries, now)
        if self.opener.has_cold:
            cold = self.opener.open_cold(COLD_PER_TURN, now)
            opened.asks += cold.asks
            opened.junk += cold.junk
        for ask in opened.asks:
            if ask.code is None:
                open_cases(ask, configuration, now)
        asks = [ask for ask in opened.asks if ask.code is None]
        refused = [ask for ask in opened.asks if ask.code is not None]
        noted = self._releaser.note_junk(opened.junk, now)
        noted += self._releaser.note(refused, configuration.policy.digest)
        waiting, release = await self._admit(asks, admission, noted, now)
        if before_release is not None:
            await before_release()
        answers = self._releaser.carry_out(release, refused, self.session)
        return Served([Answer(entry) for entry, _ in opened.junk] + answers, waiting)

    async def _admit(
        self, asks: Sequence[Ask], admission: Admission, noted: list[AuditRecord], now: int
    ) -> tuple[list[Waiting], Release]:
        """Have asks marked and counted; what they get if they are admitted is prepared while the queue does so."""
        if not asks:
            return self._settle_all(asks, noted, now)
        configuration = self.configuration
        marks = [self._limits.admission_of(ask, now) for ask in asks]
        open_before = [[case for case in ask.cases if case.code is None] for ask in asks]
        admitting = asyncio.ensure_future(admission.admit(marks))
        try:
            await asyncio.sleep(0)  # the question is on its way
            prepared = self._settle_all(asks, noted, now)
        except BaseException:
            admitting.cancel()  # nobody may be left reading the lane's connection
            await asyncio.gather(admitting, return_exceptions=True)
            raise
        undisturbed, distrust = True, list[AuditRecord]()
        for ask, cases, mark, verdict in zip(asks, open_before, marks, await admitting, strict=True):
            undisturbed &= self._apply(ask, cases, mark, verdict, distrust, now)
            if self.configuration is not configuration:
                undisturbed = False
                if ask.code is None:
                    self._decide_again(ask, now)
        if undisturbed and not prepared[0]:
            return prepared
        return self._settle_all(asks, noted + distrust, now)  # what was missing may have been fetched meanwhile

    def _settle_all(self, asks: Sequence[Ask], noted: Sequence[AuditRecord], now: int) -> tuple[list[Waiting], Release]:
        """Give every ask what the cache has for it; those that miss something wait, the others can be released."""
        waiting, settled = [], []
        for ask in asks:
            missing, known = self._fill(ask, now) if ask.code is None and ask.draft is None else ({}, {})
            if missing:
                waiting.append(Waiting(ask, missing, known))
            else:
                settled.append(ask)
        return waiting, self._releaser.prepare(settled, noted, self.configuration.policy.digest, self.session)

    def resume(self, waiting: Sequence[Waiting]) -> list[Answer]:
        """Settle asks whose values were fetched, or given up, meanwhile.

        The policy is asked again, since it may have changed while they waited.

        Args:
            waiting: the asks, each with what the vault gave for its references, or why not.
        """
        now = self._clock.now()
        for each in waiting:
            ask = each.ask
            self._decide_again(ask, now)
            if ask.request.deadline <= now or ask.identity.expires_at <= now:
                ask.refuse(Code.EXPIRED, "expired_while_waiting")
            for case in ask.cases:
                if case.code is None:
                    self._settle_fetched(each, case, now)
        asks = [each.ask for each in waiting]
        release = self._releaser.prepare(asks, [], self.configuration.policy.digest, self.session)
        return self._releaser.carry_out(release, [], self.session)

    def keep(self, ref: str, result: Fetched | ProviderError, ttl_ms: int) -> None:
        """Put what a vault gave into the cache: a value for `ttl_ms`, a failure briefly."""
        now = self._clock.now()
        if isinstance(result, Fetched):
            self._cache.put(ref, result, ttl_ms, now)
        else:
            brief = NOT_FOUND_MS if result.is_about_the_name else result.retry_after or UNAVAILABLE_MS
            self._cache.put_failure(ref, result, brief, now)

    def reconfigure(self, configuration: Configuration, verifier: TokenVerifier, *, forget_values: bool) -> None:
        """Swap the operator's files whole: policy, registry and issuers hold from the next step on.

        Args:
            configuration: the new files.
            verifier: checks tokens against the new issuers; every token is verified again.
            forget_values: whether the values in the cache came from providers that are no longer the same.
        """
        self.configuration = configuration
        self._limits = Limits(configuration.policy)
        self.opener.verifier = verifier
        self.opener.forget_tokens()
        if forget_values:
            self._cache.clear()

    def tick(self) -> None:
        """Drop what is over and record the counts that are due; call it about once a second."""
        now = self._clock.now()
        self._cache.purge(now)
        self._tally.record_due(self._sink.append, now)

    def close(self) -> None:
        """Record what was only counted so far and forget every value."""
        try:
            self._tally.record_due(self._sink.append, self._clock.now(), everything=True)
        finally:
            self._cache.clear()

    def record(self, event: AuditRecord) -> None:
        """Record something that is no request, such as a changed configuration.

        Raises:
            AuditError: if it could not be recorded.
        """
        self._sink.append([event])

    def _decide_again(self, ask: Ask, now: int) -> None:
        """Ask issuers and policy again after a wait; what was refused before stays refused."""
        ask.draft = None
        refused_before = {case.name: case for case in ask.cases if case.code is not None}
        open_cases(ask, self.configuration, now)
        ask.cases = [refused_before.get(case.name, case) for case in ask.cases]
        if ask.peer.identity_of(ask.request.token) is None:  # forgotten, because the issuers may have changed
            try:
                self.opener.verifier.verify(ask.request.token, now)
            except WireError as error:
                ask.refuse(error.code, error.reason)

    def _apply(
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

    def _fill(self, ask: Ask, now: int) -> tuple[dict[str, int], dict[str, CachedValue | ProviderError]]:
        """Give cached values to the cases that may have them.

        Returns:
            What is missing and for how many ms it may be kept; and what was there.
        """
        missing: dict[str, int] = {}
        there: dict[str, CachedValue | ProviderError] = {}
        for case in ask.cases:
            if case.code is None:
                assert case.entry is not None
                ttl_ms = self.configuration.ttl_of(case.entry) * 1000
                known = self._cache.get(case.entry.ref, ttl_ms, now)
                if known is None:
                    missing[case.entry.ref] = max(ttl_ms, missing.get(case.entry.ref, 0))
                else:
                    there[case.entry.ref] = known
                    self._settle(ask, case, known, now)
                    case.source = "cache"
        return missing, there

    def _settle_fetched(self, waiting: Waiting, case: Case, now: int) -> None:
        assert case.entry is not None
        ref = case.entry.ref
        result = waiting.found.get(ref)
        case.source = "cache" if result is None else "provider"
        if isinstance(result, Fetched):
            self._settle(waiting.ask, case, CachedValue(result, now), now)
        elif result is not None:
            self._settle(waiting.ask, case, result, now)
        else:
            ttl_ms = self.configuration.ttl_of(case.entry) * 1000
            gone = ProviderError(FailureKind.UNKNOWN, "no longer known")
            self._settle(waiting.ask, case, self._cache.get(ref, ttl_ms, now) or waiting.known.get(ref, gone), now)

    def _settle(self, ask: Ask, case: Case, known: CachedValue | ProviderError, now: int) -> None:
        """Give a case its value and its end, or say why there is none."""
        entry = case.entry
        assert entry is not None
        case.provider = self.provider_of(entry.ref)
        if isinstance(known, ProviderError):
            case.refuse(Code.UNAVAILABLE, f"provider_{known.kind}", known.retry_after)
            return
        lifetimes = [known.fetched_at + self.configuration.ttl_of(entry) * 1000, ask.identity.expires_at]
        grant = case.decision.grant
        if grant is not None and grant.max_ttl is not None:
            lifetimes.append(now + grant.max_ttl * 1000)
        body = ask.request.body
        if isinstance(body, Resolve) and body.ttl is not None:
            lifetimes.append(now + body.ttl * 1000)
        ends = min(lifetimes)
        if ends <= now:  # the token's end, within the skew, or that of a value while its request waited
            case.refuse(Code.EXPIRED, "expired_already")
            return
        case.value, case.version = known.fetched.value, known.fetched.version
        case.expires_at = ends
        case.reason = None
