"""What people decide while requests come and go: decisions, revocations, and what follows from them.

Everything here comes from two streams and two files that are not trusted: requests for approval count with the broker's
signature, decisions with an approver's, revocations with the operator's control key.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from agent_sdk.wire.audit import AuditRecord
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import MAX_TIME, Notice
from broker_worker.core.approval_book import KEPT_MS, Matter, is_refused
from broker_worker.core.approvals import ApprovalRequest, Decision, decode_decision, open_request, sign_request
from broker_worker.core.configuration import Configuration
from broker_worker.core.control import decode_control
from broker_worker.core.errors import AuditError, BrokerError
from broker_worker.core.leases import Holding
from broker_worker.core.revocations import Revocation, Revocations, open_revocation
from broker_worker.pipeline import records
from broker_worker.pipeline.approving import Approvals
from broker_worker.pipeline.leasing import Leases
from broker_worker.pipeline.letters import Letter, letters_to
from broker_worker.pipeline.notifying import notification
from broker_worker.pipeline.peers import PeerCache
from broker_worker.pipeline.recalling import Recall
from broker_worker.pipeline.superseding import Superseding
from broker_worker.pipeline.tally import Tally
from broker_worker.ports import AuditSink, Cache, JobQueue, OnceLog, RevocationLog

TAKE_OVER_MS = 3_000
"""After this long another worker settles what the one that asked did not."""
_PURGE_EVERY_MS = 60_000
_SETTLED_AT_ONCE = 32
"""How many requests are settled before everybody else has a turn: each costs syncs."""
_RECORDED_AT_ONCE = 1024
_DENIED_MS = 366 * KEPT_MS
"""How long a denial is remembered: longer than any run that was granted something lives."""


@dataclass(frozen=True, slots=True)
class AffairsKeys:
    """What tells true from forged.

    Args:
        identity_secret: the broker's Ed25519 secret in libsodium's 64-byte form; it signs what people are asked.
        control_public: verifies revocations, 32 bytes.
    """

    identity_secret: bytes
    control_public: bytes

    def __repr__(self) -> str:
        return "AffairsKeys()"


class Affairs:
    """Takes what people decided, and says whom to tell.

    Args:
        worker: this worker's name.
        keys: what tells true from forged.
        approvals: guards names that need an approval.
        leases: what runs hold.
        revocations: what must not be served any more.
        revocation_log: keeps revocations, whatever the queue forgets.
        settled: which approvals' outcomes were recorded, by whichever worker of this host.
        sink: where records become durable.
        cache: knows the live values that texts of people must not repeat.
        peers: the runs that this worker has heard of.
        jobs: takes what may be late.
        superseding: hears of writes.
    """

    def __init__(
        self,
        *,
        worker: str,
        keys: AffairsKeys,
        approvals: Approvals,
        leases: Leases,
        revocations: Revocations,
        revocation_log: RevocationLog,
        settled: OnceLog,
        sink: AuditSink,
        cache: Cache,
        peers: PeerCache,
        jobs: JobQueue,
        superseding: Superseding,
    ) -> None:
        self.approvals = approvals
        self.superseding = superseding
        self.leases = leases
        self.revocations = revocations
        self.unpublished: dict[bytes, ApprovalRequest] = {}
        """Requests that were recorded and must be put onto the queue, by their digest."""
        self.on_asked: Callable[[], object] = lambda: None
        """Called when there is something to put onto the queue."""
        self._worker = worker
        self._keys = keys
        self._log = revocation_log
        self._settled = settled
        self._sink = sink
        self._cache = cache
        self._peers = peers
        self._jobs = jobs
        self._recall = Recall(leases, cache, peers, jobs)
        self._tally = Tally()
        self._open: dict[bytes, Matter] = {}
        self._announced: set[bytes] = set()
        self._looked_under: Configuration | None = None
        self._look_at = 0
        self._untold: dict[str, tuple[ApprovalRequest, Decision, int]] = {}
        self._seen_settled: dict[bytes, int] = {}
        self._unkept: dict[bytes, None] = {}
        self._unrecorded: list[AuditRecord] = []
        self._purge_at = 0
        for revocation in revocation_log.poll():
            revocations.apply(revocation)

    def ask(self, requests: Iterable[ApprovalRequest]) -> None:
        """Have people asked: these requests are recorded and in the book."""
        for request in requests:
            digest = request.digest()
            self.unpublished[digest] = request
            self._open[digest], self._look_at = self.approvals.book.add(request), 0
            self.on_asked()

    def signed(self, request: ApprovalRequest) -> bytes:
        """The bytes of a request for the queue."""
        return sign_request(request, self._keys.identity_secret)

    def published(self, request: ApprovalRequest, configuration: Configuration) -> None:
        """A request stands on the queue: have people notified, if they can still decide and the files name anybody.

        Args:
            request: the request.
            configuration: the files in force.
        """
        digest = request.digest()
        self.unpublished.pop(digest, None)
        if not configuration.notifications or digest in self._announced or digest not in self._open:
            return
        self._announced.add(digest)
        self._jobs.enqueue("notify_approval", notification(request, configuration.dashboard.origin))

    def give_up(self, request: ApprovalRequest) -> None:
        """A request was not shown in time, and others took its place: it is void, and its run is told to ask anew.

        Args:
            request: it is not on the queue.
        """
        matter = self._open.get(request.digest())
        if matter is not None:
            matter.final, self._look_at = "void", 0
        self.unpublished.pop(request.digest(), None)

    def ask_again(self) -> None:
        """Put what this worker asked and nobody decided onto the queue once more, because the queue lost it."""
        for digest, matter in self._open.items():
            if matter.request.worker == self._worker:
                self.unpublished[digest] = matter.request

    def take_request(self, raw: bytes, now: int) -> None:
        """Take an entry of the approvals stream; what the broker did not sign is ignored.

        Args:
            raw: its bytes.
            now: the time, ms since the epoch.
        """
        try:
            request = open_request(raw, self._keys.identity_secret[32:])
        except WireError:
            return
        matter = self.approvals.book.add(request)
        settled = self._settled.used()
        if request.denial_mark in settled:
            matter.final = "denied"
        if request.approval_id in settled:
            if now < request.expires_at:  # whoever settled it may have died before the queue was told
                self.approvals.waiting.close(request)
        elif not _is_long_over(request, now):
            matter.is_shown = True
            self._open[request.digest()], self._look_at = matter, 0

    def close_settled(self, configuration: Configuration, now: int) -> None:
        """After all was read: what was settled before and looks as if it waited was voided, and stays so."""
        settled, policy = self._settled.used(), configuration.policy.digest
        for matter in self.approvals.book:
            if (
                matter.request.approval_id in settled
                and matter.state(configuration.approvers, policy, now) == "waiting"
            ):
                matter.final = "void"

    def take_control(self, raw: bytes, configuration: Configuration, now: int) -> list[Letter]:
        """Take an entry of the control stream.

        Args:
            raw: its bytes.
            configuration: the files in force.
            now: the time, ms since the epoch.

        Returns:
            Notices to send.
        """
        try:
            message = decode_control(raw)
            if message.kind == "write":
                return self.superseding.take(message.body, configuration, now)
            if message.kind == "revocation":
                revocation = open_revocation(message.body, self._keys.control_public)
                self._unkept[message.body] = None
                letters = self.revoke([revocation], now)
                self._keep()
                return letters
            decision = decode_decision(message.body)
        except WireError as error:
            self._record([records.refused_control(error.reason, now)], ("control", error.reason), now)
            return []
        approver = self._cache.redact(decision.approver)
        fault = self.approvals.book.decide(decision, configuration.approvers, now)
        matter = self.approvals.book.get(decision.request)
        request = None if matter is None else matter.request
        if fault == "decided_already" and matter is not None and decision in matter.decisions.values():
            return []  # the same once more, as after a restart
        if fault is not None:
            record = records.decision_refused(request, decision, approver, fault, now)
            if request is None:  # anybody can name requests without end
                self._record([record], ("decision", "", fault), now)
            elif request.worker == self._worker:
                self._record([record], ("decision", decision.approval_id, fault), now)
            return []
        if request is not None and not _is_long_over(request, now):
            self._untold[decision.mark] = (request, decision, now)
            if request.worker == self._worker:
                self._tell([decision.mark], now)
        return self._settle(decision.request, configuration, now)

    def settle(self, configuration: Configuration, now: int) -> list[Letter]:
        """Record what has come of requests, once, and tell the runs that asking again is worth it."""
        if configuration is self._looked_under and now < self._look_at:
            return []  # thousands may wait, and only a decision, other files or the time change anything
        self._looked_under, self._look_at = configuration, MAX_TIME
        letters: list[Letter] = []
        for digest in list(self._open):
            letters += self._settle(digest, configuration, now)
            if len(letters) >= _SETTLED_AT_ONCE:
                self._look_at = 0
                break
        return letters

    def _settle(self, digest: bytes, configuration: Configuration, now: int) -> list[Letter]:
        matter = self._open.get(digest)
        if matter is None:
            return []
        request, state = matter.request, matter.state(configuration.approvers, configuration.policy.digest, now)
        if state == "waiting" and is_refused(request, self.revocations):
            matter.final = state = "void"
        if state == "waiting":
            self._look_at = min(self._look_at, request.expires_at)
            return []
        if digest not in self._seen_settled:
            self.approvals.waiting.close(request)
        if request.approval_id in self._settled.used():
            self._forget(digest)
            return []
        since = self._seen_settled.setdefault(digest, now)
        marks = [decision.mark for decision in matter.decisions.values()]
        is_due = request.worker == self._worker or now - since >= TAKE_OVER_MS
        if not is_due or not self._tell(marks, now, records.approval_settled(matter, state, now)):
            self._look_at = 0
            return []
        if state != "approved":
            matter.final = state
        self._note_told(request.approval_id, request, now)
        self._forget(digest)
        notice = Notice("approval_settled", now, approval=digest[:8])
        keepers = {(request.actor or request.agent_id, request.actor_key or request.run_key)}
        if request.actor:  # another run of it may have asked the same
            keepers |= {(peer.agent_id, peer.run_public_key) for peer in self._peers.of_agent(request.actor)}
        return letters_to(sorted(keepers), notice)

    def _tell(self, marks: Iterable[str], now: int, *also: AuditRecord) -> bool:
        """Record decisions that were not recorded yet, also not by another worker of this host or before a restart."""
        told = self._settled.used()
        found = {mark: self._untold[mark] for mark in marks if mark in self._untold}
        noted = [
            records.approval_decided(request, decision, self._cache.redact(decision.reason), now)
            for mark, (request, decision, _) in found.items()
            if mark not in told
        ]
        if (noted or also) and not self._record([*noted, *also]):
            return False
        for mark, (request, decision, _) in found.items():
            del self._untold[mark]
            if mark not in told:
                if decision.verdict == "deny":  # so that it holds after a restart, whatever the queue shows then
                    self._note_told(request.denial_mark, request, now + _DENIED_MS)
                self._note_told(mark, request, now)
        return True

    def _note_told(self, mark: str, request: ApprovalRequest, until: int) -> None:
        with suppress(AuditError):  # then the next process records it once more; this one does not
            self._settled.use(mark, request.request_id.hex(), max(until, request.expires_at))

    def _forget(self, digest: bytes) -> None:
        self._open.pop(digest, None)
        self.unpublished.pop(digest, None)
        self._announced.discard(digest)
        self._seen_settled.pop(digest, None)

    def poll(self, configuration: Configuration, now: int) -> list[Letter]:
        """Look for new revocations in the broker's file, and settle what is due.

        Returns:
            Notices to send.
        """
        self._keep()
        letters = self.revoke(self._log.poll(), now)
        self._record_in_the_end(())
        self.leases.book.purge(now)
        self._recall.tell_vaults()
        if now >= self._purge_at:
            self._purge_at = now + _PURGE_EVERY_MS
            self.approvals.book.purge(now)
        with suppress(AuditError):  # the counts are kept, and the letters must not be lost
            self._tally.record_due(self._sink.append, now)
        letters += self.settle(configuration, now)
        self._tell([mark for mark, (*_, since) in self._untold.items() if now - since >= TAKE_OVER_MS], now)
        return letters

    def _keep(self) -> None:
        """Write orders that came over the queue into the broker's own file; what fails is tried again."""
        while self._unkept:
            try:
                self._log.append(next(iter(self._unkept)))
            except BrokerError:
                return
            del self._unkept[next(iter(self._unkept))]

    def revoke(self, revocations: Iterable[Revocation], now: int) -> list[Letter]:
        """Put orders in force, end the leases that they are about, and say whom to tell.

        They hold at once, whether or not the audit can be written.
        """
        changed = [revocation for revocation in revocations if self.revocations.apply(revocation)]
        letters, noted = list[Letter](), list[AuditRecord]()
        leases = {holding.lease.lease_id: holding for holding in self.leases.book} if changed else {}
        for revocation in changed:
            noted.append(records.revoked(revocation, self._cache.redact(revocation.reason), now))
            if revocation.order == "revoke":
                told, ended = self._recall.end(revocation, leases, now)
                letters, noted = letters + told, noted + ended
        if noted:
            self._record_in_the_end(noted)
            self._look_at = 0  # what was asked may be void
        self._recall.tell_vaults()
        return letters

    def inherit(self, holdings: Sequence[Holding], now: int) -> list[Letter]:
        """Take over open leases of workers that are gone, and end those that were revoked meanwhile.

        Returns:
            Notices to send.
        """
        self.leases.book.inherit(holdings)
        letters, noted = self._recall.end_refused(holdings, self.revocations, now)
        self._record_in_the_end(noted)
        self._recall.tell_vaults()
        return letters

    def _record_in_the_end(self, noted: Iterable[AuditRecord]) -> None:
        """Record what is in force already: what the audit does not take now it is told again."""
        self._unrecorded += noted
        while self._unrecorded and self._record(self._unrecorded[:_RECORDED_AT_ONCE]):
            del self._unrecorded[:_RECORDED_AT_ONCE]

    def _record(self, noted: Sequence[AuditRecord], kind: tuple[str, ...] | None = None, now: int = 0) -> bool:
        """Record; what anybody can cause without end is counted. False if the audit does not take it now."""
        if kind is not None and not self._tally.is_first(kind, noted[0], now):
            return True
        try:
            self._sink.append(noted)
        except AuditError:
            self._tally.not_recorded(noted)
            return False
        return True


def _is_long_over(request: ApprovalRequest, now: int) -> bool:
    """Whether what was recorded of a request may be forgotten: whoever owns the queue can show it again for ever."""
    return now >= request.expires_at + KEPT_MS
