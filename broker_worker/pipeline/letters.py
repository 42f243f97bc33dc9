"""Notices: what a run is told without having asked, sealed to its key like a reply."""

from collections.abc import Iterable
from dataclasses import dataclass

from agent_sdk.wire import keynames
from agent_sdk.wire.messages import NOTICE, Notice
from agent_sdk.wire.sealing import Kind, Sealer, derive_key, run_exchange_public
from broker_worker.pipeline.session import Nonces, Session


@dataclass(frozen=True, slots=True)
class Letter:
    """A notice to one run, sealed only when it is sent: one order can be about tens of thousands.

    Args:
        notice: what happened.
        agent_id: the run's agent.
        run_key: the run's Ed25519 public key, from a verified token.
    """

    notice: Notice
    agent_id: str
    run_key: bytes

    @property
    def reply_stream(self) -> str:
        """Where it goes."""
        return keynames.replies(self.agent_id, keynames.fingerprint(self.run_key))

    def seal(self, session: Session, nonces: Nonces) -> bytes:
        """The envelope, whether or not this worker has heard of the run before.

        Args:
            session: the worker's session key.
            nonces: for sealing.

        Raises:
            WireError: if the key is nobody's, such as that of a static token: such a run cannot be told.
        """
        exchange = run_exchange_public(self.run_key)
        key = derive_key(Kind.NOTICE, session.secret, session.public, exchange, peer=exchange)
        sealer = Sealer(Kind.NOTICE, key, session.certificate, self.run_key, self.reply_stream)
        return sealer.seal(NOTICE.encode(self.notice), nonces.draw())


def letters_to(keepers: Iterable[tuple[str, bytes]], notice: Notice) -> list[Letter]:
    """One notice to several runs.

    Args:
        keepers: agent and Ed25519 public key of each.
        notice: what happened.
    """
    return [Letter(notice, agent_id, run_key) for agent_id, run_key in keepers]
