"""The desk: the one gate through which every value passes, and nothing passes unrecorded."""

import secrets
from collections.abc import Awaitable, Callable, Sequence

from agent_sdk.wire.audit import AuditRecord
from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.messages import Release as ReleaseLease
from agent_sdk.wire.messages import Renew, Report, Resolve
from agent_sdk.wire.tokens import TokenVerifier
from broker_worker.core.approvals import ApprovalRequest
from broker_worker.core.configuration import Configuration
from broker_worker.pipeline import records
from broker_worker.pipeline.affairs import Affairs
from broker_worker.pipeline.approving import APPROVED_ACTIONS, is_approved
from broker_worker.pipeline.batch import Ask
from broker_worker.pipeline.deciding import ACTIONS, Limits, open_cases
from broker_worker.pipeline.decision_cache import DecisionCache
from broker_worker.pipeline.delegation import Subjects
from broker_worker.pipeline.opening import Opened, Opener
from broker_worker.pipeline.releasing import Release, Releaser
from broker_worker.pipeline.session import Nonces, Session
from broker_worker.pipeline.settling import Served, Settler, Waiting
from broker_worker.pipeline.tally import Tally
from broker_worker.pipeline.verdicts import Verdicts
from broker_worker.ports import Admission, Answer, AuditSink, Cache, Clock, Entry

COLD_PER_TURN = 1
"""How many runs are proved a turn: each costs a quarter of a millisecond or more, and everybody else waits for it."""


