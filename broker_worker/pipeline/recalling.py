"""Taking back what runs hold: leases end early, whoever has the value is told, and vaults end what they made for it."""

from collections.abc import Sequence

from agent_sdk.wire.audit import AuditRecord
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Notice, lease_id
from broker_worker.core.leases import Holding
from broker_worker.core.revocations import Revocation, Revocations
from broker_worker.pipeline import records
from broker_worker.pipeline.leasing import Leases
from broker_worker.pipeline.letters import Letter, letters_to
from broker_worker.pipeline.peers import PeerCache
from broker_worker.pipeline.reach import ended_by, order_about, runs_reached, sharing_with
from broker_worker.ports import Cache, JobQueue


class Recall:
    """Ends leases before their time.

    Args:
        leases: what runs hold.
        cache: values between two uses.
        peers: the runs that this worker has heard of.
        jobs: takes what may be late.
    """

    def __init__(self, leases: Leases, cache: Cache, peers: PeerCache, jobs: JobQueue) -> None:
        self._leases = leases
        self._cache = cache
        self._peers = peers
        self._jobs = jobs

    def end(
        self, revocation: Revocation, leases: dict[str, Holding], now: int
    ) -> tuple[list[Letter], list[AuditRecord]]:
        """End the leases that an order is about.

        Args:
            revocation: an order to revoke.
            leases: the open leases that it may be about, by their id; those that it ends are taken out.
            now: the time, ms since the epoch.

        Returns:
            Notices to send, and what the audit must be told.
        """
        ended = ended_by(revocation, leases)
        also = sharing_with(ended, self._leases.book)
        letters = self._letters(revocation, ended, now) + self._lease_letters(also, now)
        for holding in (*ended, *also):
            leases.pop(holding.lease.lease_id, None)
            self._leases.end(holding, Code.REVOKED, "lease_revoked")
        return letters, [records.lease_ended(holding, revocation, now) for holding in (*ended, *also)]

    def end_refused(
        self, holdings: Sequence[Holding], revocations: Revocations, now: int
    ) -> tuple[list[Letter], list[AuditRecord]]:
        """End those of some open leases that are refused by now.

        Args:
            holdings: the leases.
            revocations: what must not be served any more.
            now: the time, ms since the epoch.

        Returns:
            Notices to send, and what the audit must be told.
        """
        letters, noted, over = list[Letter](), list[AuditRecord](), set[str | None]()
        refused: dict[Revocation, list[Holding]] = {}
        for holding in holdings:
            order = order_about(holding, revocations)
            if order is not None:
                refused.setdefault(order, []).append(holding)
        for order, about in refused.items():  # each with its own: thousands of orders may be in force
            leases = {each.lease.lease_id: each for each in about if each.lease.lease_id not in over}
            told, ended = self.end(order, leases, now)
            letters += told
            noted += ended
            over |= {record.lease_id for record in ended}
        return letters, noted

    def tell_vaults(self) -> None:
        """Have vaults take back what they made and nobody holds any more; it is not served from the cache either."""
        over = {holding.upstream: holding for holding in self._leases.book.take_over() if holding.upstream is not None}
        if not over:
            return
        self._cache.forget_lent(over.keys())
        for upstream, holding in over.items():
            self._jobs.enqueue("revoke_upstream", {"scheme": holding.scheme, "upstream_lease": upstream})

    def _letters(self, revocation: Revocation, ended: Sequence[Holding], now: int) -> list[Letter]:
        if revocation.kind in ("secret", "lease"):
            return self._lease_letters(ended, now)
        runs = runs_reached(revocation, ended, self._peers)
        kept_by_others = [holding for holding in ended if holding.keeper not in runs]
        letters = self._lease_letters(kept_by_others, now)
        return letters + letters_to(sorted(runs), Notice("run_revoked", now))

    def _lease_letters(self, ended: Sequence[Holding], now: int) -> list[Letter]:
        letters: list[Letter] = []
        for holding in ended:
            lease = holding.lease
            notice = Notice("lease_revoked", now, name=lease.name, lease_id=lease_id(lease.token))
            letters += letters_to([holding.keeper], notice)
        return letters
