"""How far an operator's order reaches: which leases it ends, and which runs must be told."""

from collections.abc import Mapping, Sequence

from broker_worker.core.leases import Holding, LeaseBook
from broker_worker.core.revocations import Revocation, Revocations
from broker_worker.pipeline.peers import PeerCache


def ended_by(revocation: Revocation, leases: Mapping[str, Holding]) -> list[Holding]:
    """The open leases that an order ends.

    Args:
        revocation: an order to revoke.
        leases: the open leases that this worker knows, by their id.
    """
    if revocation.kind == "lease":  # there may be thousands of such orders at once
        return [leases[revocation.subject]] if revocation.subject in leases else []
    return [holding for holding in leases.values() if _is_about(revocation, holding)]


def order_about(holding: Holding, revocations: Revocations) -> Revocation | None:
    """The order in force by which a lease is over, if there is one.

    Args:
        holding: the lease.
        revocations: what must not be served any more.
    """
    if revocations.is_empty:
        return None
    lease = holding.lease
    order = revocations.of_run(holding.agent_id, holding.run_id, holding.token_id)
    if order is None and holding.actor is not None:
        order = revocations.of_run(holding.actor[0], holding.actor_run, holding.actor_token)
    return order or revocations.of_secret(lease.name, lease.version) or revocations.of_lease(lease.lease_id)


def sharing_with(ended: Sequence[Holding], book: LeaseBook) -> list[Holding]:
    """The other open leases of the credentials that an order ends: a vault cannot end one for a single holder."""
    upstreams = {holding.upstream for holding in ended if holding.upstream is not None}
    ids = {holding.lease.lease_id for holding in ended} if upstreams else set()
    sharing = [holding for upstream in sorted(upstreams) for holding in book.sharing(upstream)]
    return [holding for holding in sharing if holding.lease.lease_id not in ids]


def runs_reached(revocation: Revocation, ended: Sequence[Holding], peers: PeerCache) -> set[tuple[str, bytes]]:
    """The runs that an order about a run, an agent or a token concerns, by agent and run key.

    Args:
        revocation: the order.
        ended: the leases that it ends.
        peers: the runs that this worker has heard of.
    """
    runs = {holding.keeper for holding in ended if _is_about_keeper(revocation, holding)}
    for peer in peers.of_agent(_agent_of(revocation)):
        if any(_is_of_run(revocation, peer.agent_id, each.run_id, each.token_id) for each in peer.identities()):
            runs.add((peer.agent_id, peer.run_public_key))
    return runs


def _is_about(revocation: Revocation, holding: Holding) -> bool:
    lease = holding.lease
    if revocation.kind == "secret":
        return lease.name == revocation.subject and revocation.version in (None, lease.version)
    is_about_run = _is_of_run(revocation, holding.agent_id, holding.run_id, holding.token_id)
    return is_about_run or _is_about_keeper(revocation, holding)


def _is_about_keeper(revocation: Revocation, holding: Holding) -> bool:
    """Whether who has the value is refused from now on, and not only the run that it was asked for."""
    if holding.actor is None:
        return _is_of_run(revocation, holding.agent_id, holding.run_id, holding.token_id)
    return _is_of_run(revocation, holding.actor[0], holding.actor_run, holding.actor_token)


def _is_of_run(revocation: Revocation, agent_id: str, run_id: str, token_id: str) -> bool:
    subject = {"agent": agent_id, "run": f"{agent_id}/{run_id}", "token": token_id}.get(revocation.kind)
    return subject == revocation.subject


def _agent_of(revocation: Revocation) -> str | None:
    """The agent that an order is about; None if it may be any."""
    return None if revocation.kind == "token" else revocation.subject.partition("/")[0]
