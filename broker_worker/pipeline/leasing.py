"""Every release has a lease; a run can renew it up to its hard end, or give it back."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.messages import Release, Renew, Way
from agent_sdk.wire.tokens import RunIdentity
from broker_worker.core.configuration import Configuration
from broker_worker.core.leases import MAX_LEASE_MS, Holding, Lease, LeaseBook, LeaseMint
from broker_worker.core.places import changes_with, is_older, versioned_part
from broker_worker.core.policy import Decision, decide
from broker_worker.core.revocations import Revocations
from broker_worker.pipeline.batch import Ask, Case
from broker_worker.ports import CachedValue

_ENDED = 32_768
"""How many leases that ended before their time are remembered, so that they are not renewed."""
_SUPERSEDED = 32_768
"""Of how many places the last write is remembered."""
_HEARD_MS = 5_000
"""How long a worker may go on serving an older value until it hears of a write, ms."""
_NOBODY_ASKED = Decision(True, "given_back")
_OWN_WAYS: Sequence[Way] = ("value", "env", "file")
"""The ways in which a run can have a value itself: its lease goes on as long as one of them is allowed."""


class _Write(NamedTuple):
    """The last write to a place, or to an item or a secret.

    Args:
        at: when, ms since the epoch; -1 for none.
        heard_at: until when this worker may have served what was there before.
        ref: the place.
        version: the new version; None if nobody knows it.
    """

    at: int = -1
    heard_at: int = -1
    ref: str = ""
    version: str | None = None


class Leases:
    """Opens, renews and ends leases.

    Args:
        mint: makes leases and tells true ones.
        revocations: what must not be served any more.
    """

    def __init__(self, mint: LeaseMint, revocations: Revocations) -> None:
        self.book = LeaseBook()
        self._mint = mint
        self._revocations = revocations
        self._ended: OrderedDict[str, tuple[Code, str]] = OrderedDict()
        self._superseded: OrderedDict[str, _Write] = OrderedDict()
        self._written: OrderedDict[str, _Write] = OrderedDict()

    def open(
        self, ask: Ask, case: Case, known: CachedValue, expires_at: int, now: int, *, renewable: bool = True
    ) -> None:
        """Put a release under a lease: the one that the run has for this version, else a new one.

        Args:
            ask: the request.
            case: the name that is released.
            known: its value.
            expires_at: until when the value may be used, ms since the epoch.
            now: the time, ms since the epoch.
            renewable: whether a new lease may be renewed; one of a value that is past its time may not.
        """
        if case.holding is not None:  # settled before, and prepared anew
            return
        identity, version, actor = ask.identity, known.fetched.version, None
        if ask.actor is not None:
            actor = (ask.actor.agent_id, ask.actor.run_public_key)
        run_key = identity.run_public_key
        held = self.book.held(run_key, case.name, version, now, actor)
        is_same = held is not None and held.upstream == known.fetched.upstream_lease
        if held is not None and is_same and held.lease.ends_at >= expires_at:
            self.book.use(held, expires_at)
            case.holding = held
            return
        ends_at = expires_at
        if renewable:
            ends_at = self._hard_end(case, identity.expires_at, expires_at, now)
            ends_at = max(expires_at, ends_at if known.lent_until is None else min(ends_at, known.lent_until))
        keeper = actor or (identity.agent_id, run_key)  # only who has the value can renew the lease or give it back
        lease = self._mint.issue(*keeper, case.name, version, now, ends_at, for_others=actor is not None)
        holding = Holding(
            identity.agent_id,
            identity.run_id,
            identity.token_id,
            run_key,
            lease,
            expires_at,
            upstream=known.fetched.upstream_lease,
            scheme="" if case.entry is None else case.entry.ref.partition("://")[0],
            actor=actor,
        )
        if ask.actor is not None:
            holding.actor_run, holding.actor_token = ask.actor.run_id, ask.actor.token_id
        self.book.note(holding)
        case.holding = holding

    @staticmethod
    def _hard_end(case: Case, token_ends: int, expires_at: int, now: int) -> int:
        """How far a lease can be renewed: what people allowed once, or for a time, is not prolonged without them."""
        grant = case.decision.grant
        longest = MAX_LEASE_MS if grant is None or grant.max_ttl is None else grant.max_ttl * 1000
        ends_at = min(token_ends, now + longest)
        if case.approval is None:
            return ends_at
        allowed_until = case.approval.ends_at
        return expires_at if case.approval.request.grant == "once" else min(ends_at, allowed_until or ends_at)

    def end(self, holding: Holding, code: Code, reason: str) -> None:
        """End a lease before its time.

        Args:
            holding: the lease.
            code: what a run is answered that would renew it.
            reason: why, for the audit.
        """
        self.book.end(holding)
        self._ended[holding.lease.lease_id] = (code, reason)
        if len(self._ended) > _ENDED:
            self._ended.popitem(last=False)

    def open_cases(self, ask: Ask, configuration: Configuration, now: int) -> None:
        """Decide a request to renew or to give back a lease: only who has the value can ask for that."""
        body, identity = ask.request.body, ask.sender
        assert isinstance(body, Renew | Release)
        try:
            lease = self._mint.read(body.lease, identity.agent_id, identity.run_public_key)
        except WireError:
            ask.refuse(Code.INVALID, "unknown_lease")
            return
        if lease.for_others:
            self._open_case_for_others(ask, lease, configuration)
            return
        known = self.book.held(identity.run_public_key, lease.name, lease.version, 0)
        is_known = known is not None and known.lease.token == lease.token
        holding = known if is_known else self.book.inherited(identity.run_public_key, lease)
        if holding is None:
            holding = Holding(
                identity.agent_id, identity.run_id, identity.token_id, identity.run_public_key, lease, lease.ends_at
            )
        case = Case(lease.name, _NOBODY_ASKED, configuration.entry_of(lease.name), is_counted=False, holding=holding)
        case.version = lease.version
        ask.cases = [case]
        if isinstance(body, Renew):
            self._decide_renewal(ask, case, holding, configuration, now)

    def _open_case_for_others(self, ask: Ask, lease: Lease, configuration: Configuration) -> None:
        """Who acts for a run can give its lease back. To go on it asks anew, as only what the run shows says if it may.

        A worker that does not know the lease cannot say whose it is, and leaves it to its end.
        """
        holding = self.book.held_for_others(lease)
        case = Case(lease.name, _NOBODY_ASKED, configuration.entry_of(lease.name), is_counted=False, holding=holding)
        case.version = lease.version
        ask.cases = [case]
        if isinstance(ask.request.body, Renew):
            case.refuse(Code.DENIED, "held_for_another_run")
        elif holding is None:
            case.refuse(*self._ended.get(lease.lease_id, (Code.EXPIRED, "lease_not_known")))
        else:
            ask.actor = ask.sender
            ask.identity = RunIdentity(
                "",
                holding.agent_id,
                holding.run_id,
                holding.run_key,
                holding.token_id,
                lease.issued_at,
                lease.ends_at,
            )

    def _decide_renewal(self, ask: Ask, case: Case, holding: Holding, configuration: Configuration, now: int) -> None:
        identity, lease = ask.identity, holding.lease
        for way in _OWN_WAYS:
            case.decision = decide(
                configuration.policy,
                identity.agent_id,
                identity.run_id,
                lease.name,
                purpose="renewal",
                now=now,
                in_scope=identity.scope is None or identity.in_scope(lease.name),
                way=way,
            )
            if case.decision.allowed:
                break
        if not case.decision.allowed or case.entry is None:
            case.refuse(Code.DENIED, case.decision.reason if case.entry else "unknown_secret")
        elif self._is_revoked(holding):
            case.refuse(Code.REVOKED, "lease_revoked")
        elif self.is_superseded(case.entry.ref, lease):
            case.refuse(Code.EXPIRED, "superseded")
        elif lease.lease_id in self._ended:
            case.refuse(*self._ended[lease.lease_id])
        elif now >= min(holding.expires_at, lease.ends_at):
            case.refuse(Code.EXPIRED, "lease_over")

    def supersede(self, ref: str, version: str | None, at: int, heard_at: int | None = None) -> None:
        """Note that a place has another value: leases of what it had before are renewed no more.

        Args:
            ref: the place.
            version: the new version; None if nobody knows it.
            at: when, ms since the epoch.
            heard_at: when this worker dropped its copies of what was there before; None for at once.
        """
        write = _Write(at, max(at, heard_at or at), ref, version)
        for known, key in ((self._superseded, ref), (self._written, versioned_part(ref))):
            if at < known.get(key, _Write()).at:  # told late, or once more: what was written since holds
                continue
            known[key] = write
            known.move_to_end(key)
            if len(known) > _SUPERSEDED:
                known.popitem(last=False)

    def written_at(self, ref: str) -> int:
        """When a place, or another part of its item or secret, was last written, ms; -1 if nobody knows of that."""
        return self._written.get(versioned_part(ref), _Write()).at

    def is_superseded(self, ref: str, lease: Lease) -> bool:
        """Whether a lease is of an older version than one that was written to its place, its item or its secret."""
        writes = (self._superseded.get(ref), self._written.get(versioned_part(ref)))
        return any(write is not None and _is_before(ref, lease, write) for write in writes)

    def _is_revoked(self, holding: Holding) -> bool:
        lease, revocations = holding.lease, self._revocations
        return not revocations.is_empty and (
            revocations.of_lease(lease.lease_id) is not None
            or revocations.of_secret(lease.name, lease.version) is not None
        )

    def settle(self, ask: Ask, configuration: Configuration, known: CachedValue | None, now: int) -> None:
        """Renew or give back, once the request was admitted.

        Args:
            ask: a request to renew or to give back.
            configuration: the files in force.
            known: the value that the cache has for the name now; another version of it is not renewed.
            now: the time, ms since the epoch.
        """
        (case,) = ask.cases
        if case.code is not None:
            return
        holding = case.holding
        assert holding is not None
        if isinstance(ask.request.body, Release):
            self.end(holding, Code.EXPIRED, "lease_given_back")
        elif known is not None and known.fetched.version != holding.lease.version:
            case.refuse(Code.EXPIRED, "superseded")
        else:
            assert case.entry is not None
            case.expires_at = min(now + configuration.ttl_of(case.entry) * 1000, holding.lease.ends_at)
            self.book.renew(holding, case.expires_at)


def _is_before(ref: str, lease: Lease, write: _Write) -> bool:
    """Whether a lease is of what a place had before a write.

    A version that is counted and smaller tells. Others tell only that they differ, and a later change may not be the
    broker's: then it counts whether the lease was opened while its worker could have an older copy.
    """
    if lease.version == write.version is not None:
        return False
    if not changes_with(ref, write.ref, versioned=write.version is not None and lease.version is not None):
        return False
    older = is_older(lease.version, write.version)
    return bool(older) or lease.issued_at <= (write.heard_at if older is None else write.at) + _HEARD_MS