class Desk:
    """Runs batches through the pipeline.

    Args:
        configuration: the operator's files; replaced whole by `reconfigure`.
        opener: opens entries and proves who sent them.
        cache: values between two uses.
        sink: where records become durable before anything is released.
        affairs: what people allow, what was revoked, and what runs hold.
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
        affairs: Affairs,
        clock: Clock,
        session: Session,
        provider_of: Callable[[str], str],
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.configuration = configuration
        self.opener = opener
        self.settler = Settler(cache, affairs, clock, provider_of)
        self.keep = self.settler.keep
        self.session = session
        self.affairs = affairs
        self._limits = Limits(configuration.policy)
        self._decisions = DecisionCache(self._limits)
        self._cache = cache
        self._sink = sink
        self._clock = clock
        self._tally = Tally()
        self._releaser = Releaser(sink, cache, clock, self._tally, Nonces(entropy))
        self._verdicts = Verdicts(self._releaser)
        self._subjects = Subjects(opener.skew)
        self._is_calm = True

    def open(self, entries: Sequence[Entry]) -> Opened:
        """Open what was read from the request streams, and some of the unproven messages that wait.

        Args:
            entries: may be empty when unproven messages wait.

        Returns:
            What is to be served now; what is in it waits no longer.
        """
        now = self._clock.now()
        opened = self.opener.open(entries, now)
        self.opener.open_cold(COLD_PER_TURN, now, opened)
        return opened

    async def serve(
        self,
        opened: Opened,
        admission: Admission,
        before_release: Callable[[], Awaitable[None]] | None = None,
    ) -> Served:
        """Take a batch as far as it goes without waiting for a vault.

        Args:
            opened: from `open`, just before.
            admission: marks and counts the batch on the queue.
            before_release: called when everything is settled and only has to be recorded and sent.

        Returns:
            What to send, and what waits.

        Raises:
            QueueError: if the admission failed; nothing was released, the entries stay pending.
        """
        now, configuration = self._clock.now(), self.configuration
        for ask in opened.asks:
            if ask.code is None:
                self._decide(ask, now)
        asks = [ask for ask in opened.asks if ask.code is None]
        refused = [ask for ask in opened.asks if ask.code is not None]
        noted = self._releaser.note_junk(opened.junk, now)
        noted += self._releaser.note(refused, configuration.policy.digest)
        asked: list[ApprovalRequest] = []
        try:
            waiting, release, asked = await self._admit(asks, admission, noted, now)
            if before_release is not None:
                rules = self._rules()
                await before_release()
                if not self._hold(release.asks, rules):
                    more, release = self._prepare_again(release)
                    waiting += more
            answers = self._releaser.carry_out(release, refused, self.session)
        except BaseException:
            self._releaser.forget()
            self.affairs.approvals.withdraw(asked)
            raise
        # people are asked what was recorded, and nothing else
        (self.affairs.ask if release.is_recorded else self.affairs.approvals.withdraw)(asked)
        writes = [each.ask for each in waiting if each.ask.writes]
        waiting = [each for each in waiting if not each.ask.writes] if writes else waiting
        return Served([Answer(entry) for entry, _ in opened.junk] + answers, waiting, writes)

    def _decide(self, ask: Ask, now: int) -> None:
        """Decide every name of a request: by what was revoked first, then by the policy."""
        body, revocations = ask.request.body, self.affairs.revocations
        if isinstance(body, (Resolve, Report)) and body.subject is not None:
            ask.action = ACTIONS[type(body)]
            self._subjects.stand_in(ask, self.configuration, self.opener.verifier, now)
            if ask.code is not None:
                return
        ask.decided = None
        if revocations.is_empty and type(body) is Resolve and ask.actor is None:  # what nearly always comes
            self._decisions.open_cases(ask, self.configuration, now)
        elif not revocations.is_empty and self._is_revoked(ask):
            ask.action = ACTIONS[type(body)]
            ask.refuse(Code.REVOKED, "revoked")
        elif isinstance(body, (Renew, ReleaseLease)):
            ask.action, ask.guarded = ACTIONS[type(body)], True
            self.affairs.leases.open_cases(ask, self.configuration, now)
        else:
            open_cases(ask, self.configuration, now)
            if not revocations.is_empty:
                for case in ask.cases:
                    if case.code is None and revocations.of_secret(case.name):
                        case.refuse(Code.REVOKED, "secret_revoked")

    def _is_revoked(self, ask: Ask) -> bool:
        """Whether who asks was revoked, or the run that a value is asked for.

        Calls that a run made before are recorded all the same, and what was lent for it can be given back.
        """
        asking = (ask.identity, ask.sender) if ask.action == "resolve" else (ask.sender,)
        of_run = self.affairs.revocations.of_run
        return any(of_run(each.agent_id, each.run_id, each.token_id) is not None for each in asking)

    async def _admit(
        self, asks: Sequence[Ask], admission: Admission, noted: list[AuditRecord], now: int
    ) -> tuple[list[Waiting], Release, list[ApprovalRequest]]:
        """Have asks marked and counted; what they get if they are admitted is prepared while the queue does so."""
        if not asks:
            return *self._settle_all(asks, noted, now), []
        rules = self._rules()
        is_guarded = any(ask.guarded for ask in asks)  # then what it gets follows from being admitted
        if is_guarded:
            self.affairs.approvals.note_approved(asks, self.configuration, now)
        marks = [self._limits.admission_of(ask, now) for ask in asks]
        open_before = [[case for case in ask.cases if case.code is None] for ask in asks]
        waiting, release = list[Waiting](), None
        admitting = admission.admit(marks)
        try:
            if not is_guarded:
                waiting, settled = self._fill_all(asks, now)
                begin = self._is_calm and not waiting  # what is refused would cost two syncs for nothing
                release = self._releaser.prepare(settled, noted, self.configuration.policy.digest, begin=begin)
                self._releaser.seal(release, self.session)
        finally:  # nobody else may find the answer on the lane's connection
            verdicts = await admitting
        undisturbed, distrust = True, list[AuditRecord]()
        now = self._clock.now()  # an approval may have ended since, and limits are counted by the time that it is
        if self._rules() != rules or not self._verdicts.all_hold(marks, verdicts, now):
            undisturbed = self._rules() == rules
            for ask, cases, mark, verdict in zip(asks, open_before, marks, verdicts, strict=True):
                undisturbed &= self._verdicts.apply(ask, cases, mark, verdict, distrust, now)
                if self._rules() != rules and ask.code is None:
                    self._decide_again(ask, now)
        self._is_calm = undisturbed
        if undisturbed and release is not None and not waiting:
            return waiting, release, []
        rules = self._rules()
        asked, noted = await self._approve(asks, noted + distrust, admission, now)
        try:
            filled = self._fill_all(asks, now)  # what was missing may have been fetched meanwhile
            await self.affairs.approvals.use_all(filled[1], admission, now)
            if not self._hold(filled[1], rules):
                filled = self._fill_all(self._decided_again(asks), self._clock.now())
            return *self._prepare(*filled, noted), asked
        except BaseException:
            self.affairs.approvals.withdraw(asked)
            raise

    def _rules(self) -> tuple[Configuration, int, int]:
        """Tells whether what decides changed while something was waited for."""
        affairs = self.affairs
        return self.configuration, affairs.revocations.changes, affairs.approvals.book.changes

    def _hold(self, asks: Sequence[Ask], rules: tuple[Configuration, int, int]) -> bool:
        """Whether what was decided under these rules holds after a wait: nothing changed, and no approval ended."""
        return self._rules() == rules and self.affairs.approvals.hold(asks, self.configuration, self._clock.now())

    def _decided_again(self, asks: Sequence[Ask]) -> Sequence[Ask]:
        now = self._clock.now()
        for ask in asks:
            if ask.code is None:
                self._decide_again(ask, now, are_approved=True)
        return asks

    def _prepare_again(self, release: Release) -> tuple[list[Waiting], Release]:
        """Decide anew what was prepared and not refused; the records of everything else stay."""
        live = [ask for ask in release.asks if ask.code is None]
        others = [ask for ask in release.asks if ask.code is not None]
        places = {(ask.entry.agent_id, ask.entry.entry_id.decode("ascii", "replace")) for ask in live}
        noted = [record for record in release.records if (records.sent_by(record), record.entry_id) not in places]
        waiting, again = self._settle_all(self._decided_again(live), noted, self._clock.now())
        again.asks = [*others, *again.asks]
        return waiting, again

    async def _approve(
        self, asks: Sequence[Ask], noted: list[AuditRecord], admission: Admission, now: int
    ) -> tuple[list[ApprovalRequest], list[AuditRecord]]:
        """Let names that need an approval go on if they have one; returns what people must be asked, and records."""
        asked, approvals = list[ApprovalRequest](), self.affairs.approvals
        for ask in asks:
            if ask.guarded and ask.code is None and ask.action in APPROVED_ACTIONS:
                asked += approvals.apply(ask, self.configuration, now)
        asked = await approvals.open(asked, asks, self.configuration, admission, now)
        return asked, noted + [records.approval_requested(request, now) for request in asked]

    def _settle_all(self, asks: Sequence[Ask], noted: Sequence[AuditRecord], now: int) -> tuple[list[Waiting], Release]:
        """Give every ask what the cache has for it; those that miss something wait, the others can be released."""
        return self._prepare(*self._fill_all(asks, now), noted)

    def _fill_all(self, asks: Sequence[Ask], now: int) -> tuple[list[Waiting], list[Ask]]:
        """Asks that must wait for a vault, and the others with what the cache has for them."""
        waiting, settled = list[Waiting](), list[Ask]()
        for ask in asks:
            if ask.writes and ask.code is None and ask.draft is None and ask.cases[0].code is None:
                waiting.append(Waiting(ask, {}))
                continue
            missing, known = (
                self.settler.fill(ask, self.configuration, now) if ask.code is None and ask.draft is None else ({}, {})
            )
            if missing:
                waiting.append(Waiting(ask, missing, known))
            else:
                settled.append(ask)
        return waiting, settled

    def _prepare(
        self, waiting: list[Waiting], settled: Sequence[Ask], noted: Sequence[AuditRecord]
    ) -> tuple[list[Waiting], Release]:
        release = self._releaser.prepare(settled, noted, self.configuration.policy.digest)
        self._releaser.seal(release, self.session)
        return waiting, release

    async def resume(self, waiting: Sequence[Waiting], admission: Admission) -> list[Answer]:
        """Settle asks whose values were fetched, or given up, meanwhile.

        The policy is asked again, since it may have changed while they waited.

        Args:
            waiting: the asks, each with what the vault gave for its references, or why not.
            admission: marks single-use approvals on the queue.

        Raises:
            QueueError: if that failed; nothing was released, the entries stay pending.
        """
        asks = [each.ask for each in waiting]
        await self.ask_again(
            asks, admission, lambda now: self.settler.settle_all_fetched(waiting, self.configuration, now)
        )
        return self.release(asks)

    async def ask_again(
        self, asks: Sequence[Ask], admission: Admission, settle: Callable[[int], object] = lambda now: None
    ) -> None:
        """Decide again what waited, settle it, and use its single-use approvals, until nothing changed meanwhile.

        Args:
            asks: what waited.
            admission: marks single-use approvals on the queue.
            settle: called with the time when everything is decided.

        Raises:
            QueueError: if that failed.
        """
        now = self._clock.now()
        for ask in asks:
            self._decide_again(ask, now, are_approved=True)
            if min(ask.request.deadline, ask.identity.expires_at, ask.sender.expires_at) <= now:
                ask.refuse(Code.EXPIRED, "expired_while_waiting")
        settle(now)
        rules = self._rules()
        await self.affairs.approvals.use_all(asks, admission, now)
        if not self._hold(asks, rules):
            await self.ask_again(asks, admission, settle)

    def release(self, asks: Sequence[Ask]) -> list[Answer]:
        """Record settled asks and answer them."""
        _, release = self._prepare([], asks, [])
        return self._releaser.carry_out(release, [], self.session)

    def reconfigure(self, configuration: Configuration, verifier: TokenVerifier, *, forget_values: bool) -> None:
        """Swap the operator's files whole: policy, registry and issuers hold from the next step on.

        Args:
            configuration: the new files.
            verifier: checks tokens against the new issuers; every token is verified again.
            forget_values: whether the values in the cache came from providers that are no longer the same.
        """
        self.configuration = configuration
        self._limits = Limits(configuration.policy)
        self._decisions = DecisionCache(self._limits)
        self.opener.verifier = verifier
        self.opener.forget_tokens()
        self._subjects.forget()
        if forget_values:
            self._cache.clear()

    def tick(self) -> None:
        """Drop what is over and record the counts that are due; call it about once a second."""
        now = self._clock.now()
        self._verdicts.tick(now)
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

    def _decide_again(self, ask: Ask, now: int, *, are_approved: bool = False) -> None:
        """Ask revocations, issuers and policy again after a wait; what was refused before stays refused.

        Args:
            ask: the request.
            now: the time, ms since the epoch.
            are_approved: whether approvals were looked at already; they must then still hold.
        """
        ask.draft = None
        refused_before = {case.name: case for case in ask.cases if case.code is not None}
        approved_before = {case.name: case.approval for case in ask.cases if case.code is None}
        self._decide(ask, now)
        for case in ask.cases if are_approved else ():
            case.approval = approved_before.get(case.name)
            holds = is_approved(case.approval, self.configuration, now)
            if case.rule is not None and case.code is None and not holds:
                case.refuse(Code.APPROVAL_EXPIRED, "approval_over")
        ask.cases = [refused_before.get(case.name, case) for case in ask.cases]
        if ask.peer.identity_of(ask.request.token) is None:  # forgotten, because the issuers may have changed
            try:
                self.opener.verifier.verify(ask.request.token, now)
            except WireError as error:
                ask.refuse(error.code, error.reason)
