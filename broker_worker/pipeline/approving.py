"""Where people stand in the way: names that need an approval go on only with one, and people are asked for the rest."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Literal

import msgspec

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Generate, Put, Resolve
from broker_worker.core.approval_book import ApprovalBook, ApprovalKey, Matter
from broker_worker.core.approvals import ApprovalRequest
from broker_worker.core.approvers import Approvers
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import AuditError
from broker_worker.pipeline.batch import Ask, Case
from broker_worker.pipeline.open_approvals import OpenApprovals
from broker_worker.ports import Admission, AdmissionAsk, Cache, OnceLog

APPROVED_ACTIONS: Mapping[str, Literal["resolve", "put", "generate"]] = {
    "resolve": "resolve",
    "put": "put",
    "generate": "generate",
}
"""What people can be asked to allow."""
_TOO_MANY = "too_many_open_approvals"
_MARKED = msgspec.msgpack.Encoder()
EXPIRED_TOLD_MS = 30_000
"""For how long an agent that asks again is told that nobody decided in time; afterwards people are asked anew."""
_USED_KEPT_MS = 24 * 3600 * 1000


class Approvals:
    """Decides what approvals allow, and says what people must be asked.

    Args:
        book: what people were asked and answered.
        once: which single-use approvals were used.
        cache: knows the live values that texts of agents must not repeat.
        worker: this worker's name.
    """

    def __init__(self, book: ApprovalBook, once: OnceLog, cache: Cache, worker: str) -> None:
        self.book = book
        self.waiting = OpenApprovals(book)
        self._once = once
        self._cache = cache
        self._worker = worker

    def apply(self, ask: Ask, configuration: Configuration, now: int) -> list[ApprovalRequest]:
        """Let the names of an admitted request go on that are approved, and refuse the others until they are.

        Args:
            ask: its names are decided; those that need no approval are left as they are.
            configuration: the files in force.
            now: the time, ms since the epoch.

        Returns:
            What people must be asked, each already in the book, as far as `open` lets it be.
        """
        asked: list[ApprovalRequest] = []
        for cases in _by_rule(ask):
            request = self._apply_rule(ask, cases, configuration, now)
            if request is not None:
                asked.append(request)
        return asked

    async def open(
        self,
        requests: Sequence[ApprovalRequest],
        asks: Iterable[Ask],
        configuration: Configuration,
        admission: Admission,
        now: int,
    ) -> list[ApprovalRequest]:
        """Have all workers count what people are to be asked, and refuse what is too much for one run.

        Args:
            requests: from `apply`.
            asks: those that they are of.
            configuration: the files in force.
            admission: counts on the queue.
            now: the time, ms since the epoch.

        Returns:
            What people must be asked.

        Raises:
            QueueError: if the queue did not count them; nobody may then be asked.
        """
        if not requests:
            return []
        try:
            too_many = {each.digest() for each in await self.waiting.open(requests, configuration, admission, now)}
        except BaseException:
            self.withdraw(requests)
            raise
        for case in (case for ask in asks for case in ask.cases if too_many and ask.guarded):
            if case.code == Code.APPROVAL_PENDING and case.approval and case.approval.request.digest() in too_many:
                case.approval = None
                case.refuse(Code.RATE_LIMITED, _TOO_MANY)
        self.withdraw(request for request in requests if request.digest() in too_many)
        return [request for request in requests if request.digest() not in too_many]

    def note_approved(self, asks: Iterable[Ask], configuration: Configuration, now: int) -> None:
        """Note which names wait for people: they count against the agent's and the run's limits only.

        So asking again is no use of a secret.

        Args:
            asks: their names are decided.
            configuration: the files in force.
            now: the time, ms since the epoch.
        """
        for ask in asks:
            if ask.guarded and ask.action in APPROVED_ACTIONS:
                self._note_approved(ask, configuration, now)

    def _note_approved(self, ask: Ask, configuration: Configuration, now: int) -> None:
        approvers, policy = configuration.approvers, configuration.policy.digest
        for cases in _by_rule(ask):
            used = self._once.used(ask.request.request_id.hex())
            matter = self.book.matter_for(_key(ask, cases, policy), approvers, now, used)
            is_approved = matter is not None and matter.state(approvers, policy, now) == "approved"
            for case in cases:
                case.is_counted = is_approved

    def _apply_rule(
        self, ask: Ask, cases: Sequence[Case], configuration: Configuration, now: int
    ) -> ApprovalRequest | None:
        """Names of one request under one policy entry or the same words: they are approved together or not at all."""
        approvers, policy = configuration.approvers, configuration.policy.digest
        key = _key(ask, cases, policy)
        texts = (key.purpose, _writes(ask))
        if any(self._cache.redact(text) != text for text in texts):  # people would not see what they sign, others would
            for case in cases:
                case.refuse(Code.DENIED, "purpose_holds_a_value")
            return None
        matter = self.book.matter_for(key, approvers, now, self._once.used(ask.request.request_id.hex()))
        state = "none" if matter is None else matter.state(approvers, policy, now)
        if state != "approved" and ask.identity.expires_at <= now:  # within the skew, with no time left to decide
            for case in cases:
                case.refuse(Code.EXPIRED, "expired_already")
            return None
        if matter is not None and state == "approved":
            for case in cases:
                case.approval = matter
            return None
        if matter is not None and state in _REFUSALS and not self._is_to_be_asked_again(matter, state, approvers, now):
            code, reason = _REFUSALS[state]
            for case in cases:
                case.approval = matter
                case.refuse(code, reason, matter.request.expires_at - now if state == "waiting" else None)
            return None
        identity = ask.identity
        waiting = self.book.waiting_of_run(identity.agent_id, identity.run_id, approvers, policy, now)
        if len(waiting) >= approvers.max_open_per_run:  # whatever the queue says
            for case in cases:
                case.refuse(Code.RATE_LIMITED, _TOO_MANY)
            return None
        return self._ask_people(ask, cases, key, now)

    def _ask_people(self, ask: Ask, cases: Sequence[Case], key: ApprovalKey, now: int) -> ApprovalRequest:
        rule = cases[0].rule
        assert rule is not None
        request = ApprovalRequest(
            agent_id=key.agent_id,
            run_id=key.run_id,
            run_key=key.run_key,
            names=key.names,
            action=APPROVED_ACTIONS[key.action],
            purpose=key.purpose,
            task=ask.identity.task,
            policy=key.policy,
            rule=key.rule,
            approvers=key.approvers,
            quorum=key.quorum,
            grant=key.grant,
            asked_at=now,
            expires_at=min(now + rule.ttl_ms, ask.identity.expires_at),
            request_id=ask.request.request_id,
            asked_today=self.book.asked_today(key.agent_id, now),
            worker=self._worker,
            writes=_writes(ask),
            content=key.content,
            deliver=cases[0].way or "value",
            actor=key.actor,
            actor_key=None if ask.actor is None else ask.actor.run_public_key,
        )
        matter = self.book.add(request)
        for case in cases:
            case.approval = matter
            case.refuse(Code.APPROVAL_PENDING, "approval_requested", request.expires_at - now)
        return request

    @staticmethod
    def _is_to_be_asked_again(matter: Matter, state: str, approvers: Approvers, now: int) -> bool:
        """What nobody decided in time is told for a while; an approval whose time is over is asked for anew at once."""
        if state != "expired":
            return False
        return bool(matter.names_of("approve")) or now >= matter.request.expires_at + EXPIRED_TOLD_MS

    def marks(self, asks: Iterable[Ask], now: int) -> list[tuple[Ask, Matter, AdmissionAsk]]:
        """What the queue must mark before single-use approvals are used: one mark an approval, for all workers."""
        return [
            (ask, matter, _mark(ask, matter, now))
            for ask in asks
            for matter in {id(case.approval): case.approval for case in ask.cases if _spends(case)}.values()
            if matter is not None
        ]

    def use(self, ask: Ask, matter: Matter, *, is_marked: bool) -> None:
        """Use a single-use approval for a request, durably; names whose approval was used before are refused.

        Args:
            ask: the request, settled but not released.
            matter: the approval.
            is_marked: whether the queue knows of no other use.
        """
        request_id, ends_at = ask.request.request_id.hex(), matter.request.expires_at
        code, reason = Code.APPROVAL_EXPIRED, "approval_used"
        try:
            if is_marked and self._once.use(matter.request.approval_id, request_id, ends_at):
                return
        except AuditError:
            code, reason = Code.AUDIT_UNAVAILABLE, "approval_use_not_recorded"
        for case in ask.cases:
            if case.approval is matter and _spends(case):
                ask.draft = None
                case.refuse(code, reason)

    async def use_all(self, asks: Iterable[Ask], admission: Admission, now: int) -> None:
        """Use the single-use approvals of requests that will be released now; each serves one, on all workers.

        Args:
            asks: requests that are settled.
            admission: marks them on the queue.
            now: the time, ms since the epoch.

        Raises:
            QueueError: if the queue did not mark them; nothing may then be released.
        """
        marks = self.marks([ask for ask in asks if ask.guarded and ask.code is None], now)
        if marks:
            verdicts = await admission.admit([mark for *_, mark in marks])
            for (ask, matter, _), verdict in zip(marks, verdicts, strict=True):
                self.use(ask, matter, is_marked=not verdict.replay)

    @staticmethod
    def hold(asks: Iterable[Ask], configuration: Configuration, now: int) -> bool:
        """Whether every name that goes on with an approval may still do so.

        Args:
            asks: requests whose approvals were applied before.
            configuration: the files in force.
            now: the time, ms since the epoch.
        """
        return all(
            is_approved(case.approval, configuration, now)
            for ask in asks
            if ask.guarded and ask.code is None
            for case in ask.cases
            if case.rule is not None and case.code is None
        )

    def withdraw(self, requests: Iterable[ApprovalRequest]) -> None:
        """Forget requests that could not be recorded, or that are too many: nobody is asked."""
        for request in requests:
            self.book.withdraw(request)
            self.waiting.close(request)


_REFUSALS = {
    "waiting": (Code.APPROVAL_PENDING, "approval_waits"),
    "denied": (Code.APPROVAL_DENIED, "approval_denied"),
    "expired": (Code.APPROVAL_EXPIRED, "approval_expired"),
}


def _by_rule(ask: Ask) -> list[list[Case]]:
    """The names that need an approval, by the policy entry that says so and the way that they go: one decision each.

    Several entries may stand on one line, so what the entry says counts as well.
    """
    guarded = [case for case in ask.cases if case.code is None and case.rule is not None]
    guarded.sort(key=lambda case: (*_entry(case), case.name))
    return [list(group) for _, group in groupby(guarded, _entry)]


def _entry(case: Case) -> tuple[str, str, str]:
    return str(case.decision.origin), repr(case.rule), case.way or ""


def is_approved(matter: Matter | None, configuration: Configuration, now: int) -> bool:
    """Whether a matter allows a release now."""
    return matter is not None and matter.state(configuration.approvers, configuration.policy.digest, now) == "approved"


def _key(ask: Ask, cases: Sequence[Case], policy: str) -> ApprovalKey:
    identity, body, rule = ask.identity, ask.request.body, cases[0].rule
    assert rule is not None
    return ApprovalKey(
        identity.agent_id,
        identity.run_id,
        identity.run_public_key,
        tuple(case.name for case in cases),
        ask.action,
        body.purpose if isinstance(body, Resolve | Put | Generate) else "",
        policy,
        str(cases[0].decision.origin),
        tuple(sorted(rule.approvers)),
        rule.quorum,
        rule.grant,
        _content(ask),
        cases[0].way or "value",
        "" if ask.actor is None else ask.actor.agent_id,
    )


def _writes(ask: Ask) -> str:
    """What a write would do, in words that people sign; nothing in it comes from the value."""
    body = ask.request.body
    if not isinstance(body, Put | Generate):
        return ""
    what = "create" if body.replaces is None else f"replace {body.replaces}"
    return what if isinstance(body, Put) else f"{what} {body.recipe}"


def _content(ask: Ask) -> bytes | None:
    """What stands for all that a write would store, so that what was approved is what is written."""
    body = ask.request.body
    if isinstance(body, Put):
        return content_mark(ask, "put", body.name, body.replaces or "", body.value)
    if isinstance(body, Generate):
        return content_mark(ask, "generate", body.name, body.replaces or "", body.recipe, body.reveal)
    return None


def content_mark(ask: Ask, *parts: str | bytes | bool) -> bytes:
    """A mark of some parts of a request, with the key that only its run and the broker have (`Opener.mark`)."""
    return ask.peer.requests.mark(_MARKED.encode(parts))


def _spends(case: Case) -> bool:
    return case.code is None and case.approval is not None and case.approval.request.grant == "once"


def _mark(ask: Ask, matter: Matter, now: int) -> AdmissionAsk:
    request = matter.request
    return AdmissionAsk(
        keynames.used(request.agent_id, request.approval_id),
        request.digest()[:16],
        ask.entry.entry_id,
        max(0, request.expires_at - now) + _USED_KEPT_MS,
        0,
        (),
    )
