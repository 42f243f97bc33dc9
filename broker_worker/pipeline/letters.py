"""Notices: what a run is told without having asked, sealed to its key like a reply."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import NOTICE, Notice
from agent_sdk.wire.sealing import Kind, Sealer, derive_key, run_exchange_public
from broker_worker.pipeline.session import Nonces, Session


@dataclass(frozen=True, slots=True)
class Letter:
    """A sealed notice and where it goes."""

    reply_stream: str
    envelope: bytes


def seal_notice(notice: Notice, agent_id: str, run_key: bytes, session: Session, nonces: Nonces) -> Letter:
    """Seal a notice to a run, whether or not this worker has heard of it before.

    Args:
        notice: what happened.
        agent_id: the run's agent.
        run_key: the run's Ed25519 public key, from a verified token.
        session: the worker's session key.
        nonces: for sealing.

    Raises:
        WireError: if the key is none.
    """
    stream = keynames.replies(agent_id, keynames.fingerprint(run_key))
    exchange = run_exchange_public(run_key)
    key = derive_key(Kind.NOTICE, session.secret, session.public, exchange, peer=exchange)
    sealer = Sealer(Kind.NOTICE, key, session.certificate, run_key, stream)
    return Letter(stream, sealer.seal(NOTICE.encode(notice), nonces.draw()))


def seal_notices(
    notice: Notice, keepers: Iterable[tuple[str, bytes]], session: Session, nonces: Nonces
) -> list[Letter]:
    """Seal a notice to several runs; one whose key is nobody's, such as that of a static token, cannot be told.

    Args:
        notice: what happened.
        keepers: agent and Ed25519 public key of each.
        session: the worker's session key.
        nonces: for sealing.
    """
    letters: list[Letter] = []
    for agent_id, run_key in keepers:
        with suppress(WireError):
            letters.append(seal_notice(notice, agent_id, run_key, session, nonces))
    return letters
