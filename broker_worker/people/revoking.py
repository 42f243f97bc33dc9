"""Orders to refuse a run, an agent, a secret, a lease or a token, or to serve it again.

An order is signed with the control key, written into the broker's own file first and put onto the queue then: the file
keeps it, whatever the queue forgets, and the queue takes it to workers on other hosts.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Literal

import nacl.bindings as sodium

from broker_worker.core.control import revocation_message
from broker_worker.core.errors import BrokerError, QueueError, SetupError
from broker_worker.core.revocations import MAX_AT, Kind, Revocation, Revocations, check_subject, sign_revocation
from broker_worker.files.keys import control_public, ensure_control_seed
from broker_worker.people.announcing import announce
from broker_worker.settings import Settings
from broker_worker.state.revocation_file import RevocationFile

MAX_TEXT = 256

Order = Literal["revoke", "reinstate"]
Subject = tuple[str, str | None]
"""A subject and, of a secret, its version."""


class NotRevokedError(BrokerError):
    """What is to be served again was not refused."""

    code = "not_revoked"


class NotAnnouncedError(QueueError):
    """Orders are written and in force on this host, but the queue did not take them to others.

    Args:
        revocations: the orders, at least one.
        problem: what the queue said.
    """

    code = "not_announced"

    def __init__(self, revocations: Sequence[Revocation], problem: str) -> None:
        first, more = revocations[0], len(revocations) - 1
        super().__init__(
            f"{first.label}{f' and {more} more' if more else ''}: written and in force on this host,"
            f" but the queue did not take it to others ({problem})",
            hint="workers elsewhere learn of it when the same order is given again and the queue is back",
        )
        self.revocations = tuple(revocations)

    @property
    def revocation(self) -> Revocation:
        """The first of the orders."""
        return self.revocations[0]


async def revoke(
    settings: Settings, kind: Kind, subject: str, *, version: str | None = None, reason: str, by: str
) -> Revocation:
    """Have every worker refuse a subject from now on, end its open leases, and tell whoever holds them.

    Args:
        settings: the installation.
        kind: what `subject` is.
        subject: as in `core.revocations.Revocation`.
        version: of a secret: only this version of it.
        reason: in the operator's words, 1 to 256 characters.
        by: who gives the order, 1 to 256 characters.

    Returns:
        The order, which is in force.

    Raises:
        WireError: if the subject is not of the form that its kind has; nothing is written.
        SetupError: if the control key or the file cannot be used; the order is then not in force.
        NotAnnouncedError: if it is in force, but on this host only.
    """
    (revocation,) = await _give(settings, "revoke", kind, [(subject, version)], reason, by)
    return revocation


async def revoke_all(
    settings: Settings, kind: Kind, subjects: Sequence[str], *, reason: str, by: str
) -> Sequence[Revocation]:
    """Revoke several subjects of a kind, such as all leases of a secret, by one write; otherwise like `revoke`.

    Either all of them are in force, or, if it raises anything but `NotAnnouncedError`, none need be.
    """
    return await _give(settings, "revoke", kind, [(subject, None) for subject in subjects], reason, by)


async def reinstate(
    settings: Settings, kind: Kind, subject: str, *, version: str | None = None, reason: str, by: str
) -> Revocation:
    """Have a subject that was revoked served again, as far as the policy allows it. Leases that ended stay ended.

    Args and what else it raises are those of `revoke`.

    Raises:
        NotRevokedError: if no order in force refuses exactly this subject.
    """
    (revocation,) = await _give(settings, "reinstate", kind, [(subject, version)], reason, by)
    return revocation


def orders_of(settings: Settings) -> Revocations:
    """The orders in force, as the broker's own file has them.

    Raises:
        SetupError: if the control key's public half or the file cannot be used.
    """
    public = control_public(settings.keys_dir, settings.revocations_file)
    orders = Revocations()
    for revocation in RevocationFile(settings.revocations_file, public).poll():
        orders.apply(revocation)
    return orders


async def _give(
    settings: Settings, order: Order, kind: Kind, subjects: Sequence[Subject], reason: str, by: str
) -> list[Revocation]:
    for subject, version in subjects:
        check_subject(kind, subject, version)
    for text, what in ((reason, "the reason"), (by, "who gives the order")):
        if not 0 < len(text) <= MAX_TEXT:
            hint = "say it shorter" if text else "say it: it stands in the audit"
            raise SetupError(f"{what} has {len(text)} characters; 1 to {MAX_TEXT} are expected", hint=hint)
    if not subjects:
        return []
    revocations, signed = await asyncio.to_thread(_write, settings, order, kind, subjects, reason, by)
    problem = await announce(settings, [revocation_message(each) for each in signed])
    if problem:
        raise NotAnnouncedError(revocations, problem)
    return revocations


def _write(
    settings: Settings, order: Order, kind: Kind, subjects: Sequence[Subject], reason: str, by: str
) -> tuple[list[Revocation], list[bytes]]:
    seed = ensure_control_seed(settings.keys_dir, settings.revocations_file)
    public, secret = sodium.crypto_sign_seed_keypair(seed)
    known = orders_of(settings)
    revocations = []
    for subject, version in subjects:
        newest = known.newest(kind, subject, version)
        if order == "reinstate" and (newest is None or newest.order != "revoke"):
            label = f"{kind} {subject}" + ("" if version is None else f", version {version},")
            raise NotRevokedError(f"{label} is not revoked", hint="`secret-broker revocations` lists what is")
        now = time.time_ns() // 1_000_000
        revocation = Revocation(
            revocation_id=secrets.token_hex(8),
            order=order,
            kind=kind,
            subject=subject,
            version=version,
            at=now if newest is None else min(max(now, newest.at + 1), MAX_AT),  # it holds, also if the clock went back
            reason=reason,
            by=by,
        )
        revocations.append(revocation)
    signed = [sign_revocation(revocation, secret) for revocation in revocations]
    RevocationFile(settings.revocations_file, public).append_all(signed)
    return revocations, signed
